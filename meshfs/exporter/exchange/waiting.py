"""Requests that wait for an event, as LOCK and CHANGE_NOTIFY do: they go asynchronous (MS-SMB2 3.3.4.2)."""

from collections.abc import Callable

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.state.session import Session
from meshfs.smb.constants import NtStatus


class AsyncCommand:
    """An asynchronous request that was not answered yet. Its connection has it by AsyncId and by message id."""

    __slots__ = ("_abort", "request")

    def __init__(self, request: Request, abort: Callable[[], None]) -> None:
        self.request = request
        self._abort = abort

    @property
    def session(self) -> Session:
        """Whose request it is: no other session may cancel it."""
        return self.request.session

    @property
    def message_id(self) -> int:
        """The message id of the request."""
        return self.request.message.message_id

    @property
    def channel_sequence(self) -> int:
        """The ChannelSequence that the request was sent with."""
        return self.request.message.channel_sequence

    def end(self, status: int) -> None:
        """Give up waiting and answer with ``status``."""
        self._abort()
        self.request.fail(status)


def wait(request: Request, abort: Callable[[], None]) -> AsyncCommand:
    """Send the interim reply of a request that is answered later, by `Request.reply`.

    ``abort`` is called when it waits no longer: at a CANCEL, or when its open or its connection ends. Raises
    StatusError where it cannot wait, because too many do or others of its compound follow.
    """
    if not request.may_wait:
        raise StatusError(NtStatus.INSUFFICIENT_RESOURCES, "too many requests wait")
    if not request.is_last:
        raise StatusError(NtStatus.INTERNAL_ERROR, "only the last of a compound may wait")
    waiting = AsyncCommand(request, abort)
    request.go_asynchronous(waiting)
    return waiting
