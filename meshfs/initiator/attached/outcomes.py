"""What became of a request that ended without success. Pure.

Whoever sent it goes on by its type, and by nothing else:

    NotExecuted           it may go again as if it had never been sent: nothing came of it, or it changes nothing
    MayHaveBeenExecuted   a write that was lost with its channel. It goes again in the same open, marked as replayed,
                          so that the exporter lets the old one end first (MS-SMB2 3.3.5.2.10). When nobody sends it
                          again, its open has to be fenced (shared_open.py): else it could land over something newer
    Over                  it does not go again; its caller gets the error
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from meshfs.smb.constants import NtStatus
from meshfs.smb.messages import FileId


@dataclass(frozen=True, slots=True)
class NotExecuted:
    """The request may go again as a new one."""


@dataclass(frozen=True, slots=True)
class MayHaveBeenExecuted:
    """The write may be at the disk still, or be done."""

    #: The open in which it was sent.
    file_id: FileId


class Over:
    """The request has ended for its caller."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def end(self) -> NoReturn:
        """Raise the error for the caller, once.

        Nothing here refers to it afterwards: the frames in its traceback, and the data of a write in them, would else
        be kept until the garbage collector finds the circle.
        """
        error = self._error
        del self._error
        try:
            raise error
        finally:
            del error


#: What is known of earlier attempts at a request, when it goes again.
Earlier = NotExecuted | MayHaveBeenExecuted
Outcome = Earlier | Over

NOT_EXECUTED: Final = NotExecuted()


class Meaning(enum.Enum):
    """What an error status says to an initiator."""

    #: The session or a share of it is gone, whatever the connection looks like.
    SESSION_LOST = enum.auto()
    #: The open is gone: a new one is made, and the request goes again in it.
    OPEN_LOST = enum.auto()
    #: The exporter cannot do it now: the same request goes again a little later.
    BUSY = enum.auto()
    #: Anything else: the request is refused.
    REFUSED = enum.auto()


_MEANINGS: Final[Mapping[int, Meaning]] = {
    NtStatus.USER_SESSION_DELETED: Meaning.SESSION_LOST,
    NtStatus.NETWORK_SESSION_EXPIRED: Meaning.SESSION_LOST,
    NtStatus.NETWORK_NAME_DELETED: Meaning.SESSION_LOST,
    NtStatus.FILE_CLOSED: Meaning.OPEN_LOST,
    NtStatus.CANCELLED: Meaning.OPEN_LOST,
    NtStatus.INVALID_HANDLE: Meaning.OPEN_LOST,
    NtStatus.INSUFFICIENT_RESOURCES: Meaning.BUSY,
    NtStatus.REQUEST_NOT_ACCEPTED: Meaning.BUSY,
    NtStatus.FILE_NOT_AVAILABLE: Meaning.BUSY,
}


def meaning(status: int) -> Meaning:
    """Return what the status says."""
    return _MEANINGS.get(status, Meaning.REFUSED)
