"""A peer of a channel's window: it hands out credits, and it answers the requests that a test asks for."""

import random
from dataclasses import dataclass

from meshfs import limits
from meshfs.initiator.channel.credits import ChannelCredits, Lane
from meshfs.model import IoClass
from meshfs.smb.credits import CreditAccount

APP, SYSTEM = IoClass.APP, IoClass.SYSTEM
MIB_CHARGE = 16


@dataclass(eq=False)
class Ask:
    lane: Lane
    charge: int
    wanted: bool = True


class Peer:
    """A window whose requests the test answers."""

    def __init__(self, credits: int = limits.CREDITS_MAX) -> None:
        self.credits = CreditAccount()
        self.credits.grant(credits - self.credits.available)
        self.total = credits
        self.window: ChannelCredits[Ask] = ChannelCredits(self.credits)
        self.in_flight: list[Ask] = []
        #: All requests that had to wait, in the order in which they were started.
        self.granted: list[Ask] = []

    def ask(self, lane: Lane, charge: int) -> Ask:
        ask = Ask(lane, charge)
        if self.window.start(lane, charge) is None:
            self.window.wait(lane, ask)
            self.pump()
        else:
            self.in_flight.append(ask)
        self.check()
        return ask

    def pump(self) -> None:
        while turn := self.window.next(idle=not self.in_flight):
            self.in_flight.append(turn[0])
            self.granted.append(turn[0])

    def answer(self, ask: Ask) -> None:
        self.in_flight.remove(ask)
        ask.lane.held -= ask.charge
        self.credits.grant(ask.charge)
        if self.window.waiting:
            self.pump()
        self.check()

    def fill(self, lane: Lane, charge: int, depth: int = 600) -> list[Ask]:
        return [self.ask(lane, charge) for _ in range(depth)]

    def check(self) -> None:
        held = sum(ask.charge for ask in self.in_flight)
        assert self.credits.available == self.total - held >= 0
        assert held == sum({ask.lane: ask.lane.held for ask in self.in_flight}.values())


def churn(peer: Peer, rng: random.Random, rounds: int) -> None:
    """Answer requests in flight at random, and ask again for each at once."""
    for _ in range(rounds):
        ask = rng.choice(peer.in_flight)
        peer.answer(ask)
        peer.ask(ask.lane, ask.charge)
