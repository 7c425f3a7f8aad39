"""Lists the outcomes of a request that ended without success. Pure.

The type alone says what its sender does next:

    NotExecuted           The request may be sent again as a new one: it was not executed, or it changes nothing.
    MayHaveBeenExecuted   It is a write that was lost with its channel. It is sent again in the same open, marked as a
                          replay, so that the exporter lets the old write end first (MS-SMB2 3.3.5.2.10). If nobody
                          sends it again, its open has to be fenced (shared_open.py). Otherwise the old write could
                          land over a newer one.
    Over                  The request is not sent again, and its caller gets the error.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from meshfs.smb.constants import NtStatus
from meshfs.smb.messages import FileId


@dataclass(frozen=True, slots=True)
class NotExecuted:
    """The request may be sent again as a new one."""


@dataclass(frozen=True, slots=True)
class MayHaveBeenExecuted:
    """The write may have been executed, or may still be under way."""

    #: The open in which the write was sent.
    file_id: FileId


class Over:
    """The request has ended for its caller."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def end(self) -> NoReturn:
        """Raise the error for the caller, once.

        This object does not refer to the error afterwards. Otherwise the two would form a reference cycle, and the
        frames of the traceback, with the data of a write, would be kept until the garbage collector runs.
        """
        error = self._error
        del self._error
        try:
            raise error
        finally:
            del error


#: What the mount knows of the earlier attempts when it sends a request again.
Earlier = NotExecuted | MayHaveBeenExecuted
Outcome = Earlier | Over

NOT_EXECUTED: Final = NotExecuted()


class Meaning(enum.Enum):
    """Says what an error status means to the sender of a request."""

    #: The exporter has ended the session or disconnected a share, even if the connection works.
    SESSION_LOST = enum.auto()
    #: The exporter has closed the open. A new one is made, and the request is sent again in it.
    OPEN_LOST = enum.auto()
    #: The exporter cannot execute the request now. The same request is sent again a little later.
    BUSY = enum.auto()
    #: The request is refused, which any other status means.
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
    """Return what an error status means to the sender of a request."""
    return _MEANINGS.get(status, Meaning.REFUSED)
