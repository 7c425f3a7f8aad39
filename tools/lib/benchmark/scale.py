"""Measure the largest intended cluster: 16 nodes with 26 disks each and one mount, all on this machine."""

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmark.fio import rss_mib
from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster

NODES: Final = 16
DISKS_PER_NODE: Final = 26
DISK_SIZE_BYTES: Final = 64 * MIB
APPEAR_TIMEOUT_S: Final = 30.0


def scale(folder: Path) -> dict[str, Any]:
    """Return the time until a mount shows all disks, the times of two `ls -lR`, and the resident memory."""
    with ExitStack() as stack:
        cluster = stack.enter_context(LocalCluster(folder, name="scale"))
        for number in range(NODES):
            name = f"n{number + 1}"
            images = [
                cluster.image(f"disk{disk}", DISK_SIZE_BYTES, file=str(folder / "disks" / f"{name}-disk{disk}.img"))
                for disk in range(DISKS_PER_NODE)
            ]
            cluster.add_node(name, images)
        cluster.write()
        cluster.keygen()
        start = time.monotonic()
        cluster.start_exporters()
        exporters_s = time.monotonic() - start
        start = time.monotonic()
        mesh = cluster.mount("n1")
        ready_s = time.monotonic() - start
        by_id = mesh / "disk/by-id"
        while (shown := len(list(by_id.iterdir()))) < NODES * DISKS_PER_NODE:
            if time.monotonic() - start > APPEAR_TIMEOUT_S:
                raise TimeoutError(f"{shown} of {NODES * DISKS_PER_NODE} disks after {APPEAR_TIMEOUT_S:g} s")
            time.sleep(0.02)
        all_s = time.monotonic() - start
        listings_s = [_list(mesh) for _ in range(2)]
        return {
            "exporters": NODES,
            "disks": shown,
            "exporters_start_s": round(exporters_s, 2),
            "mount_ready_s": round(ready_s, 2),
            "all_disks_shown_s": round(all_s, 2),
            "ls_lR_s": [round(took, 2) for took in listings_s],
            "mount_rss_mib": round(rss_mib(cluster.mounts["n1"].pid), 1),
            "exporter_rss_mib": round(rss_mib(cluster.exporters["n1"].pid), 1),
        }


def _list(mesh: Path) -> float:
    start = time.monotonic()
    subprocess.run(["ls", "-lR", str(mesh)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start
