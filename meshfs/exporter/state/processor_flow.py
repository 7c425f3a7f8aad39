"""Keeps the flows that the processor serves in turns, with the replies and the work that wait in them."""

from collections import deque
from typing import Protocol, Self

from meshfs.exporter.rules.turns import TurnClass, TurnFlow
from meshfs.exporter.state.disk_request import PeerDiskRequest
from meshfs.model import FlowKey


class ProcessorFlow(TurnFlow):
    """Holds the work of one node and class at the exporter's processor.

    small, large   requests that disks have answered and that wait for their replies, by the size of the reply
    links          connections that have something to receive, to handle, or to send
    """

    __slots__ = ("large", "links", "small")

    def __init__(self, key: FlowKey, io_class: TurnClass[Self], weight: float) -> None:
        super().__init__(key, io_class, weight)
        self.small: deque[PeerDiskRequest] = deque()
        self.large: deque[PeerDiskRequest] = deque()
        self.links: deque[Work] = deque()


class Work(Protocol):
    """Stands for a part of a connection that works in the turns of its node, for example its link."""

    def step(self, until_s: float) -> ProcessorFlow | None:
        """Work until the time ``until_s`` of the processor's clock. An implementation must not raise.

        Return the flow in which the work that is left waits, or None if nothing is left.
        """
