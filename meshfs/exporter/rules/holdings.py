"""Counts what one node holds at the exporter, in all its sessions and connections, and bounds each count. Pure.

Limits of a session, a connection or an open do not bound a node, because a node may have many of them. Therefore each
kind of thing that a peer can pile up is a `Resource` with a limit for each node. Some resources have one more limit
for each node and disk, so that a node's use of one disk leaves room for its use of the others.

    holdings.take(Resource.OPENS, disk)         raises StatusError INSUFFICIENT_RESOURCES, or counts one more
    holdings.give_back(Resource.OPENS, disk)
"""

import enum
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.smb.constants import NtStatus

_T = TypeVar("_T")


class Resource(enum.StrEnum):
    """Lists the resources. The value is the name of the resource in error texts and in the status."""

    OPENS = "opens"
    TREES = "connected shares"
    NOTIFIES = "waiting change notifications"
    LOCKS = "byte-range locks"
    WAITING_LOCKS = "waiting byte-range locks"
    WAITING_CREATES = "waiting opens"
    WATCHES = "watched directories"
    CONTENTS = "open enclosures with their content"
    CONTROLS = "control pages at enclosures"


#: The most that a node may hold of each resource at the whole exporter.
NODE_MOST: Final[Mapping[Resource, int]] = {
    Resource.OPENS: limits.OPENS_PER_NODE_MAX,
    Resource.TREES: limits.TREES_PER_NODE_MAX,
    Resource.NOTIFIES: limits.NOTIFIES_PER_NODE_MAX,
    Resource.LOCKS: limits.LOCKS_PER_NODE_MAX,
    Resource.WAITING_LOCKS: limits.WAITING_LOCKS_PER_NODE_MAX,
    Resource.WAITING_CREATES: limits.WAITING_CREATES_PER_NODE_MAX,
    Resource.WATCHES: limits.SCRATCH_WATCHERS_PER_NODE_MAX,
    Resource.CONTENTS: limits.ENCLOSURE_CONTENTS_PER_NODE_MAX,
    Resource.CONTROLS: limits.ENCLOSURE_CONTROLS_PER_NODE_MAX,
}
#: The most that a node may hold of each resource at one disk, or in one scratch file.
TARGET_MOST: Final[Mapping[Resource, int]] = {
    Resource.OPENS: limits.OPENS_PER_NODE_AND_DISK_MAX,
    Resource.LOCKS: limits.LOCKS_PER_NODE_AND_DISK_MAX,
    Resource.WAITING_LOCKS: limits.WAITING_LOCKS_PER_NODE_AND_DISK_MAX,
}


class Holdings:
    """Holds the counts of one node. A target is a disk or a scratch file. Targets are compared by identity."""

    __slots__ = ("_used", "node", "node_most", "on_refusal", "target_most")

    def __init__(
        self,
        node: str,
        on_refusal: Callable[[str], None],
        node_most: Mapping[Resource, int] = NODE_MOST,
        target_most: Mapping[Resource, int] = TARGET_MOST,
    ) -> None:
        self.node = node
        #: Is called with the reason whenever the node is refused something.
        self.on_refusal = on_refusal
        self.node_most = node_most
        self.target_most = target_most
        #: The counts by resource and target. None as a target means the whole exporter. No entry has the count 0.
        self._used: dict[tuple[Resource, object], int] = {}

    def used(self, resource: Resource, target: object = None) -> int:
        return self._used.get((resource, target), 0)

    def report(self) -> Iterator[tuple[Resource, int, int]]:
        """Yield each resource that the node holds, with the amount that it holds and the amount that it may hold."""
        for resource in Resource:
            if count := self.used(resource):
                yield resource, count, self.node_most[resource]

    def take(self, resource: Resource, target: object = None, count: int = 1) -> None:
        """Count ``count`` more. Raise StatusError, and count nothing, if that is more than the node may hold."""
        used = self._sum(resource, None, count, self.node_most[resource], "")
        if target is not None:
            there = self._sum(resource, target, count, self.target_most[resource], " at one disk")
            self._used[resource, target] = there
        self._used[resource, None] = used

    def check(self, resource: Resource) -> None:
        """Raise StatusError if `take` would, and count nothing. Use this before a step that cannot be undone."""
        self._sum(resource, None, 1, self.node_most[resource], "")

    def take_for(self, begin: Callable[[], _T], resource: Resource, target: object = None) -> _T:
        """Count one more, and return the result of ``begin``. If ``begin`` raises, nothing is counted."""
        self.take(resource, target)
        try:
            return begin()
        except BaseException:
            self.give_back(resource, target)
            raise

    def _sum(self, resource: Resource, target: object, count: int, most: int, where: str) -> int:
        used = self.used(resource, target)
        if used + count > most:
            why = f"node {self.node} has {used} {resource} of at most {most}{where}, and wants {count} more"
            self.on_refusal(why)
            raise StatusError(NtStatus.INSUFFICIENT_RESOURCES, why)
        return used + count

    def give_back(self, resource: Resource, target: object = None, count: int = 1) -> None:
        """Count ``count`` less. They were taken with the same target."""
        self._less(resource, None, count)
        if target is not None:
            self._less(resource, target, count)

    def _less(self, resource: Resource, target: object, count: int) -> None:
        left = self.used(resource, target) - count
        assert left >= 0, f"more {resource} of node {self.node} are given back than were taken"
        if left:
            self._used[resource, target] = left
        else:
            self._used.pop((resource, target), None)

    @property
    def is_empty(self) -> bool:
        """Return whether everything that was taken was given back."""
        return not self._used
