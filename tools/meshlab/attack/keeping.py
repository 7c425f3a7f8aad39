"""Keep a wanted number of connections to the exporter, and replace each one that the exporter closes."""

import select
from collections.abc import Callable
from typing import Final

from meshlab.attack.base import REFUSALS, REFUSED_PAUSE_S, Attack, Client

#: Poll events that show the loss of a connection without reading from it.
_GONE: Final = select.POLLERR | select.POLLHUP | select.POLLRDHUP
#: The pause between two rounds of `Kept.turn`, once all connections exist.
_TURN_S: Final = 0.02


class Kept:
    """Declares a connection that an attack keeps."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def turn(self) -> None:
        """Do the connection's regular work, once per round. Raises one of REFUSALS when the connection has ended."""


def keep(attack: Attack, wanted: int, make: Callable[[], Kept]) -> None:
    """Keep ``wanted`` connections until the attack is over.

    The attack reports that it is ready when all connections exist, or when the exporter has refused one.
    """
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
    """Call each connection's `turn`, and return the descriptors of the connections that have ended."""
    ended = {descriptor for descriptor, _ in poll.poll(0)}
    for descriptor, each in kept.items():
        try:
            each.turn()
        except REFUSALS:
            ended.add(descriptor)
    return ended
