"""tools/demo shows a mesh of three nodes on this machine, with real I/O across them.

Each node has two file-backed disks, an exporter (meshfsd) and a mount (meshfs); these are separate processes. A disk of
n1 is written from n2 and read back on n3. Then fio writes and verifies across nodes. At the end, the demo ends all
processes and removes its files, unless --keep is given.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from meshfs.endpoint import format_endpoint
from meshfs.limits import MIB
from meshfs.program.command import run_command
from meshlab.cluster.cluster import BIN, ClusterFailure, LocalCluster, terminated_as_interrupt

NODES: Final = ("n1", "n2", "n3")
DISK_SIZE_BYTES: Final = 256 * MIB
COPY_SIZE_MIB: Final = 64
KEPT: Final = "kept.json"
STOP_TIMEOUT_S: Final = 10.0


def main() -> int:
    return run_command("tools/demo", _main)


def _main() -> int:
    options = _parse()
    if options.stop:
        return stop(options.stop)
    if os.geteuid() != 0:
        print("tools/demo: mounting needs root; run it as root", file=sys.stderr)
        return 1
    folder = Path(tempfile.mkdtemp(prefix="meshfs-demo-"))
    start = time.monotonic()
    try:
        with terminated_as_interrupt():
            _run(folder, keep=options.keep)
    except (ClusterFailure, subprocess.SubprocessError, OSError, KeyboardInterrupt) as error:
        return _failed(folder, error)
    print(f"\nDone in {time.monotonic() - start:.1f} s.")
    if not options.keep:
        shutil.rmtree(folder)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/demo", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running, and print how to use it")
    parser.add_argument("--stop", type=Path, metavar="DIR", help="stop and remove the cluster that --keep left in DIR")
    return parser.parse_args()


def _failed(folder: Path, error: BaseException) -> int:
    output = getattr(error, "stderr", None) or getattr(error, "output", None) or ""
    text = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{error}\n{output}".rstrip()
    print(f"\ntools/demo: FAILED: {text}", file=sys.stderr)
    shutil.rmtree(folder / "disks", ignore_errors=True)
    print(f"tools/demo: everything was ended; the logs are in {folder / 'log'}", file=sys.stderr)
    return 1


def _run(folder: Path, *, keep: bool) -> None:
    cluster = LocalCluster(folder, name="demo")
    try:
        _start(cluster)
        _copy_across_nodes(cluster)
        _verify_with_fio(cluster)
        _show_state(cluster)
    except BaseException:
        cluster.close()
        raise
    if keep:
        _keep(cluster)
        return
    with _step("clean up: umount, end the processes"):
        for name in NODES:
            cluster.unmount(name)
        cluster.close()


def _start(cluster: LocalCluster) -> None:
    print(f"A cluster of three nodes in {cluster.folder}: two disks of {DISK_SIZE_BYTES // MIB} MiB each.")
    for name in NODES:
        disks = [cluster.image(disk, DISK_SIZE_BYTES, file=_image(cluster, name, disk)) for disk in ("disk0", "disk1")]
        cluster.add_node(name, disks)
    cluster.write()
    with _step(f"meshctl keygen {cluster.config.name}: one X25519 key pair per node"):
        cluster.meshctl("keygen", str(cluster.config))
    with _step("start three exporters (meshfsd)"):
        cluster.start_exporters()
    with _step("mount the mesh on each node (meshfs)"):
        for name in NODES:
            cluster.mount(name)
    for name in NODES:
        exporter, mount = cluster.exporters[name].pid, cluster.mounts[name].pid
        node = cluster.nodes[name]
        print(
            f"    {name}: exporter pid {exporter} at {format_endpoint(node.address, node.port)}, mount pid {mount} at "
            f"{cluster.mountpoint(name)}"
        )


def _image(cluster: LocalCluster, node: str, disk: str) -> str:
    return str(cluster.folder / "disks" / f"{node}-{disk}.img")


def _disk(cluster: LocalCluster, seen_from: str, owner: str, name: str) -> Path:
    return cluster.mountpoint(seen_from) / "disk" / "by-node" / owner / name


def _copy_across_nodes(cluster: LocalCluster) -> None:
    source = cluster.folder / "random"
    source.write_bytes(os.urandom(COPY_SIZE_MIB * MIB))
    written, read = _disk(cluster, "n2", "n1", "disk0"), _disk(cluster, "n3", "n1", "disk0")
    back = cluster.folder / "back"
    _show(
        "n2 writes a disk of n1", "dd", f"if={source}", f"of={written}", "bs=1M", "oflag=direct", "conv=notrunc,fsync"
    )
    _show("n3 reads it back", "dd", f"if={read}", f"of={back}", "bs=1M", "iflag=direct", f"count={COPY_SIZE_MIB}")
    _show("what n3 read is what n2 wrote", "cmp", str(source), str(back))
    image = Path(_image(cluster, "n1", "disk0"))
    _show("and what lies in n1's image", "cmp", f"--bytes={COPY_SIZE_MIB * MIB}", str(source), str(image))
    source.unlink()
    back.unlink()


def _verify_with_fio(cluster: LocalCluster) -> None:
    target = _disk(cluster, "n3", "n2", "disk1")
    command = [
        "fio",
        "--name=verify",
        f"--filename={target}",
        "--rw=randwrite",
        "--bs=4k",
        "--size=32M",
        "--direct=1",
        "--ioengine=libaio",
        "--iodepth=16",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--output-format=json",
    ]
    print(f"\nfio from n3 on a disk of n2, every block verified:\n    $ {shlex.join(command)}")
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=cluster.folder)
    job = _json(done.stdout)["jobs"][0]
    for kind in ("write", "read"):
        side = job[kind]
        latency_us = side["clat_ns"]["percentile"]["99.000000"] / 1000
        print(f"    {kind:<6} {side['total_ios']} x 4 KiB   {side['iops']:.0f} IOPS   99% within {latency_us:.0f} us")
    if job["error"]:
        raise ClusterFailure(f"fio: error {job['error']}")


def _json(text: str) -> Any:
    # fio prints warnings before its JSON.
    found = re.search(r"^\{", text, re.MULTILINE)
    return json.loads(text[found.start() :] if found else text)


def _show_state(cluster: LocalCluster) -> None:
    for verb in ("status", "disks", "paths"):
        command = ["meshctl", verb, str(cluster.mountpoint("n3"))]
        print(f"\n    $ {shlex.join(command)}")
        print("    " + cluster.meshctl(*command[1:]).stdout.rstrip().replace("\n", "\n    "))


def _show(what: str, *command: str) -> None:
    print(f"\n{what}:\n    $ {shlex.join(command)}", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode != 0:
        raise ClusterFailure(f"{what}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    # dd's last line has the rate. cmp prints nothing if the data are equal.
    print(f"    {done.stderr.strip().splitlines()[-1] if done.stderr else 'equal'}")


@contextmanager
def _step(what: str) -> Iterator[None]:
    print(f"\n{what} ...", end="", flush=True)
    start = time.monotonic()
    yield
    print(f" {time.monotonic() - start:.2f} s")


def _keep(cluster: LocalCluster) -> None:
    state = {
        "mounts": {str(cluster.mountpoint(name)): running.pid for name, running in cluster.mounts.items()},
        "exporters": [running.pid for running in cluster.exporters.values()],
    }
    (cluster.folder / KEPT).write_text(json.dumps(state))
    print(f"""
The cluster is up. Try:
    ls -l {cluster.mountpoint("n3")}/disk/by-node/*/
    dd if={_disk(cluster, "n3", "n1", "disk0")} of=/dev/null bs=1M iflag=direct
    {BIN}/meshctl status {cluster.mountpoint("n3")}
    {BIN}/meshctl paths {cluster.mountpoint("n3")}
Logs: {cluster.logs}
Stop and remove it:
    tools/demo --stop {cluster.folder}""")


def stop(folder: Path) -> int:
    """End the processes that --keep left, by their stored ids, if these still belong to them. Remove the folder."""
    try:
        state = json.loads((folder / KEPT).read_text())
    except (OSError, ValueError) as error:
        print(f"tools/demo: {folder} has no kept cluster: {error}", file=sys.stderr)
        return 1
    for point in state["mounts"]:
        if os.path.ismount(point) and subprocess.run(["umount", point], check=False).returncode != 0:
            print(f"tools/demo: {point} is in use; nothing removed", file=sys.stderr)
            return 1
    # After the umount, a mount's process still flushes to the owners. So the exporters end last.
    if not (_ended(folder, state["mounts"].values()) and _ended(folder, state["exporters"], signal.SIGTERM)):
        print("tools/demo: processes do not end; nothing removed", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    print(f"stopped and removed {folder}")
    return 0


def _ended(folder: Path, pids: Iterable[int], number: signal.Signals | None = None) -> bool:
    """Send the signal, if any, and return whether all of these processes end within STOP_TIMEOUT_S."""
    remaining = [pid for pid in pids if _is_of(pid, folder)]
    if number is not None:
        for pid in remaining:
            os.kill(pid, number)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while any(_is_of(pid, folder) for pid in remaining):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _is_of(pid: int, folder: Path) -> bool:
    """Return whether the pid is a process of the kept cluster: its command line names the cluster's config.

    The kernel may have given the pid to another process by now.
    """
    try:
        return str(folder / "cluster.toml").encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
