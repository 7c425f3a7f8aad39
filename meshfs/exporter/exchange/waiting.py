"""Keeps asynchronous requests, which wait for an event, as LOCK and CHANGE_NOTIFY do (MS-SMB2 3.3.4.2)."""

from collections.abc import Callable

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.state.session import Session
from meshfs.smb.constants import NtStatus


class AsyncCommand:
    """Represents an asynchronous request without an answer. The connection finds it by AsyncId and by message id."""

    __slots__ = ("_abort", "request")

    def __init__(self, request: Request, abort: Callable[[], None]) -> None:
        self.request = request
        self._abort = abort

    @property
    def session(self) -> Session:
        """Return the session of the request. No other session may cancel the request."""
        return self.request.session

    @property
    def message_id(self) -> int:
        """Return the message id of the request."""
        return self.request.message.message_id

    @property
    def channel_sequence(self) -> int:
        """Return the ChannelSequence that the request was sent with."""
        return self.request.message.channel_sequence

    def cancel(self) -> None:
        """Give up waiting and answer with CANCELLED."""
        self.end(NtStatus.CANCELLED)

    def end(self, status: int) -> None:
        """Give up waiting and answer with ``status``."""
        self._abort()
        self.request.fail(status)


def wait(request: Request, abort: Callable[[], None]) -> AsyncCommand:
    """Send the interim reply of a request that is answered later, by `Request.reply`.

    ``abort`` is called when a CANCEL, or the end of the open or of the connection, ends the wait. Raises StatusError if
    too many requests wait, or if others of the same compound follow.
    """
    if not request.may_wait:
        raise StatusError(NtStatus.INSUFFICIENT_RESOURCES, "too many requests of the connection wait")
    if not request.is_last:
        raise StatusError(NtStatus.INTERNAL_ERROR, "only the last request of a compound may wait")
    waiting = AsyncCommand(request, abort)
    request.go_asynchronous(waiting)
    return waiting
