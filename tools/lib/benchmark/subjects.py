"""The measured subjects: meshfs and its nearest peers, each with its own disk of the same kind.

meshfs     meshfsd and meshfs over loopback TCP, once for each kind of security
nbdfuse    nbdkit's file plugin and libnbd's nbdfuse: C at both ends, one export, nothing signed
qsd        nbdkit's file plugin and qemu-storage-daemon's FUSE export, otherwise like nbdfuse

Every subject has its own disk, because an exporter claims its disk exclusively. Also, dirty pages of one subject in the
page cache would slow direct I/O of another.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshlab.cluster.cluster import LocalCluster, LocalDisk, free_port

READY_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 10.0
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True)
class Subject:
    """Describes one subject: the file to measure, and the processes whose CPU time is measured."""

    name: str
    path: Path
    pids: dict[str, int]


@dataclass(frozen=True)
class DiskMake:
    """Holds the function that makes every subject's disk, and the `cache` setting of meshfs for that disk."""

    name: str
    cache: str
    make: Callable[[ExitStack, str, int], Path]


def loop_on_tmpfs(stack: ExitStack, name: str, size_bytes: int) -> Path:
    return losetup(stack, file_on_tmpfs(stack, name, size_bytes))


def file_on_tmpfs(stack: ExitStack, name: str, size_bytes: int) -> Path:
    backing = Path("/dev/shm") / f"meshfs-bench-{name}.img"
    stack.callback(backing.unlink, missing_ok=True)
    filled(backing, size_bytes)
    return backing


def losetup(stack: ExitStack, backing: Path, *, direct_io: bool = False) -> Path:
    command = ["losetup", "--find", "--show", *(["--direct-io=on"] if direct_io else []), str(backing)]
    device = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    stack.callback(subprocess.run, ["losetup", "--detach", str(device)], check=False)
    return device


def _image(stack: ExitStack, name: str, size_bytes: int) -> Path:
    image = Path("/var/tmp") / f"meshfs-bench-{name}.img"
    stack.callback(image.unlink, missing_ok=True)
    filled(image, size_bytes)
    return image


def filled(path: Path, size_bytes: int) -> None:
    """Write the whole file once, so that no measured write allocates and no measured read finds a hole."""
    block = bytes(range(256)) * 4096
    with path.open("wb") as file:
        for _ in range(size_bytes // len(block)):
            file.write(block)


DISKS: Final = {
    "loop": DiskMake("loop", "none", loop_on_tmpfs),
    "image": DiskMake("image", "writeback", _image),
}


def start(stack: ExitStack, folder: Path, make: DiskMake, names: list[str], size_bytes: int) -> list[Subject]:
    """Start every named subject; the stack ends them. Mount points and logs go to `folder`."""
    subjects = []
    for name in names:
        disk = make.make(stack, f"{folder.name}-{make.name}-{name}", size_bytes)
        place = folder / f"{make.name}-{name}"
        place.mkdir()
        kind, _, security = name.partition("-")
        if kind == "meshfs":
            subjects.append(_meshfs(stack, place, disk, make, security))
        else:
            subjects.append(_nbd(stack, place, disk, kind))
    return subjects


def _meshfs(stack: ExitStack, folder: Path, disk: Path, make: DiskMake, security: str) -> Subject:
    cluster = stack.enter_context(LocalCluster(folder, name="bench", security=security))
    cluster.add_node("n1", [LocalDisk("disk0", disk, {"cache": make.cache})])
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    exporter = cluster.start_exporter("n1")
    mount = cluster.mount("n2")
    path = mount / "disk/by-node/n1/disk0"
    pids = {"mount": cluster.mounts["n2"].pid, "exporter": exporter.pid}
    return Subject(f"meshfs-{security}", path, pids)


def _nbd(stack: ExitStack, folder: Path, disk: Path, kind: str) -> Subject:
    port = free_port(LOOPBACK)
    served = spawn(stack, folder, "nbdkit", "-f", "-i", LOOPBACK, "-p", str(port), "file", str(disk))
    target = folder / "disk"
    target.touch()
    await_ready(lambda: _nbd_serves(port), f"nbdkit on port {port}, log in {folder}")
    if kind == "nbdfuse":
        mounted = spawn(stack, folder, "nbdfuse", str(target), f"nbd://{LOOPBACK}:{port}")
    else:
        node = f"driver=nbd,node-name=n0,server.type=inet,server.host={LOOPBACK},server.port={port},export="
        export = f"type=fuse,id=e0,node-name=n0,mountpoint={target},writable=on"
        mounted = spawn(stack, folder, "qemu-storage-daemon", "--blockdev", node, "--export", export)
    stack.callback(subprocess.run, ["umount", str(target)], check=False, capture_output=True)
    await_ready(lambda: target.stat().st_size > 0, f"{kind} on {target}, log in {folder}")
    return Subject(kind, target, {"mount": mounted.pid, "exporter": served.pid})


def _nbd_serves(port: int) -> bool:
    command = ["nbdinfo", "--size", f"nbd://{LOOPBACK}:{port}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def spawn(stack: ExitStack, folder: Path, *command: str) -> subprocess.Popen[bytes]:
    with (folder / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def await_ready(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ready after {READY_TIMEOUT_S:g} s: {what}")
        time.sleep(0.02)


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Yield a temporary folder. It is removed at the end, but stays with its logs if the block fails."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    except Exception:
        print(f"everything was ended; the logs are in {folder}", file=sys.stderr)
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)
