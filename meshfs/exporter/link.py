"""One connection's socket: receives in batches, sends in batches.

Input is handled in the reactor's callbacks, without a task in between:

    readable -> recv_into until the socket is empty -> Peer.received (handlers run, I/O is queued)
             -> disks are started once -> all replies of the batch leave in one sendmsg

Replies of disks that complete later leave in one sendmsg per round of the reactor. The
connection's own tasks sleep until it is over. While the socket is full, the reactor goes on sending;
meanwhile no more than SEND_QUEUE_MAX_BYTES (of a stranger: far less) pile up, because past
that nothing is read. Nor is anything while a connection has more than CREDITS_MAX in work: what
was received already is held, and handled when there is room again. Nor while its node holds all the memory
that it may have (`memory_budget.py`).
"""

import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Final

import trio

from meshfs import bugs, limits, reactor
from meshfs.buffers import Account
from meshfs.errors import RemoteProtocolError
from meshfs.exporter.admission import Stage
from meshfs.exporter.exporter import Exporter
from meshfs.exporter.peer import Peer
from meshfs.transport.stream import LowWater, pending_bytes

logger = logging.getLogger(__name__)

#: Parts of one sendmsg (writev(2): IOV_MAX).
_IOV_MAX: Final = os.sysconf("SC_IOV_MAX")


class Link:
    """One connection's socket."""

    def __init__(self, exporter: Exporter, stream: socket.socket, remote: str, login_until_s: float) -> None:
        self.peer = Peer(exporter, remote, time.time)
        self.peer.flush = self._flush
        self.logged_in = False
        self._exporter = exporter
        self._socket = stream
        self._fd = stream.fileno()
        self._low_water = LowWater(stream)
        self._reactor = reactor.current()
        #: Cancelled when nothing more is to be read.
        self._reading = trio.CancelScope(deadline=login_until_s)
        self._stopped = False
        #: The peer is gone, or broke the protocol.
        self._over = False
        #: What the socket took since `_watch_progress` looked.
        self._taken_bytes = 0
        #: Not read from until what waits to be sent is sent, and what is held is handled.
        self._paused = False
        self._going_on = False
        #: Set when nothing waits to be sent any more; None while nothing does.
        self._sent: trio.Event | None = None
        self._memory = exporter.memory
        self._waits_for_memory = False
        #: What is charged for replies that wait to be sent and do not lie in the pool's memory.
        self._charged_bytes = 0
        self._charged_to = self.account

    async def run(self) -> None:
        """Until the peer goes, breaks the protocol, or is told to (`Peer.closing`)."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_progress)
            self._reactor.add(self._fd, self._readable, on_failure=self._fault)
            with self._reading:
                await trio.sleep_forever()
            self._reactor.remove(self._fd)
            if self._stopped:
                await trio.sleep_forever()
            if not self._over and not self.peer.closing:
                self._exporter.count("login_timeouts")
                self.peer.log_warning("closed: no login within %g s", limits.UNAUTHENTICATED_TIMEOUT_S)
            with trio.move_on_after(limits.UNAUTHENTICATED_TIMEOUT_S):
                await self.sent_all()
            nursery.cancel_scope.cancel()

    def close(self) -> None:
        self._reactor.forget(self._fd)
        self._memory.forget(self)
        self._charge_unsent(0)
        self._exporter.begin_batch()
        self.peer.lost()
        self._exporter.end_batch()
        self._socket.close()

    def _fault(self, _: Exception) -> None:
        """A fault of ours with what this connection brings ends this connection, and no other."""
        self.end()

    def end(self) -> None:
        """Close it at once, and drop what was not sent."""
        self._over = True
        self._discard()
        if self._sent is not None:
            self._all_sent()

    def stop_reading(self) -> None:
        self._stopped = True
        self._end_reading()

    def _end_reading(self) -> None:
        self._reactor.remove(self._fd)
        self._reading.cancel()
        self._reactor.give_turn()

    async def sent_all(self) -> None:
        while self._sent is not None:
            await self._sent.wait()

    def reached(self, stage: Stage) -> bool:
        """The connection has come that far towards a login, or its last session is gone. False: no news."""
        logged_in = stage is Stage.LOGGED_IN
        if self.logged_in and stage is Stage.LOGGING_IN:
            return False
        # A login that failed buys a stranger no time.
        if logged_in != self.logged_in:
            self.logged_in = logged_in
            now = trio.current_time()
            self._reading.deadline = float("inf") if logged_in else now + limits.UNAUTHENTICATED_TIMEOUT_S
        return True

    # --- receiving ---------------------------------------------------------------------

    def _readable(self) -> None:
        """The reactor's callback."""
        self._batch(self._receive_batch)

    def _batch(self, step: Callable[[], bool]) -> None:
        exporter = self._exporter
        exporter.begin_batch()
        try:
            try:
                going = step()
            except RemoteProtocolError as error:
                exporter.count(error.counter)
                self.peer.log_warning("closed: %s", error)
                going = False
            finally:
                exporter.end_batch()
        except Exception:
            # A fault of ours must not take the other connections down.
            exporter.count("internal_errors")
            logger.exception("%s: closed after an internal error", self.peer.remote)
            going = False
        if going:
            self._low_water.expect(self.peer.connection.missing_bytes)
        else:
            self._over = True
            self._end_reading()
        full = self._sent is not None and self._count_unsent() > self._unsent_max_bytes()
        if going and (full or self.peer.held or self._waits_for_memory):
            self._reactor.remove(self._fd)
            self._paused = True
            self._resume()

    def _receive_batch(self) -> bool:
        """Take what the socket has; False at the connection's end. Raises RemoteProtocolError."""
        peer, receive = self.peer, self._socket.recv_into
        batch_bytes = 0
        while batch_bytes < limits.RECEIVE_BATCH_MAX_BYTES:
            if self._lacks_memory():
                return True
            memory = peer.get_buffer()
            try:
                count = receive(memory)
            except BlockingIOError:
                return True
            except OSError as error:
                logger.debug("%s: %s", peer.remote, error)
                return False
            if not count:
                return False
            peer.received(count)
            if count < len(memory) or peer.closing or peer.held:
                return True
            batch_bytes += count
        return True

    def _resume(self) -> None:
        """Go on with what is held, or read again, if that may be now."""
        if not self._paused or self._going_on or self._sent is not None or self._reading.cancel_called:
            return
        if self._waits_for_memory:
            return
        if not self.peer.held:
            self._paused = False
            self._reactor.add(self._fd, self._readable)
        elif self.peer.has_room and not self._lacks_memory():
            self._going_on = True
            # Whoever answered is in the middle of something.
            if self._reactor.in_round:
                self._reactor.defer(self._go_on)
            else:
                trio.lowlevel.current_trio_token().run_sync_soon(self._go_on)

    def _go_on(self) -> None:
        self._going_on = False
        if not self._reading.cancel_called and not self.peer.closed:
            self._batch(self._handle_held)
            # What was held may have made no reply, which else calls for more.
            self._resume()

    def _handle_held(self) -> bool:
        self.peer.go_on()
        return True

    # --- memory ------------------------------------------------------------------------

    @property
    def account(self) -> Account:
        return self.peer.usage.memory

    def _lacks_memory(self) -> bool:
        """Whether its node holds all that it may; then `room_again` is called when that has changed.

        Large frames that have memory are received and handled all the same: that gives it back.
        """
        account, budget = self.peer.usage.memory, self._memory
        if account.used_bytes <= budget.per_node_min_bytes or budget.has_room(account):
            return False
        if self.peer.connection.holds_large:
            return False
        self._waits_for_memory = True
        self._memory.wait(self)
        return True

    def room_again(self) -> None:
        self._waits_for_memory = False
        if not self.peer.closed:
            self._resume()

    def _charge_unsent(self, own_bytes: int) -> None:
        """Have the node's account hold so much for replies that are not sent."""
        if own_bytes != self._charged_bytes:
            if not self._charged_bytes:
                self._charged_to = self.account
            self._memory.charge(self._charged_to, own_bytes - self._charged_bytes)
            self._charged_bytes = own_bytes

    # --- sending -----------------------------------------------------------------------

    def _flush(self) -> None:
        """Send as much as the socket takes; the rest goes when it takes more. Never raises."""
        if self._sent is not None:
            return
        try:
            self._begin_sending()
        except Exception as error:
            # The exporter has more connections to flush in this batch.
            bugs.report(logger, "sending replies", error)
            self._fault(error)

    def _begin_sending(self) -> None:
        if self._send_some():
            if self.peer.closing:
                self._end_reading()
            elif self._paused:
                self._resume()
        else:
            self._sent = trio.Event()
            self._reactor.when_writable(self._fd, self._writable)

    def _send_some(self) -> bool:
        """Whether nothing is left to send."""
        peer = self.peer
        out = peer.out
        while out:
            parts = [memory for memory, _ in out[:_IOV_MAX]]
            try:
                sent = self._socket.sendmsg(parts)
            except BlockingIOError:
                return False
            except OSError as error:
                logger.debug("%s: %s", peer.remote, error)
                self._discard()
                return True
            self._taken_bytes += sent
            self._take_off(sent, len(parts))
        return True

    def _take_off(self, sent: int, count: int) -> None:
        """Forget the frames that are sent, and the beginning of one sent in part."""
        out = self.peer.out
        for index in range(count):
            memory, buffer = out[index]
            if sent < len(memory):
                out[index] = (memoryview(memory)[sent:], buffer)
                del out[:index]
                return
            sent -= len(memory)
            if buffer is not None:
                buffer.release()
        del out[:count]

    def _discard(self) -> None:
        """The connection is broken: nothing can be sent; its reader ends it."""
        for _, buffer in self.peer.out:
            if buffer is not None:
                buffer.release()
        self.peer.out.clear()
        self.peer.closing = True
        self._reactor.forget(self._fd)
        self._end_reading()

    def _count_unsent(self) -> int:
        """What waits to be sent. Charges what of it is not the pool's memory, which is charged already."""
        own_bytes = pooled_bytes = 0
        for memory, buffer in self.peer.out:
            if buffer is None:
                own_bytes += len(memory)
            else:
                pooled_bytes += len(memory)
        self._charge_unsent(own_bytes)
        return own_bytes + pooled_bytes

    def _unsent_max_bytes(self) -> int:
        return limits.SEND_QUEUE_MAX_BYTES if self.logged_in else limits.SEND_QUEUE_UNAUTHENTICATED_MAX_BYTES

    def _writable(self) -> None:
        """The full socket takes data again: the reactor's callback."""
        if self._send_some():
            self._all_sent()
        else:
            self._reactor.when_writable(self._fd, self._writable)

    def _all_sent(self) -> None:
        assert self._sent is not None
        self._sent.set()
        self._sent = None
        self._charge_unsent(0)
        self._reactor.give_turn()
        if self.peer.closing:
            self._end_reading()
        else:
            self._resume()

    # --- progress ----------------------------------------------------------------------

    async def _watch_progress(self) -> None:
        """Give a peer up that takes nothing of its replies, or holds memory that others want and does not go on."""
        period_s = limits.CONNECTION_DEAD_AFTER_S / 2
        while True:
            waiting, self._taken_bytes, large = self._sent, 0, self._large_progress()
            await trio.sleep(period_s)
            least_bytes = limits.MEMORY_HELD_MIN_PROGRESS_BYTES if self._memory.wanted else 1
            if waiting is not None and waiting is self._sent and self._taken_bytes < least_bytes:
                self.peer.log_warning("closed: takes %d bytes of its replies in %g s", self._taken_bytes, period_s)
                self.end()
            elif large is not None and self._memory.wanted and self._stands_still(large, least_bytes):
                self.peer.log_warning("closed: a message did not go on for %g s, and its memory is wanted", period_s)
                self._exporter.count("stalled_messages")
                self.end()

    def _large_progress(self) -> tuple[int, int] | None:
        """The number of the large message that is being received, and how much of it came, to the kernel at least."""
        large = self.peer.connection.large_progress
        return None if large is None else (large[0], large[1] + pending_bytes(self._fd))

    def _stands_still(self, before: tuple[int, int], least_bytes: int) -> bool:
        now = self._large_progress()
        return now is not None and now[0] == before[0] and now[1] - before[1] < least_bytes
