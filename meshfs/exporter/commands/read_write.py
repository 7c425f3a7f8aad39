"""READ, WRITE and FLUSH: the hot path, from the message to the disk's queue and back.

A disk's answer waits for its node's turn (`processor.py`), in which the reply is made, signed and sent.

No task, event or closure per request; a READ's reply is built in place around the payload the
disk put into pooled memory, a large WRITE's payload goes to the disk from the memory it was
received into. MS-SMB2 3.3.5.11 to 3.3.5.13.
"""

from struct import Struct
from typing import Final

from meshfs import limits
from meshfs.buffers import HEADROOM_BYTES, Buffer
from meshfs.disk.base import DiskRequest, Op
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds import scratch_files
from meshfs.exporter.kinds.disk import DiskOpen
from meshfs.exporter.kinds.kind import find_open
from meshfs.exporter.kinds.pipe import PipeOpen
from meshfs.exporter.kinds.scratch_open import ScratchOpen
from meshfs.smb.connection import take_payload
from meshfs.smb.constants import HEADER_BYTES, PREFIX_BYTES, NtStatus, WriteFlags
from meshfs.smb.messages import FlushRequest, FlushResponse
from meshfs.smb.security import NONCE_EXPORTER
from meshfs.smb.status import status_from_errno
from meshfs.smb.wire import (
    READ_DATA_OFFSET,
    READ_RESPONSE,
    READ_RESPONSE_FRAME_BYTES,
    WRITE_DATA_OFFSET,
    WRITE_REQUEST,
    WRITE_RESPONSE,
    WRITE_RESPONSE_FRAME_BYTES,
    pack_read_response_frame,
    pack_write_response_frame,
)

#: READ_REQUEST without its last byte, which some clients leave out.
_READ_REQUEST: Final = Struct("<HBBIQQQIIIHH")
_READ_FIXED_BYTES: Final = HEADER_BYTES + _READ_REQUEST.size
_OFFSET_MAX: Final = (1 << 63) - 1
_CREDIT_BYTES: Final = limits.CREDIT_BYTES
_IO_SIZE_MAX_BYTES: Final = limits.IO_SIZE_MAX_BYTES
_READ: Final = Op.READ
_WRITE: Final = Op.WRITE
_WRITE_THROUGH: Final = int(WriteFlags.WRITE_THROUGH)
_SIGNED: Final = 0x00000008
_REPLY_START: Final = HEADROOM_BYTES - READ_RESPONSE_FRAME_BYTES
_MESSAGE_START: Final = _REPLY_START + PREFIX_BYTES


def read(request: Request) -> None:
    message = request.message
    if len(message.view) < _READ_FIXED_BYTES:
        raise StatusError(NtStatus.INVALID_PARAMETER, "READ is too short")
    size, _, _, length, offset, persistent, volatile, minimum, channel, _, _, _ = _READ_REQUEST.unpack_from(
        message.view, HEADER_BYTES
    )
    opened = find_open(request, persistent, volatile)
    if size != 49 or channel or length > _IO_SIZE_MAX_BYTES or offset > _OFFSET_MAX:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"READ of {length} bytes at {offset}, channel {channel}")
    if length > (message.credit_charge or 1) * _CREDIT_BYTES:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"READ of {length} bytes is not paid for")
    if not isinstance(opened, DiskOpen):
        _read_other(request, offset, length, minimum)
        return
    if not opened.readable:
        raise StatusError(NtStatus.ACCESS_DENIED, "open has no right to read")
    disk = opened.disk
    available = disk.size_bytes - offset
    if length > available:
        length = max(available, 0)
        if not length or length < minimum:
            raise StatusError(NtStatus.END_OF_FILE, f"READ at {offset}")
    if length < minimum:
        raise StatusError(NtStatus.END_OF_FILE, f"READ of {length} bytes wants {minimum}")
    if not length:
        request.reply(READ_RESPONSE.pack(17, READ_DATA_OFFSET, 0, 0, 0, 0))
        return
    if disk.locks and not disk.locks.can_read(opened, offset, length):
        raise StatusError(NtStatus.FILE_LOCK_CONFLICT, "READ in another's lock")
    exporter = request.peer.exporter
    buffer = exporter.pool.acquire(length, request.peer.usage.memory)
    disk_request = DiskRequest(
        _READ, offset, length, buffer, HEADROOM_BYTES, _read_answered, flow=opened.flow, context=request
    )
    opened.requests.add(disk_request)
    request.peer.cancellable[message.message_id] = disk_request
    disk.runner.add(disk_request)
    exporter.touch(disk.runner)


def _read_answered(done: DiskRequest) -> None:
    done.on_done = _read_done
    request = done.context
    request.peer.exporter.processor.answered(request.open.turn, done)


def _read_done(done: DiskRequest) -> None:
    request: Request = done.context
    opened = request.open
    assert isinstance(opened, DiskOpen)
    opened.requests.discard(done)
    request.peer.cancellable.pop(request.message.message_id, None)
    buffer, result = done.buffer, done.result
    assert buffer is not None
    if result > 0:
        peer = request.peer
        if request.compound is not None or peer.closed:
            body = READ_RESPONSE.pack(17, READ_DATA_OFFSET, 0, result, 0, 0)
            data = buffer.view[HEADROOM_BYTES : HEADROOM_BYTES + result]
            request.reply(b"".join((body, data)))
            buffer.release()
        else:
            _send_read(request, buffer, result)
    else:
        buffer.release()
        _fail(request, result)
    if opened.closing and not opened.requests:
        opened.drained()


def _send_read(request: Request, buffer: Buffer, length: int) -> None:
    """Make the reply around its payload, and let it go from there."""
    peer, message, view = request.peer, request.message, buffer.view
    pack_read_response_frame(
        view, _REPLY_START, length, flags=_SIGNED if request.sign else 0,
        credits=peer.window.grant(message.credits, message.credit_charge),
        credit_charge=message.credit_charge, message_id=message.message_id, tree_id=request.tree_id,
        session_id=request.session_id,
    )  # fmt: skip
    end = HEADROOM_BYTES + length
    security = request.security
    if request.seal and security is not None and security.sealer is not None:
        peer.send(security.sealer.seal_in_place(view, _MESSAGE_START, end - _MESSAGE_START), buffer)
        return
    if request.sign and security is not None:
        security.signer.sign(view[_MESSAGE_START:end], message.message_id, NONCE_EXPORTER)
    peer.send(view[_REPLY_START:end], buffer)


def _read_other(request: Request, offset: int, length: int, minimum: int) -> None:
    opened = request.open
    if isinstance(opened, ScratchOpen):
        scratch_files.read(request, opened, offset, length, minimum)
        return
    if not isinstance(opened, PipeOpen):
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, "READ of a directory")
    data, more = opened.read(length)
    body = READ_RESPONSE.pack(17, READ_DATA_OFFSET, 0, len(data), 0, 0) + data
    request.reply(body, NtStatus.BUFFER_OVERFLOW if more else NtStatus.SUCCESS)


def write(request: Request) -> None:
    message = request.message
    view = message.view
    if len(view) < WRITE_DATA_OFFSET:
        raise StatusError(NtStatus.INVALID_PARAMETER, "WRITE is too short")
    size, start, length, offset, persistent, volatile, channel, _, _, _, flags = WRITE_REQUEST.unpack_from(
        view, HEADER_BYTES
    )
    opened = find_open(request, persistent, volatile)
    if size != 49 or channel or length > _IO_SIZE_MAX_BYTES or offset > _OFFSET_MAX:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"WRITE of {length} bytes at {offset}, channel {channel}")
    if length and not WRITE_DATA_OFFSET <= start <= len(view) - length:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"WRITE of {length} bytes from {start} of {len(view)}")
    if length > (message.credit_charge or 1) * _CREDIT_BYTES:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"WRITE of {length} bytes is not paid for")
    if not isinstance(opened, DiskOpen):
        _write_other(request, offset, view[start : start + length])
        return
    if not opened.writable:
        raise StatusError(NtStatus.ACCESS_DENIED, "open has no right to write")
    disk = opened.disk
    if offset + length > disk.size_bytes:
        raise StatusError(NtStatus.DISK_FULL, f"WRITE of {length} bytes at {offset}")
    if not length:
        request.reply(WRITE_RESPONSE.pack(17, 0, 0, 0, 0, 0))
        return
    if disk.locks and not disk.locks.can_write(opened, offset, length):
        raise StatusError(NtStatus.FILE_LOCK_CONFLICT, "WRITE in a lock")
    exporter = request.peer.exporter
    buffer, start = take_payload(message, start, length, exporter.pool, request.peer.usage.memory)
    disk_request = DiskRequest(
        _WRITE, offset, length, buffer, start, _write_answered, flow=opened.flow,
        write_through=opened.write_through or bool(flags & _WRITE_THROUGH), context=request,
    )  # fmt: skip
    opened.requests.add(disk_request)
    request.peer.cancellable[message.message_id] = disk_request
    disk.runner.add(disk_request)
    exporter.touch(disk.runner)


def _write_answered(done: DiskRequest) -> None:
    done.on_done = _write_done
    request = done.context
    request.peer.exporter.processor.answered(request.open.turn, done)


def _write_done(done: DiskRequest) -> None:
    request: Request = done.context
    opened = request.open
    assert isinstance(opened, DiskOpen)
    assert done.buffer is not None
    opened.requests.discard(done)
    request.peer.cancellable.pop(request.message.message_id, None)
    done.buffer.release()
    result = done.result
    if result > 0:
        peer = request.peer
        if request.compound is not None or request.seal or peer.closed:
            request.reply(WRITE_RESPONSE.pack(17, 0, result, 0, 0, 0))
        else:
            message, frame = request.message, bytearray(WRITE_RESPONSE_FRAME_BYTES)
            pack_write_response_frame(
                frame, result, flags=_SIGNED if request.sign else 0,
                credits=peer.window.grant(message.credits, message.credit_charge),
                credit_charge=message.credit_charge, message_id=message.message_id, tree_id=request.tree_id,
                session_id=request.session_id,
            )  # fmt: skip
            if request.sign:
                assert request.security is not None
                request.security.signer.sign(memoryview(frame)[PREFIX_BYTES:], message.message_id, NONCE_EXPORTER)
            peer.send(frame)
    else:
        _fail(request, result)
    if opened.closing and not opened.requests:
        opened.drained()


def _write_other(request: Request, offset: int, data: memoryview) -> None:
    opened = request.open
    if isinstance(opened, ScratchOpen):
        scratch_files.write(request, opened, offset, data)
        return
    if not isinstance(opened, PipeOpen):
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, "WRITE of a directory")
    opened.write(bytes(data))
    request.reply(WRITE_RESPONSE.pack(17, 0, len(data), 0, 0, 0))


def _fail(request: Request, result: int) -> None:
    """``result`` is -errno; 0 where the disk ended before its size (it shrank under us)."""
    request.fail(status_from_errno(-result) if result else NtStatus.END_OF_FILE)


def flush(request: Request) -> None:
    """FLUSH goes through the queue, as everything that touches the disk does."""
    body = FlushRequest.unpack(request.message.body)
    opened = find_open(request, *body.file_id)
    if not isinstance(opened, DiskOpen):
        if isinstance(opened, ScratchOpen):
            scratch_files.check_flush(opened)
        request.reply(FlushResponse().pack())
        return
    if not opened.writable:
        raise StatusError(NtStatus.ACCESS_DENIED, "open has no right to write")
    disk = opened.disk
    disk_request = DiskRequest(Op.FLUSH, 0, 0, None, 0, _flush_answered, flow=opened.flow, context=request)
    opened.requests.add(disk_request)
    request.peer.cancellable[request.message.message_id] = disk_request
    disk.runner.add(disk_request)
    request.peer.exporter.touch(disk.runner)


def _flush_answered(done: DiskRequest) -> None:
    done.on_done = _flush_done
    request = done.context
    request.peer.exporter.processor.answered(request.open.turn, done)


def _flush_done(done: DiskRequest) -> None:
    request: Request = done.context
    opened = request.open
    assert isinstance(opened, DiskOpen)
    opened.requests.discard(done)
    request.peer.cancellable.pop(request.message.message_id, None)
    if done.result < 0:
        _fail(request, done.result)
    else:
        request.reply(FlushResponse().pack())
    if opened.closing and not opened.requests:
        opened.drained()
