"""Keeps the state that all connections of the exporter share.

    sessions        the logins of nodes (`sessions.py`)
    disks, enclosures, scratch
                    what the shares offer (`shares.py`, `disks.py`, `enclosures.py`)
    disk_watchers, enclosure_watchers
                    the opens that are notified when a disk or an enclosure changes (`watchers.py`)
    processor       the turns of the thread (`processor.py`)
    batches         the I/O and the replies that start together at the end of a turn (`batches.py`)
    usage, memory   what each node holds, and may hold (`node_usage.py`, `memory_budget.py`)
    log             what peers do, counted and logged (`peer_log.py`)

The exporter does no I/O of its own. It knows of a connection only as much as a session knows.
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
from meshfs.exporter.state.disks import OfferedDisks
from meshfs.exporter.state.enclosures import OfferedEnclosures
from meshfs.exporter.state.peer_log import PeerLog
from meshfs.exporter.state.processor import Processor
from meshfs.exporter.state.session import BoundConnection
from meshfs.exporter.state.sessions import Sessions
from meshfs.exporter.state.shares import SHARE_SCRATCH, SHARES, Share
from meshfs.exporter.state.watchers import RootWatchers
from meshfs.model import Security
from meshfs.smb.auth import Accounts
from meshfs.smb.messages import filetime
from meshfs.smb.messages.ioctl import NetworkInterface

logger = logging.getLogger(__name__)


class Exporter:
    """Represents one node's exporter. `take_accounts`, `take_security` and `take_config` change it at run time."""

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
        # An empty `OfferedDisks` is false, but is used nevertheless.
        self.disks = OfferedDisks() if disks is None else disks
        self.enclosures = OfferedEnclosures()
        #: The files of the share `scratch`, or None if there is no such share.
        self.scratch: ScratchVolume | None = None
        self.pool = pool or BufferPool()
        #: The resources that each node holds. ``descriptors`` is the number of files that the process may open.
        self.usage = UsageByNode(descriptors, accounts.nodes, self.limit_reached)
        self.memory = MemoryBudget(self.pool)
        self.clock = clock
        #: Returns the interfaces to which a peer may make further channels. Called whenever a peer asks for them.
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
        #: `Batches.touch`. Every request for a disk calls this function, and saves one look-up by the attribute.
        self.touch = self.batches.touch
        self.processor = Processor(self.batches)
        # The first id is random. So an id from an earlier run of the exporter names no open of this run.
        self._last_file_id = secrets.randbits(24) << 32
        self.disk_watchers = RootWatchers(self.batches)
        self.disks.on_change.append(self.disk_watchers.notify)
        self.enclosure_watchers = RootWatchers(self.batches)
        self.enclosures.on_change.append(self.enclosure_watchers.notify)

    def find_share(self, name: str) -> Share | None:
        """Return the share of that name, in any case, or None if it is not offered."""
        share = SHARES.get(name.lower())
        return share if share in self.shares() else None

    def shares(self) -> list[Share]:
        """Return the shares that are offered. `scratch` is offered only if it has a volume."""
        return [share for share in SHARES.values() if share.name != SHARE_SCRATCH or self.scratch is not None]

    def find_account(self, user: str) -> tuple[str | None, bytes]:
        """Return the name and the password hash of a user who may log in now, as `Accounts.find` does."""
        return self.accounts.find(user)

    def take_accounts(self, accounts: Accounts) -> None:
        """Let these nodes log in from now on. End the sessions of nodes that left, or have another key."""
        before, self.accounts = self.accounts, accounts
        self.usage.configure(accounts.nodes)
        for session in list(self.sessions.values()):
            if session.user and accounts.find(session.user) != before.find(session.user):
                logger.info("node %s has another key, or left the cluster: its session ends", session.user)
                self.sessions.end(session, nobody)

    def take_security(self, security: Security) -> None:
        """Demand this protection from now on. End the sessions with less protection."""
        self.security = security
        for session in list(self.sessions.values()):
            encrypts_less = security is Security.ENCRYPT and not session.encrypt
            signs_less = security is not Security.NONE and not session.signing_required
            if session.user and (encrypts_less or signs_less):
                logger.info("node %s logged in before more protection was demanded: its session ends", session.user)
                self.sessions.end(session, nobody)

    def limit_reached(self, why: str) -> None:
        """Count and log that a node was refused something, because it holds as much as a node may hold."""
        self.count("node_limits_reached")
        self.log.warning(logger, "refused: %s", why)

    def now_filetime(self) -> int:
        """Return the time of the machine's clock as a FILETIME (MS-DTYP 2.3.3)."""
        return filetime(int(self.wall_clock() * 1e9))

    def new_file_id(self) -> int:
        """Return an id that no open of this exporter had before."""
        self._last_file_id += 1
        return self._last_file_id

    def take_config(self, digest: str) -> None:
        """Advertise the digest of another config from now on.

        The digest is sent together with the list of disks. So a change of one disk is reported, and the initiators that
        watch the list ask for it again.
        """
        if digest != self.config_digest:
            self.config_digest = digest
            for disk in self.disks.all()[:1]:
                self.disks.modified(disk)
