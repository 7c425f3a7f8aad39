"""LOCK: byte ranges of disks and scratch files, at once or when others let go (MS-SMB2 3.3.5.14)."""

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.locks import ByteRange, Lock, Lockable
from meshfs.exporter.opens import AnyOpen, DiskOpen, ScratchOpen
from meshfs.exporter.request import Request
from meshfs.smb.constants import LockFlags, NtStatus
from meshfs.smb.messages import LockElement, LockRequest, LockResponse

_KINDS = {
    LockFlags.SHARED_LOCK: False,
    LockFlags.EXCLUSIVE_LOCK: True,
}


def lock(request: Request) -> None:
    body = LockRequest.unpack(request.message.body)
    opened = request.find_open(body.file_id.volatile)
    if not body.locks:
        raise StatusError(NtStatus.INVALID_PARAMETER, "LOCK of nothing")
    if isinstance(opened, DiskOpen):
        target: Lockable = opened.disk
    elif isinstance(opened, ScratchOpen) and opened.directory is None:
        target = opened.file
    else:
        raise StatusError(NtStatus.INVALID_PARAMETER, "LOCK of a directory")
    if not opened.readable and not opened.writable:
        raise StatusError(NtStatus.ACCESS_DENIED, "open has no right to data")
    if body.locks[0].flags & LockFlags.UNLOCK:
        _unlock(request, target, body.locks)
    else:
        _lock(request, target, body.locks)


def _unlock(request: Request, target: Lockable, elements: tuple[LockElement, ...]) -> None:
    """3.3.5.14.1: one after the other, up to the first that is wrong."""
    try:
        for element in elements:
            if element.flags != LockFlags.UNLOCK:
                raise StatusError(NtStatus.INVALID_PARAMETER, "LOCK and UNLOCK in one request")
            if not target.locks.unlock(request.open, ByteRange(element.offset, element.length)):
                raise StatusError(NtStatus.RANGE_NOT_LOCKED, f"no lock of {element.length} bytes at {element.offset}")
        request.reply(LockResponse().pack())
    finally:
        # Those released before an error stay released.
        target.wake_lock_waiters()


def _lock(request: Request, target: Lockable, elements: tuple[LockElement, ...]) -> None:
    opened = request.open
    locks = [_checked(opened, element) for element in elements]
    waits = not elements[0].flags & LockFlags.FAIL_IMMEDIATELY
    if waits and len(elements) > 1:
        raise StatusError(NtStatus.INVALID_PARAMETER, "only a single lock may wait")
    table = target.locks
    if table.count(opened) + len(locks) > limits.LOCKS_PER_OPEN_MAX:
        raise StatusError(NtStatus.INSUFFICIENT_RESOURCES, "too many locks")
    for index, wanted in enumerate(locks):
        if table.try_lock(wanted):
            continue
        if waits:
            _wait(request, target, wanted)
            return
        for granted in locks[:index]:
            table.unlock(opened, granted.range)
        raise StatusError(NtStatus.LOCK_NOT_GRANTED, "another lock is in the way")
    request.reply(LockResponse().pack())


def _checked(opened: AnyOpen, element: LockElement) -> Lock:
    kind = _KINDS.get(LockFlags(element.flags & ~LockFlags.FAIL_IMMEDIATELY))
    if kind is None:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"lock flags 0x{element.flags:x}")
    wanted = ByteRange(element.offset, element.length)
    if not wanted.valid:
        raise StatusError(NtStatus.INVALID_LOCK_RANGE, f"lock of {element.length} bytes at {element.offset}")
    return Lock(opened, wanted, kind)


def _wait(request: Request, target: Lockable, wanted: Lock) -> None:
    opened = request.open

    def retry() -> bool:
        if not target.locks.try_lock(wanted):
            return False
        opened.waits.discard(waiting)
        request.reply(LockResponse().pack())
        return True

    def abort() -> None:
        opened.waits.discard(waiting)
        target.lock_waiters.remove(retry)

    waiting = request.wait(abort)
    opened.waits.add(waiting)
    target.lock_waiters.append(retry)
