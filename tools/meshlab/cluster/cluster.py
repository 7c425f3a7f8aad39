"""A cluster on this machine: real meshfsd and meshfs processes with one config, in one folder.

    with LocalCluster(folder) as cluster:
        cluster.add_node("n1", [cluster.image("disk0", size_bytes=64 * MIB)])
        cluster.write(); cluster.keygen()
        cluster.start_exporter("n1")
        path = cluster.mount("n1") / "disk/by-node/n1/disk0"

Every node has its own loopback address, or is one of the hosts of network.py:
`add_node("n1", disks, host=network.host("n1", lans=2))`. The processes of such a node run in the host's network
namespace and serve all of its addresses. They still share files and Unix sockets with this machine.

At the end of the block, also after a failure, the cluster unmounts (lazily when busy) and ends each process that it
started, by process id: with SIGTERM, then SIGKILL. Logs stay in FOLDER/log, and the caller removes the folder. The
cluster needs root, because mounting does.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from meshfs.cluster import config, keys
from meshfs.cluster.config_nodes import PORT_DEFAULT
from meshlab.cluster.network import Host

BIN: Final = Path(sys.executable).parent
START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.02

Setting: TypeAlias = str | int | float | bool


class ClusterFailure(Exception):
    """A command of the cluster failed or was not ready in time. The text contains the end of its log."""


@dataclass(frozen=True)
class LocalDisk:
    """Describes a disk of a node. ``settings`` are more keys of its [[node.disk]]."""

    name: str
    path: Path
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def toml(self) -> str:
        return _toml("  [[node.disk]]", {"name": self.name, "path": str(self.path), **self.settings})


@dataclass(frozen=True)
class LocalFolder:
    """Describes an enclosure of a node: a folder whose images are disks. ``settings`` are more keys of its table."""

    name: str
    path: Path
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def toml(self) -> str:
        own = {"name": self.name, "kind": "directory", "path": str(self.path)}
        return _toml("  [[node.enclosure]]", {**own, **self.settings})


@dataclass
class LocalNode:
    """Describes a node of the cluster. ``settings`` are more keys of its [[node]]."""

    name: str
    addresses: list[str]
    port: int
    disks: list[LocalDisk]
    settings: dict[str, Setting] = field(default_factory=dict)
    #: The host that runs the node's processes. None stands for this machine.
    host: Host | None = None
    #: The lines of the node's [node.disks] in the config. The text is empty if its disks are not discovered.
    discovery: str = ""
    folders: list[LocalFolder] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Return the first address."""
        return self.addresses[0]

    def accepts(self) -> bool:
        """Return whether a process listens at one of the node's addresses; the test connects from the node itself."""
        return any(_accepts(address, self.port, self.host) for address in self.addresses)

    def toml(self) -> str:
        pairs = {"name": self.name, "addresses": self.addresses, "port": self.port, **self.settings}
        head = _toml("[[node]]", pairs)
        discovery = [f"  [node.disks]\n{self.discovery}"] if self.discovery else []
        return "\n\n".join(
            [head, *discovery, *(disk.toml() for disk in self.disks), *(each.toml() for each in self.folders)]
        )


@dataclass(frozen=True)
class Running:
    """Holds a process of the cluster, and the file that has its output."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def failure(self, what: str) -> ClusterFailure:
        text = self.log.read_text(errors="replace")
        return ClusterFailure(f"{self.name}: {what}; the end of {self.log}:\n{text[-4000:]}")


class LocalCluster:
    """Runs a cluster: its nodes with their disks, and the processes that were started so far."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "local",
        security: str = "sign",
        io_timeout_s: float = 30,
        prefix: Sequence[str] = (),
        scheduler: Mapping[str, Any] | None = None,
        multichannel: Mapping[str, Setting] | None = None,
    ):
        """Every process is started with `prefix` before its command, for example nsenter; a host's prefix follows.

        `scheduler` is the config's [scheduler] table; its "flow" is a list with the keys of each [[scheduler.flow]].
        `multichannel` is the [multichannel] table.
        """
        self.folder = folder
        self.config = folder / "cluster.toml"
        self.logs = folder / "log"
        self.name = name
        self.security = security
        self.io_timeout_s = io_timeout_s
        self.scheduler = dict(scheduler or {})
        self.multichannel = dict(multichannel or {})
        self._prefix = list(prefix)
        self.nodes: dict[str, LocalNode] = {}
        self.exporters: dict[str, Running] = {}
        self.mounts: dict[str, Running] = {}
        self._loops: list[Path] = []
        self.logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the config

    def add_node(
        self,
        name: str,
        disks: Sequence[LocalDisk] = (),
        *,
        port: int | None = None,
        addresses: Sequence[str] = (),
        host: Host | None = None,
        **settings: Setting,
    ) -> LocalNode:
        """Add a node. `settings` are more keys of its [[node]], such as weight=2; `addresses` default to the host's."""
        given = list(addresses or (host.addresses if host else [f"127.0.0.{len(self.nodes) + 2}"]))
        # A host's ports are all free. On this machine, other programs use some.
        own_port = port or (PORT_DEFAULT if host else free_port(given[0]))
        node = LocalNode(name, given, own_port, list(disks), settings, host)
        self.nodes[name] = node
        return node

    def image(self, name: str, size_bytes: int, *, file: str | None = None, **settings: Setting) -> LocalDisk:
        """Make a sparse image file in the folder, or at `file`, and return it as a disk."""
        path = Path(file) if file else self.folder / "disks" / f"{name}.img"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as image:
            image.truncate(size_bytes)
        return LocalDisk(name, path, settings)

    def loop(self, name: str, backing: Path, *, read_only: bool = False, **settings: Setting) -> LocalDisk:
        """Attach a loop device to an existing file, and return it as a disk. `close` detaches it."""
        command = ["losetup", "--find", "--show", *(["--read-only"] if read_only else []), str(backing)]
        device = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
        self._loops.append(device)
        return LocalDisk(name, device, settings)

    def write(self) -> Path:
        head = (
            f'[cluster]\nname = "{self.name}"\nkeys = "keys"\n'
            f'security = "{self.security}"\nio_timeout_s = {self.io_timeout_s}\n'
        )
        several = [_toml("[multichannel]", self.multichannel)] if self.multichannel else []
        parts = [head, *several, *self._scheduler_toml(), *(node.toml() for node in self.nodes.values())]
        self.config.write_text("\n\n".join(parts) + "\n")
        return self.config

    def _scheduler_toml(self) -> list[str]:
        if not self.scheduler:
            return []
        own = {key: value for key, value in self.scheduler.items() if key != "flow"}
        flows = self.scheduler.get("flow", ())
        return [_toml("[scheduler]", own), *(_toml("[[scheduler.flow]]", flow) for flow in flows)]

    def keygen(self) -> None:
        """Make the missing key pairs as `meshctl keygen` does, without the time of starting a program."""
        loaded = config.load(self.config)
        for node in loaded.nodes:
            if node.public_key is None:
                keys.generate(loaded.cluster.keys, node.name)

    # --- commands

    def meshctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "meshctl"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
        if check and done.returncode != 0:
            raise ClusterFailure(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def control(self, name: str, verb: str = "status", **fields: object) -> Any:
        """Send one request to a node's exporter over its control socket, and return the answer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.settimeout(STOP_TIMEOUT_S)
            stream.connect(str(self.folder / "run" / f"{name}.ctl"))
            stream.sendall(json.dumps({"verb": verb, **fields}).encode() + b"\n")
            with stream.makefile("rb") as lines:
                return json.loads(lines.readline())

    def start_exporters(self) -> None:
        for name in self.nodes:
            self.launch_exporter(name)
        for name in self.nodes:
            self.await_exporter(name)

    def start_exporter(self, name: str) -> Running:
        self.launch_exporter(name)
        return self.await_exporter(name)

    def launch_exporter(self, name: str) -> Running:
        """Start the node's meshfsd without waiting for it."""
        (self.folder / "run").mkdir(exist_ok=True)
        command = [str(BIN / "meshfsd"), "--config", str(self.config), "--node", name]
        with _uninterrupted():
            self.exporters[name] = self._spawn(f"{name}-meshfsd", self._at(name, command))
        return self.exporters[name]

    def await_exporter(self, name: str) -> Running:
        """Wait until the node's meshfsd serves its TCP port and answers on its control socket."""
        running, node = self.exporters[name], self.nodes[name]

        def serves() -> bool:
            return node.accepts() and bool(self.control(name))

        self._await(running, serves, "not ready")
        return running

    def stop_exporter(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        self._end(self.exporters.pop(name), how)

    def mountpoint(self, node: str, label: str = "") -> Path:
        return self.folder / "mnt" / (label or node)

    def mount(self, node: str, *options: str, label: str = "") -> Path:
        """Mount the mesh on a node, and return when it serves. `label` distinguishes further mounts of one node."""
        point = self.mountpoint(node, label)
        self.launch_mount(node, *options, label=label)
        return self.await_mount(point)

    def launch_mount(self, node: str, *options: str, label: str = "") -> Running:
        point = self.mountpoint(node, label)
        point.mkdir(parents=True, exist_ok=True)
        given = ",".join([f"node={node}", *options])
        command = [str(BIN / "meshfs"), str(self.config), str(point), "-f", "-o", given]
        with _uninterrupted():
            self.mounts[label or node] = self._spawn(f"{label or node}-meshfs", self._at(node, command))
        return self.mounts[label or node]

    def await_mount(self, point: Path) -> Path:
        running = self.mounts[point.name]
        self._await(running, lambda: os.path.ismount(point) and bool(os.listdir(point)), "not mounted")
        return point

    def unmount(self, label: str) -> None:
        """Unmount with umount(8). Raises ClusterFailure if the process does not end by itself."""
        running = self.mounts.pop(label)
        subprocess.run(["umount", str(self.mountpoint(label))], check=True, capture_output=True, timeout=STOP_TIMEOUT_S)
        try:
            running.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            self._end(running, signal.SIGKILL)
            raise running.failure("still runs after umount") from error

    def close(self) -> None:
        """End all processes. A step that fails does not keep the others from running."""
        with ExitStack() as stack:
            for device in self._loops:
                stack.callback(_quiet, "losetup", "--detach", str(device))
            for running in self.exporters.values():
                stack.callback(self._end, running, signal.SIGTERM)
            for label, running in self.mounts.items():
                stack.callback(self._end, running, signal.SIGTERM)
                stack.callback(_unmount_somehow, self.mountpoint(label))
        self._loops, self.exporters, self.mounts = [], {}, {}

    # --- processes

    def _at(self, node: str, command: Sequence[str]) -> list[str]:
        """Return the command as it runs on the node's host, or on this machine for a node without a host."""
        known = self.nodes.get(node)
        return known.host.command(*command) if known and known.host else list(command)

    def _spawn(self, name: str, command: Sequence[str]) -> Running:
        log = self.logs / f"{name}.log"
        with log.open("ab") as output:
            # The process gets its own session, so that Ctrl-C at a terminal reaches only the caller, which then ends
            # the processes in order.
            process = subprocess.Popen(
                [*self._prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return Running(name, process, log)

    def _await(self, running: Running, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if running.process.poll() is not None:
                raise running.failure(f"ended with status {running.process.returncode}")
            try:
                if ready():
                    return
            except OSError as error:
                what = f"{what.partition(':')[0]}: {error}"
            if time.monotonic() > deadline:
                raise running.failure(f"{what} after {START_TIMEOUT_S:g} s")
            time.sleep(POLL_S)

    def _end(self, running: Running, how: signal.Signals) -> None:
        if running.process.poll() is None:
            running.process.send_signal(how)
        try:
            running.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            running.process.kill()
            running.process.wait()


def _toml(header: str, pairs: Mapping[str, Any]) -> str:
    """Return one table. Strings, numbers, booleans and arrays of them are written in TOML as in JSON."""
    indent = header[: len(header) - len(header.lstrip())]
    return "\n".join([header, *(f"{indent}{key} = {json.dumps(value)}" for key, value in pairs.items())])


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def tracebacks(logs: Path) -> Iterator[str]:
    """Yield the tracebacks in the logs, which a good run never prints."""
    for log in sorted(logs.glob("*.log")):
        text = log.read_text(errors="replace")
        if "Traceback (most recent call last)" in text:
            yield f"{log}:\n{text[-6000:]}"


@contextmanager
def terminated_as_interrupt() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt, like Ctrl-C, so that the clean-up runs."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {how: signal.signal(how, interrupt) for how in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for how, handler in before.items():
            signal.signal(how, handler)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay signals until the end of the block, so that no process is started without being recorded."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {how: signal.signal(how, lambda number, _: came.append(number)) for how in numbers}
    try:
        yield
    finally:
        for how, handler in before.items():
            signal.signal(how, handler)
    if came:
        signal.raise_signal(came[0])


def _accepts(address: str, port: int, host: Host | None = None) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with host.entered() if host else nullcontext():
        probe = socket.socket(family)
    with probe:
        probe.settimeout(1.0)
        return probe.connect_ex((address, port)) == 0


def _unmount_somehow(point: Path) -> None:
    if not _quiet("umount", str(point)):
        _quiet("umount", "--lazy", str(point))


def _quiet(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=STOP_TIMEOUT_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
