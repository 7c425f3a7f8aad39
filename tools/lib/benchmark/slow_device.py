"""A slow block device whose slowness and queueing are none of our code.

    nbdkit  file on tmpfs, every request delayed in a thread of its own, bytes per second limited
    nbdfuse its export as a file; libfuse serves it with 10 threads, so 10 requests are served at once
    loop    direct I/O on that file: a real block device, asynchronous, which io_uring opens as any disk

It takes 5.2 ms for one request, 190 a second at depth 1, 1,900 from depth 10 on, about 200 MB/s each way.
nbdfuse holds a connection while it waits on it, so there have to be more connections than threads.
Nothing is cached: the loop device, FUSE and nbdkit's file all see direct I/O or memory.
"""

import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmark.subjects import await_ready, filled, losetup, spawn

DELAY_MS: Final = 5
RATE_BITS_PER_S: Final = 1_600_000_000
# nbdkit's default of 2 s would let a burst of 400 MB pass at memory's speed after each pause.
BURST_S: Final = 0.1
CONNECTIONS: Final = 16


@dataclass(frozen=True)
class SlowDevice:
    path: Path
    pids: dict[str, int]


def slow_device(stack: ExitStack, folder: Path, name: str, size_bytes: int) -> SlowDevice:
    """Bring one up; the stack ends it. `folder` (which is there) gets its files and logs."""
    place = folder / f"slow-{name}"
    place.mkdir()
    backing = Path("/dev/shm") / f"{folder.name}-slow-{name}.img"
    stack.callback(backing.unlink, missing_ok=True)
    filled(backing, size_bytes)
    socket, target = place / "nbd.sock", place / "disk"
    target.touch()
    served = spawn(stack, place, *_nbdkit(socket, backing))
    await_ready(socket.exists, f"nbdkit, log in {place}")
    mounted = spawn(stack, place, "nbdfuse", "-C", str(CONNECTIONS), str(target), f"nbd+unix:///?socket={socket}")
    stack.callback(subprocess.run, ["umount", str(target)], check=False, capture_output=True)
    await_ready(lambda: target.stat().st_size == size_bytes, f"nbdfuse on {target}, log in {place}")
    device = losetup(stack, target, direct_io=True)
    return SlowDevice(device, {"nbdkit": served.pid, "nbdfuse": mounted.pid})


def _nbdkit(socket: Path, backing: Path) -> list[str]:
    return [
        "nbdkit",
        "--foreground",
        "--unix",
        str(socket),
        "--threads",
        str(CONNECTIONS),
        "--filter=delay",
        "--filter=rate",
        "file",
        str(backing),
        f"rdelay={DELAY_MS}ms",
        f"wdelay={DELAY_MS}ms",
        f"rate={RATE_BITS_PER_S}",
        f"burstiness={BURST_S}",
    ]
