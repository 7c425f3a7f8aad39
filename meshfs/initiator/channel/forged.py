"""What is wrong with a reply that the channel refuses: was it forged, or is it the exporter's own mistake? Pure.

A wrong signature has three causes. Something between the two nodes changed the message, or somebody else made it, or
the exporter does not have the session any more, and so has no key. In the third case it answers with
USER_SESSION_DELETED, says that the reply is signed, and leaves the signature zero. The first two cases are told apart
from every mistake of an exporter, and counted: an honest network has none of them.
"""

from typing import Final

from meshfs.errors import ForgedMessage, RemoteProtocolError
from meshfs.smb.connection import Message, Protection
from meshfs.smb.constants import NtStatus

_SESSION_DELETED: Final = int(NtStatus.USER_SESSION_DELETED)
_NO_SIGNATURE: Final = bytes(16)


def what_is_wrong(message: Message, mistake: str) -> RemoteProtocolError:
    """The error to end a channel with; ``mistake`` says what is wrong if the signature is right."""
    if message.protection != Protection.BAD:
        return RemoteProtocolError(mistake)
    if message.status == _SESSION_DELETED and bytes(message.view[48:64]) == _NO_SIGNATURE:
        return RemoteProtocolError("the exporter says, without a signature, that it does not have our session")
    return ForgedMessage(
        f"the reply to request {message.message_id} came with a wrong signature: "
        "it was changed on its way, or comes from somebody else"
    )
