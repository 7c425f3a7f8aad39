"""Hot plug in the largest cluster that is supported: 16 nodes with 26 disks each, under load."""

import random
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from meshlab.cluster.cluster import LocalCluster
from support.hot_plug import IMAGE_BYTES, SHOWN_WITHIN_S, HotPlug, add_nodes, plugged_in
from support.stamps import BLOCK_BYTES, StampedLoad

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(1800)]

NODES = 16
DISKS = 26
#: Every folder has free slots, so that images can move and come from other nodes.
SLOTS = 40
ROUNDS = 16
#: After these rounds, every code path has run, and caches are as large as they get.
WARM_UP_ROUNDS = 8
LOADS = 2
#: The growth of all processes together that is still noise.
DESCRIPTORS_SLACK = 16
MEMORY_SLACK_FRACTION = 0.05


def test_hot_plug_under_load_shows_on_every_mount(tmp_path: Path, soak_s: float) -> None:
    with ExitStack() as stack:
        cluster = stack.enter_context(LocalCluster(tmp_path, name="hotplug"))
        add_nodes(cluster, NODES, DISKS, SLOTS)
        cluster.write()
        cluster.keygen()
        cluster.start_exporters()
        for node in cluster.nodes:
            cluster.launch_mount(node)
        mounts = [cluster.await_mount(cluster.mountpoint(node)) for node in cluster.nodes]
        plugged = dict(plugged_in(cluster))
        assert len(plugged) == NODES * DISKS
        steady = sorted(disk.id for disk in plugged.values() if disk.slot == 1)
        plug = HotPlug(cluster, mounts, plugged, frozenset(steady), SLOTS, random.Random(12))
        _await_all(plug)
        # Each load uses a disk of another node.
        loads = [
            StampedLoad(mounts[n] / "disk/by-id" / steady[-1 - n], range(IMAGE_BYTES // BLOCK_BYTES // 2), n)
            for n in range(LOADS)
        ]
        for load in loads:
            load.start()
        rounds = _run(plug, WARM_UP_ROUNDS, 0)
        before = _usage(cluster)
        rounds += _run(plug, ROUNDS - WARM_UP_ROUNDS, soak_s)
        after = _usage(cluster)
        for load in loads:
            load.finish(SHOWN_WITHIN_S)
        plug.check_all()
    for kind, took_s in sorted(plug.took_s.items()):
        print(
            f"{kind}: {len(took_s)} times, median {sorted(took_s)[len(took_s) // 2]:.2f} s, worst {max(took_s):.2f} s"
        )
    print(f"{rounds} rounds; descriptors {before[0]} to {after[0]}; resident MiB {before[1]:.0f} to {after[1]:.0f}")
    assert after[0] <= before[0] + DESCRIPTORS_SLACK
    assert after[1] <= before[1] * (1 + MEMORY_SLACK_FRACTION)
    late = {kind: max(took_s) for kind, took_s in plug.took_s.items() if max(took_s) > SHOWN_WITHIN_S}
    assert not late, f"changes that were shown too late, in s: {late}"


def _await_all(plug: HotPlug) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            plug.check_all()
        except (AssertionError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _run(plug: HotPlug, rounds: int, soak_s: float) -> int:
    """Run rounds, and further ones for ``soak_s`` seconds. Return how many there were."""
    end = time.monotonic() + soak_s
    done = 0
    while done < rounds or time.monotonic() < end:
        plug.round()
        done += 1
        if done % 10 == 0:
            plug.check_all()
    return done


def _usage(cluster: LocalCluster) -> tuple[int, float]:
    """Return the number of descriptors, and the resident memory in MiB, of all processes together."""
    processes = [psutil.Process(each.pid) for each in [*cluster.exporters.values(), *cluster.mounts.values()]]
    return (
        sum(process.num_fds() for process in processes),
        sum(process.memory_info().rss for process in processes) / (1 << 20),
    )
