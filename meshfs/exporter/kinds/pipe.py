"""Serves the named pipes of IPC$. The only pipe is `srvsvc`, which gives clients the list of shares (`srvsvc.py`)."""

from collections.abc import Callable
from typing import Final

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.at_create import Creator, answer, check_not_deleted, takes_all
from meshfs.exporter.kinds.kind import Kind, reply_to_ioctl
from meshfs.exporter.kinds.srvsvc import ShareList
from meshfs.exporter.state.open import Open, OwningSession
from meshfs.exporter.state.tree import Tree
from meshfs.smb.constants import AccessMask, CreateAction, Fsctl, NtStatus
from meshfs.smb.messages import CreateRequest, FlushResponse, IoctlRequest
from meshfs.smb.wire import READ_DATA_OFFSET, READ_RESPONSE, WRITE_RESPONSE

_SRVSVC: Final = "srvsvc"


class PipeOpen(Kind):
    """Represents a pipe that takes one message, and has the reply ready at once. ``reply_to`` makes the reply."""

    __slots__ = ("_output", "_reply_to")

    def __init__(
        self, session: OwningSession[Open], tree: Tree, file_id: int, name: str, reply_to: Callable[[bytes], bytes]
    ) -> None:
        super().__init__(session, tree, file_id, int(AccessMask.READ_DATA | AccessMask.WRITE_DATA), name)
        self._reply_to = reply_to
        self._output = b""

    def read(self, request: Request, offset: int, length: int, minimum: int) -> None:
        data, status = self._take(length)
        request.reply(READ_RESPONSE.pack(17, READ_DATA_OFFSET, 0, len(data), 0, 0) + data, status)

    def write(self, request: Request, offset: int, start: int, length: int, flags: int) -> None:
        self._output = self._reply_to(bytes(request.message.view[start : start + length]))
        request.reply(WRITE_RESPONSE.pack(17, 0, length, 0, 0, 0))

    def flush(self, request: Request) -> None:
        """Answer at once. A message that was written to the pipe was read already, so nothing is left to flush."""
        request.reply(FlushResponse().pack())

    def ioctl(self, request: Request, body: IoctlRequest) -> None:
        if body.ctl_code != Fsctl.PIPE_TRANSCEIVE:
            super().ioctl(request, body)
            return
        self._output = self._reply_to(body.input)
        data, status = self._take(body.output_bytes_max)
        reply_to_ioctl(request, body, data, status)

    def _take(self, length: int) -> tuple[bytes, int]:
        """Return up to ``length`` bytes of the output, and the status that says whether there are more."""
        data, self._output = self._output[:length], self._output[length:]
        return data, NtStatus.BUFFER_OVERFLOW if self._output else NtStatus.SUCCESS


def create(request: Request, body: CreateRequest) -> None:
    """Open a pipe. Raise StatusError if there is no such pipe, or if it must not be opened."""
    check_not_deleted(body)
    if body.name.lower() != _SRVSVC:
        raise StatusError(NtStatus.OBJECT_NAME_NOT_FOUND, f"there is no pipe {body.name!r}")
    exporter = request.peer.exporter
    shares = tuple((share.name, share.remark) for share in exporter.shares() if share.remark)
    opened = PipeOpen(request.session, request.tree, exporter.new_file_id(), body.name, ShareList(shares).answer)
    answer(request, body, opened, allowed=opened.access, action=CreateAction.OPENED)


CREATOR: Final = Creator(takes_all, create)
