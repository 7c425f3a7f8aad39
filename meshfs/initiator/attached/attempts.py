"""Send a request of a disk until it is answered: wait for the open, send the request again, or give it up.

Every request takes the channel that suits it best. If that channel is lost, the request is sent again on another one.
outcomes.py has what may become of an attempt. ``failed`` finds it out, and ``again`` acts on it. The hot path of a
handle sends its first attempt itself, and calls ``again`` only after that has failed.

Failing fast (failfast.py). A call that waits for the open ends when the exporter has been away for the mount's bound.
While the disk is suspected to hang, all calls wait here, and only the probe is sent.
"""

import errno
import logging
import os
import random
from collections.abc import Callable
from math import inf
from typing import Any, Final

import trio

from meshfs import limits
from meshfs.errors import ChannelLost, StatusError
from meshfs.initiator.attached.denials import Denials
from meshfs.initiator.attached.outcomes import (
    NOT_EXECUTED,
    Earlier,
    MayHaveBeenExecuted,
    Meaning,
    NotExecuted,
    Outcome,
    Over,
    meaning,
)
from meshfs.initiator.attached.shared_open import PortOfOpens, SharedOpen
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.channel.slots import Reply, Slot
from meshfs.initiator.remote.failfast import BlockedCall, ends_at
from meshfs.initiator.session.split import SplitRequest
from meshfs.smb.constants import Command, NtStatus
from meshfs.smb.messages import FileId
from meshfs.smb.status import errno_from_status, status_text

logger = logging.getLogger(__name__)

_READ: Final = int(Command.READ)
#: Refusals of CREATE that end by themselves. Another program closes its exclusive open, or the exporter has started.
_REFUSED_FOR_NOW: Final = (errno.EBUSY, errno.EAGAIN, errno.ENXIO)
#: The operation that is sent even while calls are held.
PROBE: Final = "probe"


class Attempts:
    """Sends the requests of one shared open."""

    def __init__(self, disk: PortOfOpens, shared: SharedOpen) -> None:
        self.shared = shared
        self._disk = disk
        self._exporter = disk.exporter
        self._denials = Denials()

    # --- waiting for the open --------------------------------------------------------------

    async def usable(self, op: str, deadline: float, size: int = 0) -> Channel:
        """Wait until the open may be used, and return the channel to use.

        Raises TimeoutError at the deadline, and OSError if the exporter refuses the open. The deadline may be earlier
        than given, and may change while the call waits (failfast.py).
        """
        channel = self._pick(op, size)
        if channel is not None:
            return channel
        waiting = BlockedCall(self._disk.info.name, op, trio.current_time(), deadline)
        if op != PROBE:
            self._exporter.waiting.add(waiting)
        try:
            while (channel := self._pick(op, size)) is None:
                self._raise_refusal(op)
                waiting.ends_s = self._ends_at(op, deadline)
                if trio.current_time() >= waiting.ends_s:
                    raise self._timeout()
                with trio.move_on_at(waiting.ends_s):
                    await self.shared.changed.wait()
            return channel
        finally:
            self._exporter.waiting.discard(waiting)

    def _pick(self, op: str, size: int) -> Channel | None:
        session = self.shared.reachable if op == PROBE else self.shared.session
        return None if session is None else session.pick(size, trio.current_time())

    def _ends_at(self, op: str, deadline: float) -> float:
        """Return when a call that waits now ends. The probe keeps its deadline, since all other calls wait for it."""
        if op == PROBE:
            return deadline
        disk = self._disk
        return disk.answers.ends_at(ends_at(deadline, disk.io_timeout_s, disk.away_since_s), disk.io_timeout_s)

    def _raise_refusal(self, op: str) -> None:
        self.shared.raise_ended()
        refusal = self.shared.refusal
        if refusal is not None and (op == "open" or refusal.errno not in _REFUSED_FOR_NOW):
            # The disk of an open file is not offered any more, for example because its device was pulled.
            gone = refusal.errno == errno.ENOENT and op != "open"
            raise OSError(errno.ENODEV if gone else refusal.errno, refusal.strerror)

    def _timeout(self) -> TimeoutError:
        exporter = self._exporter
        why = f"exporter {exporter.node} is {exporter.state.value} ({exporter.why})" if exporter.why else "no answer"
        if not exporter.why and self._disk.silent_on_purpose:
            latest = self._disk.latest()
            why = f"the disk is {latest.state}: {latest.why}"
        elif not exporter.why and self._disk.answers.hung(trio.current_time(), self._disk.io_timeout_s):
            why = "the disk hangs, so calls fail at once until it answers"
        return TimeoutError(errno.ETIMEDOUT, f"disk {self._disk.info.name}: {why}")

    # --- sending until there is an answer ----------------------------------------------------

    async def again(
        self,
        op: str,
        deadline: float,
        start: Callable[[Channel, bool], Slot],
        size: int = 0,
        earlier: Earlier = NOT_EXECUTED,
    ) -> Any:
        """Send a request until it is answered, and return its result. Raises OSError for a refusal, or TimeoutError.

        ``start`` gets the channel, and whether the request may have been executed before. ``earlier`` says what may
        have become of an attempt before this call.
        """
        pause_s = 0.0
        try:
            while True:
                channel = await self.usable(op, deadline, size)
                if trio.current_time() >= deadline:
                    raise self._timeout()
                slot, file_id = None, self.shared.file_id
                try:
                    slot = start(channel, isinstance(earlier, MayHaveBeenExecuted))
                    result = await slot
                    if type(result) is Reply and result.status:
                        raise StatusError(result.status, status_text(result.status))
                    return result
                except BaseException as error:
                    outcome = self.failed(error, channel, file_id, slot)
                    if isinstance(outcome, Over):
                        outcome.end()
                    if isinstance(outcome, MayHaveBeenExecuted):
                        # This stays true, whatever becomes of the next attempts.
                        earlier = outcome
                # If only a channel was lost, another one takes the request at once.
                if pause_s or self.shared.session is None or not channel.why:
                    pause_s = min(max(2 * pause_s, limits.RETRY_DELAY_MIN_S), limits.RETRY_DELAY_MAX_S)
                if trio.current_time() + pause_s >= deadline:
                    raise self._timeout()
                await trio.sleep(pause_s)
        except (TimeoutError, trio.Cancelled):
            self.give_up(earlier)
            raise

    async def probe(self) -> None:
        """Read one block of the disk, and return when the disk has answered. Raises OSError."""
        shared, info = self.shared, self._disk.info
        blocks = info.size_bytes // limits.PROBE_BYTES
        if not blocks:
            return
        # A fixed block could be in the exporter's page cache, or be the one bad block of the disk.
        offset = random.randrange(blocks) * limits.PROBE_BYTES

        def start(channel: Channel, _: bool) -> Slot:
            lane = shared.lane(channel)
            return channel.start_read(shared.tree_id, shared.file_id, offset, limits.PROBE_BYTES, inf, lane)

        await self.again(PROBE, inf, start)

    # --- what became of an attempt -----------------------------------------------------------

    def failed(
        self, error: BaseException, channel: Channel, file_id: FileId, sent: Slot | SplitRequest | None
    ) -> Outcome:
        """Return what became of a request of the open ``file_id`` that ended with ``error``."""
        shared = self.shared
        write = sent is not None and sent.sent and sent.changes
        if isinstance(error, ChannelLost):
            shared.forget_if_ended()
            return MayHaveBeenExecuted(file_id) if write else NOT_EXECUTED
        if isinstance(error, StatusError):
            if error.status == NtStatus.ACCESS_DENIED and sent is not None and self._is_damage(channel, sent):
                return NOT_EXECUTED
            return self._answered(error, channel, file_id)
        # The deadline passed, or the caller was cancelled. A request that was sent may still be executed.
        if write:
            self.give_up(MayHaveBeenExecuted(file_id))
        return Over(error)

    def _answered(self, error: StatusError, channel: Channel, file_id: FileId) -> NotExecuted | Over:
        """Return what became of a request that was answered with an error status, and act on the loss of an open."""
        what = meaning(error.status)
        if what is Meaning.REFUSED:
            number = errno_from_status(error.status)
            refusal = OSError(number, f"{os.strerror(number)} ({error})")
            refusal.__cause__ = error
            return Over(refusal)
        if what is Meaning.SESSION_LOST:
            self.shared.session_lost(channel, error.status)
        elif what is Meaning.OPEN_LOST and self.shared.is_now(file_id):
            self.shared.fence()
        return NOT_EXECUTED

    def _is_damage(self, channel: Channel, sent: Slot | SplitRequest) -> bool:
        """Return whether a refusal is taken for damage on the way. If it is, end the channel (denials.py)."""
        part = sent.failed if isinstance(sent, SplitRequest) else sent
        if part is None or not (part.command == _READ or self.shared.writable):
            return False
        if not self._denials.is_damage(trio.current_time()):
            return False
        carrying = next((each for each, lane in self.shared.lanes.items() if lane is part.lane), channel)
        carrying.fail(
            f"{Command(part.command).name} of disk {self._disk.info.name} was refused (ACCESS_DENIED) although its "
            "open allows it: some exporters answer a request like this if it was changed on its way"
        )
        return True

    def give_up(self, earlier: Earlier) -> None:
        """Fence the open of a request whose caller no longer waits, if the request may still be executed.

        This also concerns an open that is not offered now because the other class is fenced. An open that has ended
        needs no fence, because all its writes have ended as well.
        """
        if isinstance(earlier, MayHaveBeenExecuted) and self.shared.is_now(earlier.file_id):
            logger.warning("disk %s: a write was given up; its open is fenced", self._disk.info.name)
            self.shared.fence()
