"""What an exporter advertises of its interfaces, from what the machine has and what the config names."""

from ipaddress import ip_address, ip_interface

from meshfs import limits
from meshfs.exporter.serving.interfaces import offered
from meshfs.linux.interfaces import Interface
from meshfs.smb.messages.ioctl import NetworkInterface, pack_interfaces, unpack_interfaces

FAST = 25_000_000_000


def one(name: str, index: int, address: str, **more: object) -> Interface:
    return Interface(name, index, ip_interface(address), **more)  # type: ignore[arg-type]


def test_one_entry_per_address_of_the_config_in_its_order() -> None:
    interfaces = [
        one("eth0", 2, "10.1.0.1/24", speed_bits_s=FAST, rss=True),
        one("eth0", 2, "fd00::1/64", speed_bits_s=FAST, rss=True),
        one("eth1", 3, "10.2.0.1/24"),
        one("eth2", 4, "10.3.0.1/24", speed_bits_s=FAST),
    ]
    told = offered(["10.2.0.1", "fd00:0::1", "10.1.0.1", "10.2.0.1", "192.0.2.9"], interfaces)
    assert told == (
        NetworkInterface(3, ip_address("10.2.0.1"), limits.LINK_SPEED_ASSUMED_BITS_S, 0),
        NetworkInterface(2, ip_address("fd00::1"), FAST, NetworkInterface.RSS_CAPABLE),
        NetworkInterface(2, ip_address("10.1.0.1"), FAST, NetworkInterface.RSS_CAPABLE),
    )
    assert unpack_interfaces(pack_interfaces(told)) == told


def test_what_nobody_can_reach_is_left_out() -> None:
    interfaces = [
        one("eth0", 2, "10.1.0.1/24", up=False),
        one("eth1", 3, "fe80::1/64"),
        one("odd", 0, "10.3.0.1/24"),
    ]
    assert offered(["10.1.0.1", "fe80::1", "10.3.0.1"], interfaces) == ()


def test_an_address_that_moved_is_told_where_it_is_up() -> None:
    interfaces = [one("eth0", 2, "10.1.0.1/24", up=False), one("eth1", 3, "10.1.0.1/24")]
    assert [each.index for each in offered(["10.1.0.1"], interfaces)] == [3]


def test_loopback_has_addresses_nobody_lists() -> None:
    loopback = [one("lo", 1, "127.0.0.1/8"), one("lo", 1, "::1/128")]
    told = offered(["127.0.0.3", "::1"], loopback)
    assert [(each.index, str(each.address)) for each in told] == [(1, "127.0.0.3"), (1, "::1")]
    assert offered(["10.0.0.2"], [one("eth0", 2, "10.0.0.1/8")]) == (), "other networks' addresses are neighbours"


def test_never_more_than_a_reader_takes() -> None:
    many = [one("eth0", 2, f"10.0.{n // 250}.{n % 250}/16") for n in range(limits.NETWORK_INTERFACES_MAX + 9)]
    told = offered([str(each.address.ip) for each in many], many)
    assert unpack_interfaces(pack_interfaces(told)) == told
    assert len(told) == limits.NETWORK_INTERFACES_MAX
