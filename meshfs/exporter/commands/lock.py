"""Handles LOCK, which locks byte ranges, perhaps after a wait for other opens, or unlocks them (MS-SMB2 3.3.5.14).

An initiator that lost a channel repeats a LOCK. If the initiator supports multichannel, the repetition is recognised by
its LockSequence (`lock_sequence.py`). Other initiators need not count, so their field is ignored.
"""

from typing import Final

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.exchange.waiting import wait
from meshfs.exporter.kinds.kind import Kind, find_open
from meshfs.exporter.rules.holdings import Resource
from meshfs.exporter.rules.lock_sequence import LockSequences
from meshfs.exporter.rules.locks import ByteRange, Lock, Lockable, LockTable
from meshfs.smb.constants import Capabilities, LockFlags, NtStatus
from meshfs.smb.messages import LockElement, LockRequest, LockResponse

_KINDS: Final = {
    LockFlags.SHARED_LOCK: False,
    LockFlags.EXCLUSIVE_LOCK: True,
}
#: The LockSequence of a LOCK that is no repetition. There is no entry 0.
_NO_SEQUENCE: Final = 0


def lock(request: Request) -> None:
    """Lock or unlock ranges, unless the request repeats one that has succeeded."""
    body = LockRequest.unpack(request.message.body)
    opened = find_open(request, *body.file_id)
    sequence = _sequence_of(request, body)
    if sequence and opened.lock_sequences is not None:
        if opened.lock_sequences.repeats(sequence):
            request.reply(LockResponse().pack())
            return
        opened.lock_sequences.begin(sequence)
    if not body.locks:
        raise StatusError(NtStatus.INVALID_PARAMETER, "the LOCK names no range")
    target = opened.lockable()
    if body.locks[0].flags & LockFlags.UNLOCK:
        _unlock(request, opened, target, body.locks, sequence)
    else:
        _lock(request, opened, target, body.locks, sequence)


def _sequence_of(request: Request, body: LockRequest) -> int:
    """Return the LockSequence. It counts only with multichannel, as no open is resilient, durable or persistent."""
    offered = request.peer.connection.negotiated.peer_capabilities & Capabilities.MULTI_CHANNEL
    return body.lock_sequence if offered else _NO_SEQUENCE


def _succeed(request: Request, opened: Kind, sequence: int) -> None:
    if sequence:
        if opened.lock_sequences is None:
            opened.lock_sequences = LockSequences()
        opened.lock_sequences.succeeded(sequence)
    request.reply(LockResponse().pack())


def _unlock(request: Request, opened: Kind, target: Lockable, elements: tuple[LockElement, ...], sequence: int) -> None:
    """Release one range after the other, up to the first wrong one (3.3.5.14.1)."""
    freed: ByteRange | None = None
    try:
        for element in elements:
            if element.flags != LockFlags.UNLOCK:
                raise StatusError(NtStatus.INVALID_PARAMETER, "the request asks for locks and unlocks at once")
            wanted = ByteRange(element.offset, element.length)
            if not target.locks.unlock(opened, wanted):
                raise StatusError(
                    NtStatus.RANGE_NOT_LOCKED, f"the open has no lock of {element.length} bytes at {element.offset}"
                )
            opened.session.holdings.give_back(Resource.LOCKS, target)
            freed = wanted.joined(freed)
        _succeed(request, opened, sequence)
    finally:
        # Ranges that were released before an error stay released.
        if freed is not None:
            target.wake_lock_waiters(freed)


def _lock(request: Request, opened: Kind, target: Lockable, elements: tuple[LockElement, ...], sequence: int) -> None:
    opened.check_may_lock()
    locks = [_checked(opened, element) for element in elements]
    waits = any(not element.flags & LockFlags.FAIL_IMMEDIATELY for element in elements)
    if waits and len(elements) > 1:
        raise StatusError(NtStatus.INVALID_PARAMETER, "only a single lock may wait")
    table = target.locks
    if table.count(opened) + len(locks) > limits.LOCKS_PER_OPEN_MAX:
        raise StatusError(NtStatus.INSUFFICIENT_RESOURCES, "the open has too many locks")
    opened.session.holdings.take(Resource.LOCKS, target, len(locks))
    try:
        granted = _try_all(table, locks)
        if not granted and waits:
            _wait(request, opened, target, locks[0], sequence)
            return
        if not granted:
            raise StatusError(NtStatus.LOCK_NOT_GRANTED, "another lock conflicts")
    except StatusError:
        opened.session.holdings.give_back(Resource.LOCKS, target, len(locks))
        raise
    _succeed(request, opened, sequence)


def _try_all(table: LockTable, locks: list[Lock]) -> bool:
    """Take all locks, or none. Return whether all were taken."""
    for index, wanted in enumerate(locks):
        if not table.try_lock(wanted):
            for granted in locks[:index]:
                table.remove(granted)
            return False
    return True


def _checked(opened: Kind, element: LockElement) -> Lock:
    kind = _KINDS.get(LockFlags(element.flags & ~LockFlags.FAIL_IMMEDIATELY))
    if kind is None:
        raise StatusError(
            NtStatus.INVALID_PARAMETER, f"a range has the flags 0x{element.flags:x}, which are no kind of lock"
        )
    wanted = ByteRange(element.offset, element.length)
    if not wanted.valid:
        raise StatusError(
            NtStatus.INVALID_LOCK_RANGE, f"a lock of {element.length} bytes at {element.offset} ends beyond 64 bits"
        )
    return Lock(opened, wanted, kind)


def _wait(request: Request, opened: Kind, target: Lockable, wanted: Lock, sequence: int) -> None:
    """Wait until the lock can be granted.

    If a connection is lost, its LOCKs wait until the exporter notices the loss. Meanwhile a repetition may wait beside
    the first LOCK. When one of them gets the lock, both are answered. Otherwise the other would wait for a lock of its
    own open.

    The lock counts among those of its node from now on, so that there is room when it is granted.
    """
    holdings = opened.session.holdings

    def retry() -> bool:
        done = opened.lock_sequences is not None and opened.lock_sequences.repeats(sequence)
        if not done and not target.locks.try_lock(wanted):
            return False
        opened.waits.discard(waiting)
        holdings.give_back(Resource.WAITING_LOCKS, target)
        if done:
            holdings.give_back(Resource.LOCKS, target)
        _succeed(request, opened, sequence)
        return True

    def abort() -> None:
        opened.waits.discard(waiting)
        target.lock_waiters.pop(waiter, None)
        holdings.give_back(Resource.WAITING_LOCKS, target)
        holdings.give_back(Resource.LOCKS, target)

    waiting = holdings.take_for(lambda: wait(request, abort), Resource.WAITING_LOCKS, target)
    opened.waits.add(waiting)
    waiter = target.wait_for_lock(wanted.range, retry)
