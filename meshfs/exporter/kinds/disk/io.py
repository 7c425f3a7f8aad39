"""Does the I/O of an open of a disk. It is the hot path from a request to the disk's queue and back to the reply.

    read / write / flush   check the request, and put an `IoRequest` into the disk's queue
    _..._answered          is called when the disk has answered, and lets the reply wait for a turn of its node
    _..._done              makes, signs and sends the reply in that turn (`processor.py`)

No task, event or closure is made per request. A READ's reply is built in place around the payload, which the disk put
into pooled memory. A large WRITE's payload goes to the disk from the memory that it was received into
(MS-SMB2 3.3.5.11 to 3.3.5.13).
"""

import errno
from collections.abc import Iterator
from typing import Final

from meshfs.buffers import FRAMING_BYTES, HEADROOM_BYTES, Buffer
from meshfs.disk.base import DiskRequest, Op
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.kind import Kind
from meshfs.exporter.state.disk_request import PeerDiskRequest
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.exporter.state.open import Open, OwningSession
from meshfs.exporter.state.processor import Processor
from meshfs.exporter.state.session import Session
from meshfs.exporter.state.tree import Tree
from meshfs.model import FlowKey
from meshfs.smb.connection import take_payload
from meshfs.smb.constants import AccessMask, CreateOptions, NtStatus, WriteFlags
from meshfs.smb.messages import FlushResponse
from meshfs.smb.signing import NONCE_EXPORTER
from meshfs.smb.status import status_from_errno
from meshfs.smb.wire import (
    READ_DATA_OFFSET,
    READ_RESPONSE,
    READ_RESPONSE_FRAME_BYTES,
    WRITE_RESPONSE,
    WRITE_RESPONSE_FRAME_BYTES,
    pack_read_response_frame,
    pack_write_response_frame,
)

# These are plain numbers and names, because a member of an enum costs a look-up per message.
_READ: Final = Op.READ
_WRITE: Final = Op.WRITE
_WRITE_THROUGH: Final = int(WriteFlags.WRITE_THROUGH)
_SIGNED: Final = 0x00000008
_REPLY_START: Final = HEADROOM_BYTES - READ_RESPONSE_FRAME_BYTES
_MESSAGE_START: Final = _REPLY_START + FRAMING_BYTES


class DiskIo(Kind):
    """Does the I/O of an open of a disk. ``requests`` are those of its requests that are queued or at the disk.

    When the last of them is answered after the open was closed, `drained` is called.
    """

    __slots__ = ("disk", "flow", "processor", "readable", "requests", "turn", "writable", "write_through")

    def __init__(
        self,
        session: OwningSession[Open],
        tree: Tree,
        file_id: int,
        access: int,
        disk: OfferedDisk,
        processor: Processor,
    ) -> None:
        super().__init__(session, tree, file_id, access, disk.name, disk)
        self.disk = disk
        self.readable = bool(access & (AccessMask.READ_DATA | AccessMask.EXECUTE))
        self.writable = bool(access & (AccessMask.WRITE_DATA | AccessMask.APPEND_DATA))
        self.write_through = False
        assert tree.io_class is not None, "disks are in shares of a class"
        #: The flow of the disk's queue in which the requests wait.
        self.flow = FlowKey(session.user, tree.io_class)
        #: The flow of the processor in which the replies wait.
        self.turn = processor.turns.flow(self.flow)
        self.processor = processor
        self.requests: set[IoRequest] = set()

    def drained(self) -> None:
        """Finish the close, because no request of the open is at the disk any more."""

    def set_mode(self, mode: int) -> None:
        super().set_mode(mode)
        self.write_through = bool(mode & CreateOptions.WRITE_THROUGH)

    def cancel(self, request: DiskRequest) -> bool:
        """Answer a request with CANCELLED, unless it is at the disk. Return whether it was cancelled."""
        if not self.disk.runner.cancel(request):
            return False
        request.result = -errno.ECANCELED
        request.on_done(request)
        return True

    def answered(self, request: DiskRequest) -> None:
        if isinstance(request, IoRequest):
            self.requests.discard(request)
        if self.closing and not self.requests:
            self.drained()

    def outstanding(self) -> Iterator[tuple[object, int]]:
        yield from super().outstanding()
        for request in self.requests:
            yield request, request.request.message.channel_sequence

    def is_outstanding(self, each: object) -> bool:
        return each in self.requests or super().is_outstanding(each)

    def cancel_requests_of(self, peer: object) -> None:
        for request in list(self.requests):
            if request.request.peer is peer:
                self.cancel(request)

    def read(self, request: Request, offset: int, length: int, minimum: int) -> None:
        """Queue the READ at the disk. The part past the disk's end is left out."""
        if not self.readable:
            raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to read")
        disk = self.disk
        available = disk.size_bytes - offset
        if length > available:
            length = max(available, 0)
            if not length or length < minimum:
                raise StatusError(NtStatus.END_OF_FILE, f"fewer bytes than wanted are left at {offset}")
        if length < minimum:
            raise StatusError(NtStatus.END_OF_FILE, f"the READ of {length} bytes wants at least {minimum} bytes")
        if not length:
            request.reply(READ_RESPONSE.pack(17, READ_DATA_OFFSET, 0, 0, 0, 0))
            return
        if disk.locks and not disk.locks.can_read(self, offset, length):
            raise StatusError(NtStatus.FILE_LOCK_CONFLICT, "another open has locked the range of the READ")
        peer = request.peer
        exporter = peer.exporter
        buffer = exporter.pool.acquire(length, peer.usage.memory)
        disk_request = IoRequest(_READ, offset, length, buffer, HEADROOM_BYTES, _read_answered, flow=self.flow)
        disk_request.request, disk_request.opened = request, self
        self.requests.add(disk_request)
        peer.cancellable[request.message.message_id] = disk_request
        disk.runner.add(disk_request)
        exporter.touch(disk.runner)

    def write(self, request: Request, offset: int, start: int, length: int, flags: int) -> None:
        """Queue the WRITE at the disk. Refuse a WRITE that ends past the disk's end, because disks do not grow."""
        if not self.writable:
            raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to write")
        disk = self.disk
        if offset + length > disk.size_bytes:
            raise StatusError(
                NtStatus.DISK_FULL, f"the WRITE of {length} bytes at {offset} ends behind the end of the disk"
            )
        if not length:
            request.reply(WRITE_RESPONSE.pack(17, 0, 0, 0, 0, 0))
            return
        if disk.locks and not disk.locks.can_write(self, offset, length):
            raise StatusError(NtStatus.FILE_LOCK_CONFLICT, "the range of the WRITE is locked")
        peer, message = request.peer, request.message
        exporter = peer.exporter
        buffer, start = take_payload(message, start, length, exporter.pool, peer.usage.memory)
        disk_request = IoRequest(
            _WRITE,
            offset,
            length,
            buffer,
            start,
            _write_answered,
            flow=self.flow,
            write_through=self.write_through or bool(flags & _WRITE_THROUGH),
        )
        disk_request.request, disk_request.opened = request, self
        self.requests.add(disk_request)
        peer.cancellable[message.message_id] = disk_request
        disk.runner.add(disk_request)
        exporter.touch(disk.runner)

    def flush(self, request: Request) -> None:
        """Queue the FLUSH, because everything that touches the disk goes through its queue."""
        if not self.writable:
            raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to write")
        disk = self.disk
        disk_request = IoRequest(Op.FLUSH, 0, 0, None, 0, _flush_answered, flow=self.flow)
        disk_request.request, disk_request.opened = request, self
        self.requests.add(disk_request)
        request.peer.cancellable[request.message.message_id] = disk_request
        disk.runner.add(disk_request)
        request.peer.exporter.touch(disk.runner)


class IoRequest(PeerDiskRequest):
    """Represents a request to a disk. ``request`` is the SMB request that caused this one, and ``opened`` is its open.

    The code that makes this object sets both attributes right after the construction. A constructor that takes them
    would be one more call per READ and WRITE.
    """

    __slots__ = ("opened",)
    request: Request
    opened: DiskIo

    @property
    def session(self) -> Session:
        """Return the session of the request. No other session may cancel the request."""
        return self.request.session

    def cancel(self) -> None:
        """Answer the request with CANCELLED, unless it is at the disk."""
        self.opened.cancel(self)


def _read_answered(done: IoRequest) -> None:
    done.on_done = _read_done
    opened = done.opened
    opened.processor.answered(opened.turn, done)


def _read_done(done: IoRequest) -> None:
    request = done.request
    opened = done.opened
    peer = request.peer
    opened.requests.discard(done)
    peer.cancellable.pop(request.message.message_id, None)
    buffer, result = done.buffer, done.result
    assert buffer is not None
    if result > 0:
        if request.compound is not None or peer.closed:
            try:
                body = READ_RESPONSE.pack(17, READ_DATA_OFFSET, 0, result, 0, 0)
                data = buffer.view[HEADROOM_BYTES : HEADROOM_BYTES + result]
                request.reply(b"".join((body, data)))
            finally:
                buffer.release()
        else:
            _send_read(request, buffer, result)
    else:
        buffer.release()
        _fail(request, result)
    if opened.closing and not opened.requests:
        opened.drained()


def _send_read(request: Request, buffer: Buffer, length: int) -> None:
    """Build the reply in place around its payload, and send it from there."""
    peer, message, view = request.peer, request.message, buffer.view
    try:
        pack_read_response_frame(
            view,
            _REPLY_START,
            length,
            flags=_SIGNED if request.sign else 0,
            credits=peer.window.grant(message.credits, message.credit_charge),
            credit_charge=message.credit_charge,
            message_id=message.message_id,
            tree_id=request.tree_id,
            session_id=request.session_id,
        )
        end = HEADROOM_BYTES + length
        security = request.security
        if request.seal and security is not None and security.sealer is not None:
            frame = security.sealer.seal_in_place(view, _MESSAGE_START, end - _MESSAGE_START)
        else:
            if request.sign and security is not None:
                security.signer.sign(view[_MESSAGE_START:end], message.message_id, NONCE_EXPORTER)
            frame = view[_REPLY_START:end]
    except BaseException:
        # Nobody else would return the memory, and the node would be charged for it until the exporter ends.
        buffer.release()
        raise
    peer.send(frame, buffer)


def _write_answered(done: IoRequest) -> None:
    done.on_done = _write_done
    opened = done.opened
    opened.processor.answered(opened.turn, done)


def _write_done(done: IoRequest) -> None:
    request = done.request
    opened = done.opened
    peer = request.peer
    assert done.buffer is not None
    opened.requests.discard(done)
    peer.cancellable.pop(request.message.message_id, None)
    done.buffer.release()
    result = done.result
    if result > 0:
        if request.compound is not None or request.seal or peer.closed:
            request.reply(WRITE_RESPONSE.pack(17, 0, result, 0, 0, 0))
        else:
            message, frame = request.message, bytearray(WRITE_RESPONSE_FRAME_BYTES)
            pack_write_response_frame(
                frame,
                result,
                flags=_SIGNED if request.sign else 0,
                credits=peer.window.grant(message.credits, message.credit_charge),
                credit_charge=message.credit_charge,
                message_id=message.message_id,
                tree_id=request.tree_id,
                session_id=request.session_id,
            )
            if request.sign:
                assert request.security is not None
                request.security.signer.sign(memoryview(frame)[FRAMING_BYTES:], message.message_id, NONCE_EXPORTER)
            peer.send(frame)
    else:
        _fail(request, result)
    if opened.closing and not opened.requests:
        opened.drained()


def _fail(request: Request, result: int) -> None:
    """Answer with an error. ``result`` is -errno, or 0 if the disk ended before its size because it shrank."""
    request.fail(status_from_errno(-result) if result else NtStatus.END_OF_FILE)


def _flush_answered(done: IoRequest) -> None:
    done.on_done = _flush_done
    opened = done.opened
    opened.processor.answered(opened.turn, done)


def _flush_done(done: IoRequest) -> None:
    request = done.request
    opened = done.opened
    opened.requests.discard(done)
    request.peer.cancellable.pop(request.message.message_id, None)
    if done.result < 0:
        _fail(request, done.result)
    else:
        request.reply(FlushResponse().pack())
    if opened.closing and not opened.requests:
        opened.drained()
