"""Notes which disks of an exporter do not answer on purpose, because an administrator suspended or drained them. Pure.

suspended   calls wait at the exporter, each until its own deadline. The disk is not probed, and does not count as
            hung
drained     calls wait as if the owner were away since then (failfast.py). If all disks of an exporter are drained,
            the end of its session is no failure

If a call times out after the end of either, the disk counts as silent only since that end.
"""

from collections.abc import Iterable

from meshfs.model import DiskInfo, DiskState


class OnPurpose:
    """Keeps the notes about one exporter."""

    def __init__(self) -> None:
        #: The time at which each drained disk, by name, was first announced as drained.
        self.drained_since_s: dict[str, float] = {}
        #: The suspended disks, by name.
        self.suspended: frozenset[str] = frozenset()
        #: The time at which the last suspension or drain of a disk, by name, was known to be over.
        self.resumed_s: dict[str, float] = {}
        #: Tells whether all disks of the exporter are drained.
        self.is_leaving = False

    def take(self, disks: Iterable[DiskInfo], now: float) -> bool:
        """Take the disks that the exporter announces now. Return whether other disks are drained than before."""
        states = {disk.name: disk.state for disk in disks}
        before = self.drained_since_s
        self.drained_since_s = {
            name: before.get(name, now) for name, state in states.items() if state is DiskState.DRAINED
        }
        suspended = frozenset(name for name, state in states.items() if state is DiskState.SUSPENDED)
        silent = suspended | self.drained_since_s.keys()
        ended = {name: now for name in (self.suspended | before.keys()) - silent if name in states}
        self.resumed_s = {name: at for name, at in {**self.resumed_s, **ended}.items() if name in states}
        self.suspended = suspended
        self.is_leaving = bool(states) and len(self.drained_since_s) == len(states)
        return self.drained_since_s.keys() != before.keys()

    def is_silent(self, name: str) -> bool:
        """Return whether the disk may leave its calls unanswered."""
        return name in self.suspended or name in self.drained_since_s
