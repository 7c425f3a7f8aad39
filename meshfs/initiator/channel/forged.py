"""Decide about a reply that the channel refuses: was it forged, or did the exporter make a mistake? Pure.

A wrong signature has three causes. Something between the two nodes changed the message, or somebody else sent it, or
the exporter no longer has the session and its key. In the third case the exporter answers USER_SESSION_DELETED, marks
the reply as signed, and leaves the signature zero. The first two cases get an error type of their own and are counted,
because an honest network has none of them.
"""

from typing import Final

from meshfs.errors import ForgedMessage, RemoteProtocolError
from meshfs.smb.connection import Message, Protection
from meshfs.smb.constants import NtStatus

_SESSION_DELETED: Final = int(NtStatus.USER_SESSION_DELETED)
_NO_SIGNATURE: Final = bytes(16)


def what_is_wrong(message: Message, mistake: str) -> RemoteProtocolError:
    """Return the error to end a channel with. ``mistake`` says what is wrong if the signature is right."""
    if message.protection != Protection.BAD:
        return RemoteProtocolError(mistake)
    if message.status == _SESSION_DELETED and bytes(message.view[48:64]) == _NO_SIGNATURE:
        return RemoteProtocolError("the exporter says, without a signature, that it does not have our session")
    return ForgedMessage(
        f"the reply to request {message.message_id} came with a wrong signature: "
        "it was changed on its way, or comes from somebody else"
    )
