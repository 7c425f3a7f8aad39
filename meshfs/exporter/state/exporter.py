"""The exporter itself: what all its connections share. No I/O of its own.

    Peer.received -> dispatch -> runner.add     ``touch`` notes the runner, ``pump`` starts it
    runner -> on_done -> Peer.send              notes the peer in ``dirty``; its replies leave
                                                once per batch, by whoever runs the batch

A batch is one turn of one node (`processor.py`), or what else is done in one go. Inside
``begin_batch`` .. ``end_batch`` replies are sent a few at a time (``Peer.send``), the rest at
its end; outside, ``on_dirty`` is told once.
"""

import logging
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Callable
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from meshfs import bugs, limits
from meshfs.buffers import BufferPool
from meshfs.cluster.config import Security
from meshfs.exporter.rules.access import DISK_RIGHTS
from meshfs.exporter.rules.changes import NotifyAction
from meshfs.exporter.rules.holdings import Holdings
from meshfs.exporter.rules.memory_budget import MemoryBudget
from meshfs.exporter.rules.node_usage import Usage
from meshfs.exporter.rules.scratch.volume import ScratchVolume
from meshfs.exporter.state.directory import Directory
from meshfs.exporter.state.processor import Processor
from meshfs.exporter.state.session import Session
from meshfs.exporter.state.shares import OfferedDisk, Shares
from meshfs.model import Access
from meshfs.scheduler.runner import Runner
from meshfs.smb.auth import Accounts
from meshfs.smb.constants import SESSION_ID_RELATED, NotifyFilter
from meshfs.smb.messages import filetime
from meshfs.smb.messages.ioctl import NetworkInterface
from meshfs.smb.states import Event, SessionState

if TYPE_CHECKING:
    from meshfs.exporter.state.peer import Peer

logger = logging.getLogger(__name__)

#: What of a disk may have changed that has its name still: its state, its size, or who may do what with it.
_MODIFIED: Final = NotifyFilter.ATTRIBUTES | NotifyFilter.SIZE


class LogLimit:
    """A bucket of log lines for what peers can cause at will; counts what it holds back."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = float(burst)
        self._last = 0.0
        self.held_back = 0

    def allows(self, now: float) -> bool:
        self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
        self._last = now
        if self._tokens < 1:
            self.held_back += 1
            return False
        self._tokens -= 1
        return True


class Exporter:
    """One node's exporter; `take_accounts` and `take_security` change it while it runs."""

    def __init__(
        self,
        name: str,
        accounts: Accounts,
        security: Security = Security.SIGN,
        *,
        shares: Shares | None = None,
        pool: BufferPool | None = None,
        clock: Callable[[], float] = time.monotonic,
        interfaces: Callable[[], tuple[NetworkInterface, ...]] = tuple,
        descriptors: int = limits.DESCRIPTORS_WANTED,
    ) -> None:
        self.name = name
        self.accounts = accounts
        self.security = security
        # Shares without a disk are false, and still the ones to use.
        self.shares = Shares() if shares is None else shares
        #: The files of the share `scratch`; None where there is no such share.
        self.scratch: ScratchVolume | None = None
        self.pool = pool or BufferPool()
        #: What each node has of connections, sessions and memory; ``descriptors`` is what the process may open.
        self.usage = Usage(descriptors, accounts.nodes)
        self.memory = MemoryBudget(self.pool)
        self.clock = clock
        #: Where further channels may be made to, asked for whenever a peer asks.
        self.interfaces = interfaces
        #: The digest of the config in force, which peers are told with the disks.
        self.config_digest = ""
        self.guid = uuid.uuid4().bytes_le
        self.wall_clock: Callable[[], float] = time.time
        self.started_filetime = self.now_filetime()
        self.peers: set[Peer] = set()
        self.sessions: dict[int, Session] = {}
        #: The directories of all opens of the roots of shares of disks.
        self.watched: dict[Directory, None] = {}
        # By node: as many as the config has.
        self._holdings: dict[str, Holdings] = {}
        # Ended, with I/O still at a disk; and who waits for its end.
        self._ending: dict[int, tuple[Session, list[Callable[[], object]]]] = {}
        self.counters: Counter[str] = Counter()
        self.log_limit = LogLimit(limits.PEER_LOG_LINES_PER_S, limits.PEER_LOG_LINES_BURST)
        #: Of lines for what nodes do as they may.
        self.info_limit = LogLimit(limits.PEER_LOG_LINES_PER_S, limits.PEER_LOG_LINES_BURST)
        #: Told when a reply waits to be sent and no batch is under way.
        self.on_dirty: Callable[[], None] = _nobody
        self.dirty: list[Peer] = []
        #: Whose turn it is to have something done.
        self.processor = Processor(self)
        #: The trees of the class system: the id of the session, and in the low 32 bits the tree's.
        self.system_trees: set[int] = set()
        self._touched: list[Runner] = []
        self._batches = 0
        # Different from those of an earlier run.
        self._last_file_id = secrets.randbits(24) << 32
        self.shares.on_change.append(self._tell_watchers)

    def count(self, what: str) -> None:
        self.counters[what] += 1

    def holdings_of(self, node: str) -> Holdings:
        """What the node has here, in all its sessions together."""
        holdings = self._holdings.get(node)
        if holdings is None:
            holdings = self._holdings[node] = Holdings(node, self.limit_reached)
        return holdings

    def find_account(self, user: str) -> tuple[str | None, bytes]:
        """The name and the password's hash of who may log in as the user now, as `Accounts.find`."""
        return self.accounts.find(user)

    def take_accounts(self, accounts: Accounts) -> None:
        """Who may log in from now on. A session whose node could not log in as it did ends: its key is another one."""
        before, self.accounts = self.accounts, accounts
        self.usage.configure(accounts.nodes)
        for session in list(self.sessions.values()):
            if session.user and accounts.find(session.user) != before.find(session.user):
                logger.info("node %s has another key, or left the cluster: its session ends", session.user)
                self.end_session(session, _nobody)

    def take_security(self, security: Security) -> None:
        """What logins have to agree to from now on. A session that is protected less than that ends."""
        self.security = security
        for session in list(self.sessions.values()):
            encrypts_less = security is Security.ENCRYPT and not session.encrypt
            signs_less = security is not Security.NONE and not session.signing_required
            if session.user and (encrypts_less or signs_less):
                logger.info("node %s logged in before more protection was demanded: its session ends", session.user)
                self.end_session(session, _nobody)

    def limit_reached(self, why: str) -> None:
        """A node was refused something, as it has all that a node may have: count it, and log it within limits."""
        self.count("node_limits_reached")
        if self.log_limit.allows(self.clock()):
            logger.warning("refused: %s", why)
        else:
            self.count("log_lines_held_back")

    def now_filetime(self) -> int:
        return filetime(int(self.wall_clock() * 1e9))

    def new_session_id(self) -> int:
        """Neither 0 nor all ones, which have meanings, and told by no other id: a bind's refusal tells which exist."""
        while (session_id := secrets.randbits(64)) in (0, SESSION_ID_RELATED) or session_id in self.sessions:
            pass
        return session_id

    def new_file_id(self) -> int:
        self._last_file_id += 1
        return self._last_file_id

    # --- batches -----------------------------------------------------------------------

    def begin_batch(self) -> None:
        self._batches += 1

    def end_batch(self) -> None:
        """Start the I/O of the batch and send the replies that are there."""
        try:
            self.pump()
        finally:
            self._batches -= 1
        if not self._batches:
            self.flush()

    def touch(self, runner: Runner) -> None:
        """Have the runner's queue looked at when the batch ends; without a batch, when the replies are flushed.

        There is no batch where a compound goes on after the answer of a disk, perhaps at another disk.
        """
        if runner not in self._touched:
            self._touched.append(runner)
            if not self._batches:
                self.on_dirty()

    def pump(self) -> None:
        while self._touched:
            runner = self._touched.pop()
            try:
                runner.pump()
            except Exception as error:
                # The batch has requests for other disks, too.
                bugs.report(logger, f"sending requests to {runner.disk!r}", error)

    def flush(self) -> None:
        """Start the I/O that was queued outside of batches, and send what every peer has to send."""
        self.pump()
        while self.dirty:
            dirty, self.dirty = self.dirty, []
            for peer in dirty:
                peer.dirty = False
                peer.flush()

    def mark_dirty(self, peer: "Peer") -> None:
        self.dirty.append(peer)
        if not self._batches:
            self.on_dirty()

    # --- sessions and disks ------------------------------------------------------------

    def end_session(self, session: Session, then: Callable[[], object]) -> None:
        """Nobody can use it from now on; ``then`` when nothing of it is at a disk any more.

        Asked again while its I/O still ends, ``then`` waits as well: what a lost connection
        left at a disk must have landed before the next login is answered.
        """
        if self.sessions.pop(session.id, None) is None:
            ending = self._ending.get(session.id)
            if ending is None:
                then()
            else:
                ending[1].append(then)
            return
        waiting = [then]
        self._ending[session.id] = (session, waiting)

        def ended() -> None:
            del self._ending[session.id]
            for call in waiting:
                call()

        if session.user:
            self.usage.of(session.user).sessions -= 1
        if session.state not in (SessionState.LOGGING_OFF, SessionState.ENDED):
            session.happened(Event.LOST)
        for peer in {session.peer, *session.channels, *session.binding}:
            peer.forget(session)
        self.system_trees.difference_update(session.id << 32 | tree_id for tree_id in session.trees)
        session.end(ended)

    def unbind(self, session: Session, peer: "Peer") -> None:
        """A connection is lost: the session goes on with its other channels, or ends with its last (3.3.7.1)."""
        if not session.channels.keys() - {peer}:
            self.end_session(session, _nobody)
            return
        peer.forget(session)
        self.count("channels_lost")
        left = len(session.channels)
        peer.log_info("channel of the session of node %s lost, %d left", session.user, left)
        session.leave(peer)

    def end_late_oplock_breaks(self) -> None:
        """Oplocks whose holder did not acknowledge in time are gone; to be called every second or so."""
        if self.scratch is None:
            return
        now = self.clock()
        # The oldest come first, and all have the same time.
        late = list(takewhile(lambda oplock: oplock.is_late(now), self.scratch.breaking))
        self.begin_batch()
        for oplock in late:
            self.count("oplock_breaks_late")
            oplock.holder.drop_oplock()
        self.end_batch()

    def take_config(self, digest: str) -> None:
        """Another config is in force. Initiators that watch the disks are notified, ask again, and get its digest."""
        if digest != self.config_digest:
            self.config_digest = digest
            for disk in self.shares.all()[:1]:
                self.shares.modified(disk)

    def enforce(self, disk: OfferedDisk) -> None:
        """Who may do what with the disk changed: end the opens that may do more than that."""
        for opened in list(disk.opens):
            access = disk.access_of(opened.node)
            if opened.access & ~DISK_RIGHTS[access]:
                opened.close(_nobody)
            elif access is not Access.READ_WRITE:
                opened.stop_excluding()
        self.shares.modified(disk)

    def end_opens(self, disk: OfferedDisk) -> None:
        """What was opened must not go on: its initiators open the disk again, and learn what became of it."""
        for opened in list(disk.opens):
            opened.close(_nobody)

    def withdraw(self, name: str, then: Callable[[OfferedDisk], None]) -> None:
        """Stop offering a disk; ``then`` when all its opens are closed and nothing is in flight."""
        disk = self.shares.remove(name)
        for pending in list(disk.creates):
            pending.retry()
        opens = list(disk.opens)
        left = len(opens) + 1

        def one_less() -> None:
            nonlocal left
            left -= 1
            if not left:
                then(disk)

        for opened in opens:
            opened.close(one_less)
        one_less()

    def _tell_watchers(self, action: int, disk: OfferedDisk) -> None:
        what = int(_MODIFIED if action == NotifyAction.MODIFIED else NotifyFilter.FILE_NAME)
        self.begin_batch()
        for directory in list(self.watched):
            directory.changed(what, action, disk.name)
        self.end_batch()


def _nobody() -> None:
    """Nothing is left to do."""
