"""The paths that begin, go on and end when the plan changes."""

from ipaddress import IPv4Interface

import pytest

from meshfs.initiator.remote.plan import Choice, Path
from meshfs.initiator.remote.replan import Decision, Deed, Ending, decide, ending
from meshfs.initiator.session.address import Remote
from meshfs.linux.interfaces import Interface

R0, R1 = Remote("10.0.0.2"), Remote("10.0.1.2")


def interface(number: int, *, up: bool = True) -> Interface:
    return Interface(f"eth{number}", number + 1, IPv4Interface(f"10.0.{number}.1/24"), 10**9, up)


def test_a_planned_path_is_used_or_rests() -> None:
    used, slower = Choice(Path(R0, interface(0))), Choice(Path(R1, interface(1)), "slower")
    assert decide([used, slower], [slower.path], [interface(0), interface(1)], [R0, R1]) == (
        Decision(used, Deed.USE),
        Decision(slower, Deed.REST),
    )


def test_a_planned_path_whose_interface_is_down_is_cut() -> None:
    down = Choice(Path(R0, interface(0, up=False)), "interface eth0 is down")
    assert decide([down], [down.path], [interface(0, up=False)], [R0]) == (Decision(down, Deed.CUT),)


@pytest.mark.parametrize(
    ("locals_", "remotes", "why", "deed"),
    [
        ([interface(0)], [R0], "its ends are paired otherwise", Deed.REST),
        ([interface(0)], [R1], "the address is gone", Deed.CUT),
        ([interface(1)], [R0], "the address is gone", Deed.CUT),
        ([interface(0, up=False)], [R0], "the address is gone", Deed.CUT),
    ],
)
def test_a_path_that_the_plan_does_not_have_any_more_ends(
    locals_: list[Interface], remotes: list[Remote], why: str, deed: Deed
) -> None:
    path = Path(R0, interface(0))
    assert decide([], [path], locals_, remotes) == (Decision(Choice(path, why), deed, planned=False),)


def test_a_path_is_the_same_whatever_more_is_known_of_its_ends() -> None:
    before, now = Path(R0, interface(0)), Choice(Path(Remote(R0.address, 10**10, 7), interface(0)))
    assert decide([now], [before], [interface(0)], [now.path.remote]) == (Decision(now, Deed.USE),)


@pytest.mark.parametrize(
    ("deed", "running", "bound", "others", "takes_requests", "expected"),
    [
        (Deed.REST, False, False, True, False, Ending.NOTE),
        (Deed.CUT, True, False, True, False, Ending.CANCEL),
        (Deed.CUT, True, True, False, True, Ending.LEAVE),
        (Deed.REST, True, True, False, True, Ending.LEAVE),
        (Deed.CUT, True, True, True, True, Ending.FAIL),
        (Deed.CUT, True, True, True, False, Ending.FAIL),
        (Deed.REST, True, True, True, True, Ending.RETIRE),
        (Deed.REST, True, True, True, False, Ending.LEAVE),
    ],
)
def test_how_a_path_ends(
    deed: Deed, running: bool, bound: bool, others: bool, takes_requests: bool, expected: Ending
) -> None:
    how = ending(deed, running=running, bound=bound, others=others, takes_requests=takes_requests)
    assert how is expected
