"""How much memory the nodes may make an exporter hold. Decisions, and who waits; no I/O.

Whatever a peer can make the exporter keep beyond a few KiB lies in its `BufferPool`, or is charged to it: large frames
under way, payloads of writes at a disk, buffers of reads, replies that are not sent, copies of compounds. Each node has
an account there (all strangers have one together), and may take more while

    held by the node <= max(MEMORY_PER_NODE_MIN_BYTES, MEMORY_MAX_BYTES - held by all)

The threshold is dynamic (A. K. Choudhury, E. L. Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet
Switches", IEEE/ACM Transactions on Networking 6(2), 1998): n nodes that take what they can come to rest at 1/(n + 1)
of the whole each, so that there is always room for one more, and a node alone may have half. Memory that comes back
is found by those that are below their threshold. The minimum holds whatever others do.

Past its threshold a node is not refused anything: its connections are not read from until it is below again, so that
TCP holds its senders back. Three things go on all the same, because they give memory back: replies leave, disks end
what they have, and a large frame that has its memory already is received to its end. One batch of one connection may
go past the threshold (CREDITS_MAX of payload, as what is asked for is known only when it was read).
"""

from collections.abc import Callable
from typing import Protocol

from meshfs import limits
from meshfs.buffers import Account, BufferPool


class MemoryWaiter(Protocol):
    """A connection that is not read from for want of memory."""

    @property
    def account(self) -> Account: ...

    def room_again(self) -> None:
        """Its node may take more: go on. It may have to wait again."""


class MemoryBudget:
    """Of one exporter. ``defer`` calls a function a little later, outside of whatever gave memory back."""

    def __init__(self, pool: BufferPool) -> None:
        self.max_bytes = limits.MEMORY_MAX_BYTES
        self.per_node_min_bytes = limits.MEMORY_PER_NODE_MIN_BYTES
        self._pool = pool
        self._waiting: dict[MemoryWaiter, None] = {}
        self._looking = False
        self.defer: Callable[[Callable[[], None]], None] = _at_once

    def threshold_bytes(self) -> int:
        """Return what a node may hold and still take more."""
        return max(self.per_node_min_bytes, self.max_bytes - self._pool.used_bytes)

    def has_room(self, account: Account) -> bool:
        return account.used_bytes <= self.threshold_bytes()

    @property
    def wanted(self) -> bool:
        """Return whether somebody waits for memory."""
        return bool(self._waiting)

    def wait(self, waiter: MemoryWaiter) -> None:
        """Have ``waiter`` told when its node has room again."""
        self._waiting[waiter] = None
        self._pool.on_room = self._look_soon

    def forget(self, waiter: MemoryWaiter) -> None:
        self._waiting.pop(waiter, None)
        self._stop_if_nobody_waits()

    def charge(self, account: Account, more_bytes: int) -> None:
        """``account`` holds memory that is not the pool's own, or gives it back."""
        self._pool.charge(account, more_bytes)

    def _look_soon(self) -> None:
        if not self._looking:
            self._looking = True
            self.defer(self._look)

    def _look(self) -> None:
        """Let those go on whose node is well below its threshold: at the threshold it would be over it at once."""
        self._looking = False
        enough_bytes = self.threshold_bytes() * 7 // 8
        for waiter in [each for each in self._waiting if each.account.used_bytes <= enough_bytes]:
            del self._waiting[waiter]
            waiter.room_again()
        self._stop_if_nobody_waits()

    def _stop_if_nobody_waits(self) -> None:
        if not self._waiting:
            self._pool.on_room = None


def _at_once(call: Callable[[], None]) -> None:
    call()
