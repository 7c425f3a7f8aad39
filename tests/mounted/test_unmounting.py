"""A mount ends while it is still in use."""

import errno
import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, Running

pytestmark = pytest.mark.mounted

GUARD_S = 60


@pytest.fixture
def cluster(new_cluster: Callable[..., LocalCluster]) -> LocalCluster:
    cluster = new_cluster()
    cluster.add_node("n1", [cluster.image("disk0", MIB)])
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    cluster.mount("n1")
    return cluster


@pytest.fixture
def opened(cluster: LocalCluster) -> Iterator[list[int]]:
    """Return the descriptors that keep the mount busy."""
    disk = cluster.mountpoint("n1") / "disk/by-node/n1/disk0"
    descriptors = [os.open(disk, os.O_RDWR | os.O_DIRECT)]
    yield descriptors
    for descriptor in descriptors:
        # If the mount is dead by now, close(2) fails, and closes the descriptor.
        with suppress(OSError):
            os.close(descriptor)


def ask_to_end(running: Running) -> None:
    running.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GUARD_S
    while "the mount is still served, for" not in Path(running.log).read_text():
        assert time.monotonic() < deadline
        assert running.process.poll() is None
        time.sleep(0.05)


def test_a_mount_in_use_serves_until_it_is_free(cluster: LocalCluster, opened: list[int]) -> None:
    running = cluster.mounts["n1"]
    ask_to_end(running)
    assert os.pread(opened[0], MIB, 0) == bytes(MIB)
    assert running.process.poll() is None
    os.close(opened.pop())
    assert running.process.wait(GUARD_S) == 0
    assert not os.path.ismount(cluster.mountpoint("n1"))


def test_a_second_signal_does_not_wait_for_the_users(cluster: LocalCluster, opened: list[int]) -> None:
    running = cluster.mounts["n1"]
    ask_to_end(running)
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(GUARD_S) == 0
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        os.pread(opened[0], 4096, 0)


def test_the_process_of_a_mount_is_spared_when_systemd_ends_all_that_is_left(cluster: LocalCluster) -> None:
    """The test checks what systemd looks at. That systemd spares the process can only be seen outside a container."""
    assert Path(f"/proc/{cluster.mounts['n1'].pid}/cmdline").read_bytes().startswith(b"@")


@pytest.mark.parametrize("how", ["umount", "SIGTERM"])
def test_what_nobody_flushed_is_flushed_at_the_owner(cluster: LocalCluster, how: str) -> None:
    running = cluster.mounts["n1"]
    disk = os.open(cluster.mountpoint("n1") / "disk/by-node/n1/disk0", os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 4096) as page:
            assert os.pwrite(disk, page, 0) == 4096
        [before] = cluster.control("n1")["disks"]
        assert before["flushes"] == 0
        if how == "SIGTERM":
            ask_to_end(running)
    finally:
        os.close(disk)
    if how == "umount":
        cluster.unmount("n1")
    assert running.process.wait(GUARD_S) == 0
    [after] = cluster.control("n1")["disks"]
    assert after["flushes"] == 1
