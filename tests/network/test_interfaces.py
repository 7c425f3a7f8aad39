"""Interfaces and their changes as the kernel shows them: veth pairs in namespaces of the tests' own."""

import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import ip_interface

import pytest
import trio

from meshfs.linux.interfaces import Interface, InterfaceChanges, KnownInterfaces, list_interfaces
from support.commands import until
from support.namespaces import in_new_namespace, ip

PAIR = (
    "link add a0 type veth peer name b0",
    # There are no link-local addresses, because their duplicate detection changes things for seconds.
    "link set a0 addrgenmode none",
    "link set b0 addrgenmode none",
    "address add 10.77.1.1/24 dev a0",
    "address add fd77::1/64 dev a0 nodad",
    "link set a0 up",
    "link set b0 up",
)
VETH_BITS_S = 10_000_000_000


def a0() -> dict[str, Interface]:
    """Return what is known of the interface a0, by address."""
    return {str(each.address): each for each in list_interfaces() if each.name == "a0"}


def is_up(*, rather: bool = True) -> bool:
    return {each.up for each in a0().values()} == {rather}


def test_addresses_with_their_networks_speed_and_number() -> None:
    def inside() -> None:
        ip(*PAIR, "link set lo up", "address add fe80::1/64 dev a0 nodad")
        until(is_up, "a0 has a carrier")
        found = a0()
        assert list(found) == ["10.77.1.1/24", "fd77::1/64"], "and no link-local address"
        index = int(subprocess.run(["ip", "-o", "link", "show", "a0"], capture_output=True).stdout.partition(b":")[0])
        assert found["10.77.1.1/24"] == Interface("a0", index, ip_interface("10.77.1.1/24"), VETH_BITS_S)
        told = {str(each.address): each.speed_bits_s for each in list_interfaces() if each.name == "lo"}
        assert told == {"127.0.0.1/8": 0, "::1/128": 0}

    in_new_namespace(inside)


def test_up_is_up_with_a_carrier() -> None:
    def inside() -> None:
        ip(*PAIR)
        until(is_up, "up")
        ip("link set b0 down")
        until(partial(is_up, rather=False), "the peer is down: no carrier, though IFF_UP")
        ip("link set b0 up")
        until(is_up, "up again")
        ip("link set a0 down")
        # The kernel removes the IPv6 addresses with the link, and keeps the IPv4 address.
        assert [(name, each.up) for name, each in a0().items()] == [("10.77.1.1/24", False)]

    in_new_namespace(inside)


def test_an_address_with_a_label_is_of_its_interface() -> None:
    def inside() -> None:
        ip(*PAIR, "address add 10.77.2.1/24 dev a0 label a0:second")
        until(is_up, "up")
        found = a0()
        assert found["10.77.2.1/24"].index == found["10.77.1.1/24"].index
        assert found["10.77.2.1/24"].speed_bits_s == VETH_BITS_S

    in_new_namespace(inside)


@pytest.mark.parametrize(("queues", "rss"), [(1, False), (4, True)])
def test_receive_queues_make_an_interface_rss_capable(queues: int, rss: bool) -> None:
    def inside() -> None:
        ip(f"link add a0 numrxqueues {queues} numtxqueues {queues} type veth peer name b0", *PAIR[1:])
        assert {each.rss for each in a0().values()} == {rss}

    in_new_namespace(inside)


# --- changes


def rings(changes: InterfaceChanges, timeout_s: float = 5.0) -> bool:
    """Return whether the bell rings within the time, in a fresh run of trio, because the bell depends on none."""

    async def within() -> bool:
        with trio.move_on_after(timeout_s):
            await changes.wait()
            return True
        return False

    return trio.run(within)


@pytest.mark.parametrize(
    "change",
    [
        "link set b0 down",
        "link set a0 down",
        "address add 10.77.3.1/24 dev a0",
        "address del 10.77.1.1/24 dev a0",
        "address add fd77::2/64 dev a0 nodad",
        "address del fd77::1/64 dev a0",
        "route add 10.99.0.0/24 via 10.77.1.2",
        "link del a0",
    ],
)
def test_every_change_rings_once(change: str) -> None:
    def inside() -> None:
        ip(*PAIR)
        until(is_up, "up")
        with InterfaceChanges() as changes:
            assert not rings(changes, 0.4)
            ip(change)
            assert rings(changes), "a change before the wait is not missed"
            # The loss of the carrier, or of an address, comes a moment after the link.
            quiet(changes)

    in_new_namespace(inside)


def quiet(changes: InterfaceChanges) -> None:
    """Wait until all consequences of a change have rung (the carrier comes later). Fail if that goes on for long."""
    deadline = time.monotonic() + 10
    while rings(changes, 0.4):
        assert time.monotonic() < deadline, "rings without a change"


def test_a_burst_rings_once() -> None:
    def inside() -> None:
        ip(*PAIR)
        with InterfaceChanges() as changes:
            quiet(changes)
            burst = "".join(f"address add 10.77.9.{n}/32 dev a0\n" for n in range(1, 201))
            subprocess.run(["ip", "-batch", "-"], input=burst.encode(), check=True)
            assert rings(changes)
            assert not rings(changes, 0.5)
            assert len(a0()) == 202

    in_new_namespace(inside)


def test_more_changes_than_the_socket_holds_ring_too() -> None:
    def inside() -> None:
        ip(*PAIR)
        with InterfaceChanges() as changes:
            quiet(changes)
            both = "".join(f"address {{}} 10.{n // 250 + 80}.9.{n % 250}/32 dev a0\n" for n in range(1500))
            for verb in ("add", "del"):
                subprocess.run(["ip", "-batch", "-"], input=both.format(*[verb] * 1500).encode(), check=True)
            assert rings(changes)
            quiet(changes)
            ip("link set a0 down")
            assert rings(changes), "it goes on after ENOBUFS"

    in_new_namespace(inside)


def test_a_cancelled_wait_takes_nothing_and_a_closed_one_ends() -> None:
    async def story() -> None:
        changes = InterfaceChanges()
        await trio.to_thread.run_sync(ip, "link set a0 down")
        with trio.move_on_after(0.01) as soon:
            await changes.wait()
        assert soon.cancelled_caught
        with trio.fail_after(5):
            await changes.wait()
        while True:
            with trio.move_on_after(0.4) as calm:
                await changes.wait()
            if calm.cancelled_caught:
                break
        async with trio.open_nursery() as nursery:

            async def wait_in_vain() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await changes.wait()

            nursery.start_soon(wait_in_vain)
            await trio.sleep(0.2)
            changes.close()
        changes.close()

    def inside() -> None:
        ip(*PAIR)
        until(is_up, "up")
        trio.run(story)

    in_new_namespace(inside)


def test_an_unprivileged_process_sees_and_hears_the_same() -> None:
    def inside() -> None:
        ip(*PAIR)
        until(is_up, "up")
        later = subprocess.Popen(["sh", "-c", "read _; ip link set b0 down"], stdin=subprocess.PIPE)
        before = list_interfaces()
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        assert list_interfaces() == before
        with InterfaceChanges() as changes:
            quiet(changes)
            later.communicate(b"\n", timeout=10)
            assert rings(changes)
            until(partial(is_up, rather=False), "no carrier")

    in_new_namespace(inside)


def test_a_list_that_is_kept_up_to_date() -> None:
    async def story() -> None:
        known = KnownInterfaces()
        before = known.current
        assert before == list_interfaces()
        await trio.to_thread.run_sync(ip, "address add 10.77.3.1/24 dev a0")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(known.run)
            with trio.fail_after(5):
                added = await known.changed_from(before)
                assert await known.changed_from(before) == added == known.current, "at once, for those who come late"
            assert set(added) - set(before) == {each for each in added if str(each.address) == "10.77.3.1/24"}
            await trio.to_thread.run_sync(ip, "route add 10.99.0.0/24 via 10.77.1.2")
            with trio.move_on_after(0.5) as nothing:
                await known.changed_from(added)
            assert nothing.cancelled_caught, "a change that changes no interface"
            nursery.cancel_scope.cancel()
        known.close()

    def inside() -> None:
        ip(*PAIR)
        until(is_up, "up")
        trio.run(story)

    in_new_namespace(inside)


def test_a_process_without_descriptors_learns_of_a_change_when_it_has_some() -> None:
    async def story() -> None:
        known = KnownInterfaces()
        before = known.current
        await trio.to_thread.run_sync(ip, "address add 10.77.3.1/24 dev a0")
        async with trio.open_nursery() as nursery:
            with no_free_descriptors():
                nursery.start_soon(known.run)
                with trio.move_on_after(0.5) as nothing:
                    await known.changed_from(before)
            assert nothing.cancelled_caught
            with trio.fail_after(5):
                assert len(await known.changed_from(before)) == len(before) + 1
            nursery.cancel_scope.cancel()
        known.close()

    def inside() -> None:
        ip(*PAIR)
        until(is_up, "up")
        trio.run(story)

    in_new_namespace(inside)


@contextmanager
def no_free_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in taken:
            os.close(each)
