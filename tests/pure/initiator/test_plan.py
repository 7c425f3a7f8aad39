"""The paths that are planned between two nodes' interfaces."""

from collections.abc import Callable
from ipaddress import ip_interface

from meshfs import limits
from meshfs.initiator.remote.plan import Choice, Path, plan, speed_text
from meshfs.initiator.session.address import Remote
from meshfs.linux.interfaces import Interface

G = 1_000_000_000


def local(name: str, address: str, speed: int = 10 * G, *, up: bool = True, rdma: bool = False) -> Interface:
    return Interface(name, int(name[-1]) + 1, ip_interface(address), speed, up, rdma)


def remote(address: str, speed: int = 10 * G, *, rdma: bool = False) -> Remote:
    return Remote(address, speed, 1, rdma)


ETH0, ETH1 = local("eth0", "10.0.1.1/24"), local("eth1", "10.0.2.1/24")


def choose(
    locals_: list[Interface],
    remotes: list[Remote],
    channels: int = 1,
    works: Callable[[Path], bool] = lambda path: True,
    *,
    rdma: bool = False,
) -> tuple[Choice, ...]:
    return plan(locals_, remotes, channels=channels, works=works, rdma=rdma)


def ends(choices: tuple[Choice, ...], *, selected: bool = True) -> list[tuple[str, str]]:
    return [
        (choice.path.local.name if choice.path.local else "", choice.path.remote.address)
        for choice in choices
        if bool(choice.why_not) is not selected
    ]


def test_each_network_has_its_pair() -> None:
    choices = choose([ETH0, ETH1], [remote("10.0.1.2"), remote("10.0.2.2")])
    assert ends(choices) == [("eth0", "10.0.1.2"), ("eth1", "10.0.2.2")]
    assert not any(choice.path.ambiguous for choice in choices)


def test_in_one_network_the_fastest_pair_off_and_none_is_used_twice_before_all_are() -> None:
    here = [local("eth0", "10.0.1.1/24", 10 * G), local("eth1", "10.0.1.3/24", 25 * G)]
    choices = choose(here, [remote("10.0.1.5", 10 * G), remote("10.0.1.6", 25 * G)])
    assert ends(choices) == [("eth1", "10.0.1.6")]
    assert ends(choices, selected=False) == [("eth0", "10.0.1.5")]
    assert all(choice.path.ambiguous for choice in choices)
    uneven = choose([ETH0], [remote("10.0.1.5"), remote("10.0.1.6"), remote("10.0.1.7")])
    assert ends(uneven) == [("eth0", f"10.0.1.{last}") for last in (5, 6, 7)]


def test_a_link_that_goes_down_pairs_nothing_anew() -> None:
    remotes = [remote("10.0.1.5"), remote("10.0.1.6")]
    both = [local("eth0", "10.0.1.1/24"), local("eth1", "10.0.1.3/24")]
    one = [local("eth0", "10.0.1.1/24", up=False), local("eth1", "10.0.1.3/24")]
    before, after = choose(both, remotes), choose(one, remotes)
    assert [choice.path.key for choice in before] == [choice.path.key for choice in after]
    assert ends(after) == [("eth1", "10.0.1.6")]


def test_an_interface_with_two_addresses_in_one_network_is_one_interface() -> None:
    here = [ETH0, local("eth0", "10.0.1.9/24")]
    assert len(choose(here, [remote("10.0.1.2")])) == 1


def test_an_address_on_no_link_is_left_to_the_routes() -> None:
    (choice,) = choose([ETH0], [remote("192.0.2.7")])
    assert (choice.path.local, choice.why_not) == (None, "")
    (unix,) = choose([ETH0], [Remote("/run/n1.sock")])
    assert unix.path.local is None


def test_the_narrowest_network_counts() -> None:
    wide = local("eth0", "10.0.0.1/8")
    assert ends(choose([wide, ETH1], [remote("10.0.2.2")])) == [("eth1", "10.0.2.2")]


def test_a_slower_pair_idles_while_the_faster_works() -> None:
    slow = local("eth1", "10.0.2.1/24", G)
    remotes = [remote("10.0.1.2"), remote("10.0.2.2", G)]
    choices = choose([ETH0, slow], remotes)
    assert ends(choices) == [("eth0", "10.0.1.2")]
    assert choices[1].why_not == "slower (1 Gbit/s) than others (10 Gbit/s)"
    broken = choose([ETH0, slow], remotes, works=lambda path: path.speed_bits_s < 10 * G)
    assert ends(broken) == [("eth0", "10.0.1.2"), ("eth1", "10.0.2.2")], "the broken one is tried on"


def test_the_slower_end_is_the_pairs_speed_and_half_is_enough() -> None:
    half = local("eth1", "10.0.2.1/24", 5 * G)
    choices = choose([ETH0, half], [remote("10.0.1.2"), remote("10.0.2.2", 40 * G)])
    assert [choice.path.speed_bits_s for choice in choices] == [10 * G, 5 * G]
    assert not any(choice.why_not for choice in choices)


def test_a_speed_nobody_tells_is_said_to_be_assumed() -> None:
    choices = choose([ETH0], [remote("10.0.1.2"), Remote("192.0.2.7")])
    assert choices[1].why_not == "slower (taken for 1 Gbit/s) than others (10 Gbit/s)"


def test_before_the_exporter_told_its_speeds_everything_is_tried() -> None:
    virtual = [local("eth0", "10.0.1.1/24", 0), local("eth1", "10.0.2.1/24", 0)]
    assert len(ends(choose(virtual, [Remote("10.0.1.2"), Remote("10.0.2.2")]))) == 2


def test_an_interface_that_is_down_is_not_used() -> None:
    choices = choose([local("eth0", "10.0.1.1/24", up=False), ETH1], [remote("10.0.1.2"), remote("10.0.2.2")])
    assert ends(choices) == [("eth1", "10.0.2.2")]
    assert [choice.why_not for choice in choices if choice.why_not] == ["interface eth0 is down"]


def test_rdma_goes_first_where_there_is_a_transport_for_it() -> None:
    here = [local("eth0", "10.0.1.1/24", 100 * G), local("eth1", "10.0.2.1/24", rdma=True)]
    remotes = [remote("10.0.1.2", 100 * G), remote("10.0.2.2", rdma=True)]
    assert ends(choose(here, remotes)) == [("eth0", "10.0.1.2")]
    chosen = choose(here, remotes, rdma=True)
    assert ends(chosen) == [("eth1", "10.0.2.2")]
    assert chosen[0].why_not == "others have RDMA"
    without = choose(here, remotes, rdma=True, works=lambda path: not path.rdma)
    assert ("eth0", "10.0.1.2") in ends(without)


def test_several_channels_a_pair_and_never_too_many() -> None:
    remotes = [remote(f"10.0.1.{last}") for last in range(2, 32)]
    choices = choose([ETH0], remotes, channels=2)
    assert len(ends(choices)) == limits.CHANNELS_PER_SESSION_MAX
    assert {choice.path.number for choice in choices[:30]} == {0}, "the first of every pair goes first"
    assert "the most" in choices[-1].why_not
    assert len({choice.path.key for choice in choices}) == 60


def test_a_path_keeps_its_key_when_more_is_known_of_it() -> None:
    (before,), (after,) = choose([ETH0], [Remote("10.0.1.2")]), choose([ETH0], [remote("10.0.1.2", 25 * G)])
    assert before.path.key == after.path.key
    assert speed_text(100_000_000) == "100 Mbit/s"
