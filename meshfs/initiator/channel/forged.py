"""What is wrong with a reply that the channel does not take: forged, or the exporter's own mistake. Pure.

A wrong signature has three causes. Something between the two nodes changed the message; somebody else made it; or
the exporter does not have the session any more, and so no key: then it answers with USER_SESSION_DELETED, says
that the reply is signed, and leaves the signature zero. The first two are told apart from every mistake of an
exporter, and counted: an honest network has none of them.
"""

from typing import Final

from meshfs.errors import ForgedMessage, RemoteProtocolError
from meshfs.smb.connection import Message, Protection
from meshfs.smb.constants import NtStatus

_SESSION_DELETED: Final = int(NtStatus.USER_SESSION_DELETED)
_NO_SIGNATURE: Final = bytes(16)


def what_is_wrong(message: Message, mistake: str) -> RemoteProtocolError:
    """The error to end a channel with; ``mistake`` says what is wrong where its protection is not."""
    if message.protection != Protection.BAD:
        return RemoteProtocolError(mistake)
    if message.status == _SESSION_DELETED and bytes(message.view[48:64]) == _NO_SIGNATURE:
        return RemoteProtocolError("the exporter says, without a signature, that it does not have our session")
    return ForgedMessage(
        f"the reply to request {message.message_id} came with a wrong signature: "
        "it was changed on its way, or comes from somebody else"
    )
