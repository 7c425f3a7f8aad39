"""I/O through the mount reaches each kind of disk that the guest has."""

import os
from collections.abc import Callable

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalDisk
from support.commands import run
from support.guest_disks import await_disk, await_disks

pytestmark = pytest.mark.guest

KINDS = ("virtio-blk", "virtio-scsi", "nvme")


def test_disks_of_every_kind_are_served(new_cluster: Callable[..., LocalCluster]) -> None:
    cluster = new_cluster()
    devices = {kind: await_disk(kind) for kind in KINDS}
    cluster.add_node("n1", [LocalDisk(kind, device) for kind, device in devices.items()])
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    disks = cluster.mount("n2") / "disk/by-node/n1"
    source = cluster.folder / "source"
    await_disks(*(disks / kind for kind in KINDS))
    for kind, device in devices.items():
        source.write_bytes(os.urandom(4 * MIB))
        run("dd", f"if={source}", f"of={disks / kind}", "bs=1M", "seek=1", "conv=notrunc,fsync", "oflag=direct")
        run("cmp", f"--bytes={4 * MIB}", "--ignore-initial=0:1M", source, device)
        run("cmp", f"--bytes={4 * MIB}", "--ignore-initial=0:1M", source, disks / kind)
    shown = cluster.meshctl("disks", str(disks.parents[2])).stdout
    assert all(f"{kind} " in shown for kind in KINDS), shown
