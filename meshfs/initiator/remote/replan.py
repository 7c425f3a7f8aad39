"""Find the changes that turn the paths that are kept into those that the plan asks for. Pure.

`plan` (plan.py) says which paths are possible, and which of them are to be used. Here the plan is compared with the
paths that are kept. First every path gets its decision, and then `Paths` carries the decisions out.

    the plan has the path       and uses it                          USE
                                and does not use it                  REST, or CUT if the local interface is down
    the plan does not have it   both ends still have its addresses   REST
                                an end no longer has its address     CUT

A path that is to end may carry a channel, and that channel may be the only one of the session:

    channel    others take requests    deed         what is done
    none       any                     REST, CUT    an attempt that is under way is given up
    there      no                      REST, CUT    nothing: a link that is down may come up again before it times out
    there      yes                     CUT          the channel fails at once, because it loses everything
    there      yes                     REST         it takes no more requests, and closes when it has none in flight
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from meshfs.initiator.remote.plan import Choice, Path
from meshfs.initiator.session.address import Remote
from meshfs.linux.interfaces import Interface


class Deed(enum.Enum):
    """Says what is to become of a path."""

    #: The path is tried until it is connected, and again after a loss.
    USE = enum.auto()
    #: The path is not to be used, although messages may still arrive over it.
    REST = enum.auto()
    #: The path is not to be used, and messages no longer arrive over it.
    CUT = enum.auto()


class Ending(enum.Enum):
    """Says how a path ends that is not to be used."""

    #: The path has no task, so only the reason is noted.
    NOTE = enum.auto()
    #: The path's task has no channel of the session, and is cancelled.
    CANCEL = enum.auto()
    #: The path's channel is the only one of the session that takes requests, or is being retired. It continues.
    LEAVE = enum.auto()
    #: The path's channel fails at once.
    FAIL = enum.auto()
    #: The path's channel takes no more requests, and is closed when it has none in flight.
    RETIRE = enum.auto()


@dataclass(frozen=True, slots=True)
class Decision:
    """Says what becomes of one path. ``planned`` is False for a path that the plan no longer has."""

    choice: Choice
    deed: Deed
    planned: bool = True


def decide(
    choices: Iterable[Choice], kept: Iterable[Path], locals_: Sequence[Interface], remotes: Sequence[Remote]
) -> tuple[Decision, ...]:
    """Return a decision for every choice of the plan, in its order, and then for every kept path that it lacks."""
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

    ``running`` says that the path has a task. ``bound`` says that it has a channel of the present session. ``others``
    says that other channels of the session take requests. ``takes_requests`` says that its own channel takes requests,
    which it does not while it is being retired.
    """
    if not bound:
        return Ending.CANCEL if running else Ending.NOTE
    if not others:
        return Ending.LEAVE
    if deed is Deed.CUT:
        return Ending.FAIL
    return Ending.RETIRE if takes_requests else Ending.LEAVE
