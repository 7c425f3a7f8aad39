"""Several interfaces between two real nodes: all are used, changes are followed, and meshctl shows them."""

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.network import Nic
from support.commands import fio
from support.stamps import StampedLoad
from support.two_paths import STALL_MAX_S, TwoPaths, exporter_alone, fio_load, moved_since, only, two_paths

pytestmark = [pytest.mark.mounted, pytest.mark.network]

#: Equal links share a load about evenly once both have been measured. A smaller share is not sharing.
SHARE_MIN = 0.2
#: An address in LAN 0 that no host has.
NOBODYS = "10.77.0.77"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[TwoPaths]:
    with two_paths(tmp_path) as pair:
        yield pair


def shares(pair: TwoPaths, command: str, *options: str, size: str = "48m") -> list[list[float]]:
    """Run a fio job of that size. Return each link's share of all bytes sent, and of all bytes received."""
    before = [pair.path(lan) for lan in (0, 1)]
    fio(
        pair.disk,
        f"--rw={command}",
        f"--size={size}",
        "--direct=1",
        "--ioengine=libaio",
        *options,
        folder=pair.cluster.folder,
    )
    moved = [moved_since(pair.path(lan), before[lan]) for lan in (0, 1)]
    return [[each / sum(direction) for each in direction] for direction in zip(*moved, strict=True)]


def test_both_interfaces_carry_reads_and_writes(pair: TwoPaths) -> None:
    """The load is many requests at once, and then large ones one at a time, which are split."""
    for options in (("--bs=16k", "--iodepth=32"), ("--bs=1m", "--iodepth=1")):
        sent, _ = shares(pair, "write", *options)
        _, received = shares(pair, "read", *options)
        print(f"{options}: sent {sent}, received {received}")
        assert min(*sent, *received) > SHARE_MIN, options


def test_a_large_request_goes_whole_where_parts_would_not_help(tmp_path: Path) -> None:
    """The other link has a hundredth of the speed, and is tried with a little load now and then."""
    with two_paths(tmp_path, rate=["400mbit", "4mbit"]) as pair:
        # Wait until both have been measured.
        shares(pair, "read", "--bs=1m", "--iodepth=1", size="8m")
        _, received = shares(pair, "read", "--bs=1m", "--iodepth=1")
        print(f"received {received}")
        assert received[1] < 0.1


def take_address(nic: Nic) -> None:
    nic.host.run("ip", "address", "del", nic.interface_address, "dev", nic.name)


def give_address(nic: Nic) -> None:
    nic.host.run("ip", "address", "add", nic.interface_address, "dev", nic.name)


@contextmanager
def busy(pair: TwoPaths) -> Iterator[list[StampedLoad]]:
    """Run a load: fio verifies, and writers with stamps measure how long they waited."""
    loads = [StampedLoad(pair.disk, range(first, first + 64), first) for first in (56 * 256, 57 * 256)]
    with fio_load(pair) as job:
        for load in loads:
            load.start()
        yield loads
        assert job.finish().slowest_s < STALL_MAX_S
        for load in loads:
            load.finish(40)


def test_interfaces_that_come_and_go_are_followed(tmp_path: Path) -> None:
    """What the config names and the nodes lack at the start is used as soon as it is there. What disappears is left.

    An address of the exporter that never appears is shown, and harms nobody.
    """
    with exporter_alone(tmp_path, start=False, more_addresses=[NOBODYS]) as pair:
        ours, theirs = pair.ours[1], pair.theirs[1]
        take_address(ours)
        take_address(theirs)
        pair.cluster.start_exporter("n1")
        pair.cluster.mount("n2")
        with busy(pair) as loads:
            pair.await_more_use(0)
            give_address(theirs)
            give_address(ours)
            print(f"both came: used after {used_after(pair):.2f} s")
            for what, leave, come in (
                ("our address", lambda: take_address(ours), lambda: give_address(ours)),
                ("the exporter's address", lambda: take_address(theirs), lambda: give_address(theirs)),
                ("our interface", lambda: unplug_for_good(ours), ours.plug_in),
            ):
                for load in loads:
                    load.take_slowest()
                leave()
                pair.await_paths(lambda: pair.path(1)["state"] != "connected", f"{what}: left", 5)
                pair.await_more_use(0)
                come()
                reuse_s = used_after(pair)
                stall_s = max(load.take_slowest() for load in loads)
                print(f"{what}: stall {stall_s:.2f} s, used again after {reuse_s:.2f} s")
                assert stall_s < STALL_MAX_S, what
        never = only(pair.exporter()["channels"], NOBODYS)
        assert never["state"] in ("connecting", "down")
        assert never["why"].startswith("cannot connect: ")
        assert never["failures"] > 0


def used_after(pair: TwoPaths) -> float:
    """Wait until LAN 1 is used, and return how long that took."""
    start = time.monotonic()
    pair.await_paths(lambda: pair.path(1)["state"] == "connected", "LAN 1 is connected")
    pair.await_more_use(1)
    return time.monotonic() - start


def unplug_for_good(nic: Nic) -> None:
    nic.host.run("ip", "link", "del", nic.name)


def test_paths_tell_the_truth_about_each_link(pair: TwoPaths) -> None:
    exporter = pair.exporter()
    assert (exporter["state"], exporter["failures"]) == ("connected", 0)
    for lan in (0, 1):
        path = pair.path(lan)
        assert (path["interface"], path["selected"], path["why"], path["failures"]) == (f"eth{lan}", True, "", 0)
        assert path["local"].startswith(pair.ours[lan].address)
    read_once(pair)

    pair.ours[0].down()
    pair.await_paths(lambda: pair.path(0)["state"] != "connected", "our end is down")
    assert (pair.path(0)["selected"], pair.path(0)["why"]) == (False, "interface eth0 is down")
    assert pair.path(1)["state"] == "connected"
    pair.ours[0].up()
    pair.await_both()
    assert (pair.path(0)["selected"], pair.path(0)["why"]) == (True, "")

    failures = pair.path(1)["failures"]
    pair.theirs[1].unplug()
    read_once(pair)
    pair.await_paths(lambda: pair.path(1)["state"] != "connected", "their end is found dead, also without load")
    assert pair.path(1)["selected"]
    assert pair.path(1)["failures"] > failures
    assert "silent" in pair.path(1)["why"]
    assert (pair.exporter()["state"], pair.exporter()["why"]) == ("connected", "")
    asked = pair.cluster.meshctl("paths", str(pair.cluster.mountpoint("n2")), check=False)
    assert asked.returncode == 1, "one that should be there is not"
    pair.theirs[1].plug()
    pair.await_both()
    assert pair.cluster.meshctl("paths", str(pair.cluster.mountpoint("n2"))).returncode == 0

    pair.cluster.stop_exporter("n1")
    pair.await_paths(lambda: "connected" not in pair.states(), "the exporter is gone")
    exporter = pair.exporter()
    assert (exporter["state"], exporter["why"]) == ("down", "cannot connect: Connection refused")
    pair.cluster.start_exporter("n1")
    pair.await_both()
    assert (pair.exporter()["state"], pair.exporter()["why"]) == ("connected", "")


def read_once(pair: TwoPaths) -> None:
    fd = os.open(pair.disk, os.O_RDONLY | os.O_DIRECT)
    assert os.preadv(fd, [mmap.mmap(-1, MIB)], 0) == MIB
    os.close(fd)
