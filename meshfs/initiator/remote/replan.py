"""What has to happen to the paths that are kept, so that they become those that the plan asks for. Pure.

`plan` (plan.py) says which paths there may be, and which of them are to be used. Here that answer meets the paths
that are kept already. Nothing is ended by the way: first every path gets its decision, then `Paths` carries them out.

    the plan has the path       and uses it                          USE
                                and does not use it                  REST, or CUT where our interface is down
    the plan does not have it   its addresses are still at the ends  REST
                                one of its addresses is gone         CUT

A path that is to end may carry a channel, and that channel may be the only one of the session:

    channel    others take requests    deed         what is done
    none       any                     REST, CUT    the attempt is given up, where one is under way
    there      no                      REST, CUT    nothing: a link that is down may come up again before it times out
    there      yes                     CUT          the channel fails, as nothing gets through it any more
    there      yes                     REST         it takes no more requests, and closes when it has none in flight
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from meshfs.initiator.remote.plan import Choice, Path
from meshfs.initiator.session.address import Remote
from meshfs.linux.interfaces import Interface


class Deed(enum.Enum):
    """What is to become of a path."""

    #: It is tried until it is connected, and again when it is lost.
    USE = enum.auto()
    #: It is not to be used, although messages may still get through.
    REST = enum.auto()
    #: It is not to be used, and nothing gets through any more.
    CUT = enum.auto()


class Ending(enum.Enum):
    """How a path that is not to be used ends."""

    #: No task works on it, so only its reason is to be noted.
    NOTE = enum.auto()
    #: Its task has no channel of the session, and is cancelled.
    CANCEL = enum.auto()
    #: Its channel carries the session alone, and goes on.
    LEAVE = enum.auto()
    #: Its channel fails at once.
    FAIL = enum.auto()
    #: Its channel takes no more requests, and is closed when it has none in flight.
    RETIRE = enum.auto()


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one path; ``planned`` is False for a path that the plan does not have any more."""

    choice: Choice
    deed: Deed
    planned: bool = True


def decide(
    choices: Iterable[Choice], kept: Iterable[Path], locals_: Sequence[Interface], remotes: Sequence[Remote]
) -> tuple[Decision, ...]:
    """A decision for every choice of the plan, in its order, and then for every kept path that it does not have."""
    left = {path.key: path for path in kept}
    decisions = []
    for choice in choices:
        left.pop(choice.path.key, None)
        local = choice.path.local
        cut = local is not None and not local.up
        deed = Deed.USE if not choice.why_not else Deed.CUT if cut else Deed.REST
        decisions.append(Decision(choice, deed))
    return (*decisions, *_unplanned(left.values(), locals_, remotes))


def _unplanned(left: Iterable[Path], locals_: Sequence[Interface], remotes: Sequence[Remote]) -> Iterable[Decision]:
    up = {(local.name, local.address) for local in locals_ if local.up}
    addresses = {remote.address for remote in remotes}
    for path in left:
        local = path.local
        gone = path.remote.address not in addresses or (local is not None and (local.name, local.address) not in up)
        if gone:
            yield Decision(Choice(path, "the address is gone"), Deed.CUT, planned=False)
        else:
            yield Decision(Choice(path, "its ends are paired otherwise"), Deed.REST, planned=False)


def ending(deed: Deed, *, running: bool, bound: bool, others: bool, takes_requests: bool) -> Ending:
    """Return how a path ends that is not to be used.

    ``bound``: it has a channel of a living session. ``others``: other channels of that session take requests.
    ``takes_requests``: its own channel does; it does not while it is being retired.
    """
    if not bound:
        return Ending.CANCEL if running else Ending.NOTE
    if not others:
        return Ending.LEAVE
    if deed is Deed.CUT:
        return Ending.FAIL
    return Ending.RETIRE if takes_requests else Ending.LEAVE
