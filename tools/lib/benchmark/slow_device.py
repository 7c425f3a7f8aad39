"""Slow block devices whose delay and queueing come from other programs, not from the code under test.

    nbdkit  exports a file on tmpfs, delays every request, and limits the bytes per second
    nbdfuse shows the export as a file; libfuse serves it with 10 threads, so 10 requests are at nbdkit at once
    loop    does direct I/O on that file: a real, asynchronous block device, which io_uring opens like any disk

slow    like a flash disk: 10 requests at once, 5.2 ms each; 190 per second at depth 1, 1,900 from depth 10 on
serial  like a spinning disk: one request at a time, 2.1 ms each; 470 per second at any depth

Both transfer about 220 MB/s in each direction. A thread of nbdfuse keeps a connection while it waits for an answer, so
there must be more connections than threads. No layer caches data: the loop device and FUSE do direct I/O, and nbdkit's
file is in memory.
"""

import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmark.subjects import await_ready, filled, losetup, spawn

DELAY_MS: Final = {"slow": 5, "serial": 2}
RATE_BITS_PER_S: Final = 1_600_000_000
# With nbdkit's default of 2 s, a burst of 400 MB would pass at the speed of memory after each pause.
BURST_S: Final = 0.1
CONNECTIONS: Final = 16


@dataclass(frozen=True)
class SlowDevice:
    """Holds the path of a slow device, and the processes that serve it."""

    path: Path
    pids: dict[str, int]


def slow_device(stack: ExitStack, folder: Path, kind: str, name: str, size_bytes: int) -> SlowDevice:
    """Start a "slow" or "serial" device, which the stack ends. Its files and logs go to the existing `folder`."""
    place = folder / "device"
    place.mkdir()
    backing = Path("/dev/shm") / f"{name}.img"
    stack.callback(backing.unlink, missing_ok=True)
    filled(backing, size_bytes)
    socket, target = place / "nbd.sock", place / "disk"
    target.touch()
    served = spawn(stack, place, *_nbdkit(kind, socket, backing))
    await_ready(socket.exists, f"nbdkit, log in {place}")
    mounted = spawn(stack, place, "nbdfuse", "-C", str(CONNECTIONS), str(target), f"nbd+unix:///?socket={socket}")
    stack.callback(subprocess.run, ["umount", str(target)], check=False, capture_output=True)
    await_ready(lambda: target.stat().st_size == size_bytes, f"nbdfuse on {target}, log in {place}")
    device = losetup(stack, target, direct_io=True)
    return SlowDevice(device, {"nbdkit": served.pid, "nbdfuse": mounted.pid})


def _nbdkit(kind: str, socket: Path, backing: Path) -> list[str]:
    serial = ["--filter=noparallel"] if kind == "serial" else []
    return [
        "nbdkit",
        "--foreground",
        "--unix",
        str(socket),
        "--threads",
        str(CONNECTIONS),
        *serial,
        "--filter=delay",
        "--filter=rate",
        "file",
        str(backing),
        f"rdelay={DELAY_MS[kind]}ms",
        f"wdelay={DELAY_MS[kind]}ms",
        f"rate={RATE_BITS_PER_S}",
        f"burstiness={BURST_S}",
        *(["serialize=all-requests"] if serial else []),
    ]
