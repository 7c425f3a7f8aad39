"""Connections that an attack keeps: as many as wanted, and each that the exporter ends is made anew."""

import select
from collections.abc import Callable
from typing import Final

from meshlab.attack.base import REFUSALS, REFUSED_PAUSE_S, Attack, Client

#: Shows that a connection is lost without reading from it.
_GONE: Final = select.POLLERR | select.POLLHUP | select.POLLRDHUP
#: Between two turns of the connections, once all are there.
_TURN_S: Final = 0.02


class Kept:
    """One of them."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def turn(self) -> None:
        """Called every now and then; raises one of REFUSALS when the connection is over."""


def keep(attack: Attack, wanted: int, make: Callable[[], Kept]) -> None:
    """Have that many until the attack is over. It is in full swing when all are there, or the exporter refuses one."""
    kept: dict[int, Kept] = {}
    poll = select.poll()
    refused = False
    while not attack.over:
        if len(kept) < wanted:
            try:
                made = make()
            except REFUSALS as error:
                attack.counts[f"refused: {type(error).__name__}"] += 1
                refused = True
                attack.rest(REFUSED_PAUSE_S)
            else:
                kept[made.client.socket.fileno()] = made
                poll.register(made.client.socket, _GONE)
        attack.counts["held at most"] = max(attack.counts["held at most"], len(kept))
        if len(kept) >= wanted or refused or attack.is_held_up:
            attack.ready()
        for descriptor in _ended(kept, poll):
            poll.unregister(descriptor)
            kept.pop(descriptor).client.socket.close()
            attack.counts["closed by the exporter"] += 1
        if len(kept) >= wanted:
            attack.rest(_TURN_S)
    for each in kept.values():
        each.client.socket.close()


def _ended(kept: dict[int, Kept], poll: select.poll) -> set[int]:
    """Give each its turn; the descriptors of those that are over."""
    ended = {descriptor for descriptor, _ in poll.poll(0)}
    for descriptor, each in kept.items():
        try:
            each.turn()
        except REFUSALS:
            ended.add(descriptor)
    return ended
