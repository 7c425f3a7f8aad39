"""Decides how much memory each node may make an exporter hold, and which connections wait for memory. No I/O.

Everything beyond a few KiB that a peer can make the exporter keep is in its `BufferPool`, or is charged to the pool:
large frames under way, payloads of writes at a disk, buffers of reads, replies that were not sent, copies of compounds.
Each node has an account at the pool, and all strangers have one account together. A node may take more while

    held by the node <= max(MEMORY_PER_NODE_MIN_BYTES, MEMORY_MAX_BYTES - held by all)

The threshold is dynamic (A. K. Choudhury, E. L. Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet
Switches", IEEE/ACM Transactions on Networking 6(2), 1998). If n nodes take as much as they can, each holds
1/(n + 1) of the whole in the end. So there is always room for one more node, and a single node may hold half. Memory
that is given back can be taken by the nodes below their threshold. The minimum holds whatever other nodes do.

A node past its threshold is not refused anything. Its connections are not read from until the node is below the
threshold again, and TCP then slows down its senders. Three things go on meanwhile, because they give memory back:
replies are sent, disks finish their requests, and a large frame that already has its memory is received to its end. One
batch of one connection may pass the threshold by CREDITS_MAX of payload, because requests are known only when read.
"""

from collections.abc import Callable
from typing import Protocol

from meshfs import limits
from meshfs.buffers import Account, BufferPool


class MemoryWaiter(Protocol):
    """Stands for a connection that is not read from, because its node holds too much memory."""

    @property
    def account(self) -> Account: ...

    def room_again(self) -> None:
        """Read again, because the node may take more memory. The connection may have to wait again later."""


class MemoryBudget:
    """Counts the memory of one exporter. ``defer`` calls a function later, outside of the one that gave memory back."""

    def __init__(self, pool: BufferPool) -> None:
        self.max_bytes = limits.MEMORY_MAX_BYTES
        self.per_node_min_bytes = limits.MEMORY_PER_NODE_MIN_BYTES
        self._pool = pool
        self._waiting: dict[MemoryWaiter, None] = {}
        self._looking = False
        self.defer: Callable[[Callable[[], None]], None] = _at_once

    def threshold_bytes(self) -> int:
        """Return how much a node may hold and still take more."""
        return max(self.per_node_min_bytes, self.max_bytes - self._pool.used_bytes)

    def has_room(self, account: Account) -> bool:
        return account.used_bytes <= self.threshold_bytes()

    @property
    def wanted(self) -> bool:
        """Return whether a connection waits for memory."""
        return bool(self._waiting)

    def wait(self, waiter: MemoryWaiter) -> None:
        """Call ``room_again`` of ``waiter`` when its node may take more memory."""
        self._waiting[waiter] = None
        self._pool.on_room = self._look_soon

    def forget(self, waiter: MemoryWaiter) -> None:
        self._waiting.pop(waiter, None)
        self._stop_if_nobody_waits()

    def charge(self, account: Account, more_bytes: int) -> None:
        """Charge ``account`` for memory outside of the pool. A negative ``more_bytes`` gives memory back."""
        self._pool.charge(account, more_bytes)

    def _look_soon(self) -> None:
        if not self._looking:
            self._looking = True
            self.defer(self._look)

    def _look(self) -> None:
        """Let the connections of nodes well below the threshold go on.

        A node that is just below the threshold would pass it again with its first message.
        """
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
