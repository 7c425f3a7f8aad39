"""The exporter: what all its connections share.

    sessions        who is logged in (`sessions.py`)
    disks, scratch  what is on offer in the shares (`shares.py`, `disks.py`)
    disk_watchers   which opens are notified when a disk changes (`disk_watchers.py`)
    processor       whose turn it is to have something done (`processor.py`)
    batches         what starts and leaves together at the end of a turn (`batches.py`)
    usage, memory   what each node holds, and may hold (`node_usage.py`, `memory_budget.py`)
    log             what peers do, counted and logged (`peer_log.py`)

It does no I/O of its own, and knows no connection by more than what a session knows of it.
"""

import logging
import secrets
import time
import uuid
from collections.abc import Callable

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.exporter.rules.memory_budget import MemoryBudget
from meshfs.exporter.rules.node_usage import UsageByNode
from meshfs.exporter.rules.scratch.volume import ScratchVolume
from meshfs.exporter.state.batches import Batches
from meshfs.exporter.state.closing import nobody
from meshfs.exporter.state.disk_watchers import DiskWatchers
from meshfs.exporter.state.disks import OfferedDisks
from meshfs.exporter.state.peer_log import PeerLog
from meshfs.exporter.state.processor import Processor
from meshfs.exporter.state.session import BoundConnection
from meshfs.exporter.state.sessions import Sessions
from meshfs.exporter.state.shares import SHARE_SCRATCH, SHARES, Share
from meshfs.model import Security
from meshfs.smb.auth import Accounts
from meshfs.smb.messages import filetime
from meshfs.smb.messages.ioctl import NetworkInterface

logger = logging.getLogger(__name__)


class Exporter:
    """One node's exporter. `take_accounts`, `take_security` and `take_config` change it while it runs."""

    def __init__(
        self,
        name: str,
        accounts: Accounts,
        security: Security = Security.SIGN,
        *,
        disks: OfferedDisks | None = None,
        pool: BufferPool | None = None,
        clock: Callable[[], float] = time.monotonic,
        interfaces: Callable[[], tuple[NetworkInterface, ...]] = tuple,
        descriptors: int = limits.DESCRIPTORS_WANTED,
    ) -> None:
        self.name = name
        self.accounts = accounts
        self.security = security
        # An empty collection is false, and still the one to use.
        self.disks = OfferedDisks() if disks is None else disks
        #: The files of the share `scratch`; None where there is no such share.
        self.scratch: ScratchVolume | None = None
        self.pool = pool or BufferPool()
        #: What each node holds; ``descriptors`` is how many files the process may open.
        self.usage = UsageByNode(descriptors, accounts.nodes, self.limit_reached)
        self.memory = MemoryBudget(self.pool)
        self.clock = clock
        #: Called for the interfaces that a peer may make further channels to, whenever a peer asks for them.
        self.interfaces = interfaces
        #: The digest of the config in force, which is advertised together with the disks.
        self.config_digest = ""
        self.guid = uuid.uuid4().bytes_le
        self.wall_clock: Callable[[], float] = time.time
        self.started_filetime = self.now_filetime()
        self.log = PeerLog(clock)
        self.counters, self.count = self.log.counters, self.log.count
        self.peers: set[BoundConnection] = set()
        self.sessions = Sessions(self.usage, self.count)
        self.batches = Batches()
        #: `Batches.touch`. Every request for a disk calls it, and is spared one look-up.
        self.touch = self.batches.touch
        #: Whose turn it is to have something done.
        self.processor = Processor(self.batches)
        # Random, so that an id that an earlier run of this exporter gave out names no open of this one.
        self._last_file_id = secrets.randbits(24) << 32
        self.disk_watchers = DiskWatchers(self.batches)
        self.disks.on_change.append(self.disk_watchers.notify)

    def find_share(self, name: str) -> Share | None:
        """The share of that name, which is found without regard to case; None where it is not offered."""
        share = SHARES.get(name.lower())
        return share if share in self.shares() else None

    def shares(self) -> list[Share]:
        """The shares that are offered: `scratch` only where it has a volume."""
        return [share for share in SHARES.values() if share.name != SHARE_SCRATCH or self.scratch is not None]

    def find_account(self, user: str) -> tuple[str | None, bytes]:
        """The account of a user who may log in now, by its name and its password's hash, as `Accounts.find`."""
        return self.accounts.find(user)

    def take_accounts(self, accounts: Accounts) -> None:
        """Let these nodes log in from now on. A session ends whose node is gone, or has another key than before."""
        before, self.accounts = self.accounts, accounts
        self.usage.configure(accounts.nodes)
        for session in list(self.sessions.values()):
            if session.user and accounts.find(session.user) != before.find(session.user):
                logger.info("node %s has another key, or left the cluster: its session ends", session.user)
                self.sessions.end(session, nobody)

    def take_security(self, security: Security) -> None:
        """Demand this protection from now on. A session that is protected less ends."""
        self.security = security
        for session in list(self.sessions.values()):
            encrypts_less = security is Security.ENCRYPT and not session.encrypt
            signs_less = security is not Security.NONE and not session.signing_required
            if session.user and (encrypts_less or signs_less):
                logger.info("node %s logged in before more protection was demanded: its session ends", session.user)
                self.sessions.end(session, nobody)

    def limit_reached(self, why: str) -> None:
        """Count and log that a node was refused something, because it has as much as a node may have."""
        self.count("node_limits_reached")
        self.log.warning(logger, "refused: %s", why)

    def now_filetime(self) -> int:
        """The time of the machine's clock as a FILETIME (MS-DTYP 2.3.3)."""
        return filetime(int(self.wall_clock() * 1e9))

    def new_file_id(self) -> int:
        """An id that no open of this exporter had before."""
        self._last_file_id += 1
        return self._last_file_id

    def take_config(self, digest: str) -> None:
        """Advertise the digest of another config.

        A change of any disk makes the initiators that watch the list ask for it again, and get the digest with it.
        """
        if digest != self.config_digest:
            self.config_digest = digest
            for disk in self.disks.all()[:1]:
                self.disks.modified(disk)
