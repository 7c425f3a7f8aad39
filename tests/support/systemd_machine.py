"""A machine of its own for systemd: PID 1 in namespaces, over this machine's files.

    with SystemdMachine(folder) as machine:
        machine.enable("meshfsd@n1.service")
        machine.fstab("/etc/meshfs/cluster.toml /mesh fuse.meshfs node=n1,_netdev 0 0")
        machine.boot()
        machine.run("ls", "/mesh")
        machine.power_off()

It has a PID, mount, network, UTS, IPC and cgroup namespace. Its root is an overlay of this
machine's root, whose changes go to a tmpfs; FOLDER/share is the same directory inside and
outside, and FOLDER/etc is its /etc/meshfs. Of this machine's units it knows none but those in
`_UNITS` and those it is given, and of the generators only the one that reads fstab. Devices and
the kernel are shared, so what is mounted inside takes this machine's loop devices.

With ``system``, the machine has the files of that system instead of this machine's, and all its units, as after its
installation.

Leaving the block kills what still runs; with the last process its mounts go, and their loop
devices with them. Needs root, systemd and cgroup v2 (alone or beside v1).
"""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from meshfs.linux.mountinfo import read_mounts
from meshlab.cluster.cluster import BIN

SYSTEMD: Final = Path("/lib/systemd/systemd")
START_TIMEOUT_S: Final = 60.0
COMMAND_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.05
SHIPPED: Final = Path(__file__).parents[2] / "daemon" / "systemd"

# Enough for services and mounts to be started and stopped in the order of a whole system.
_TARGETS: Final = (
    *("sysinit", "basic", "multi-user", "rescue", "shutdown", "umount", "final", "poweroff"),
    *("local-fs-pre", "local-fs", "remote-fs-pre", "remote-fs", "network-pre", "network", "network-online"),
    *("timers", "paths", "sockets", "slices", "swap"),
)
_SERVICES: Final = ("systemd-poweroff.service", "systemd-journald.service", "systemd-journald.socket")
_UNITS: Final = (*(f"{name}.target" for name in _TARGETS), *_SERVICES)

_SETUP: Final = """
set -eu
folder=$1 bin=$2 system=$3
mount --make-rprivate /
mount -t tmpfs -o size=512m tmpfs "$folder/root"
cd "$folder/root"
mkdir upper work new
mount -t overlay -o lowerdir="$system",upperdir=upper,workdir=work overlay new
cd new
mount --rbind /dev dev
: >"$folder/console"
mount --bind "$folder/console" dev/console
mount --bind /dev/null dev/kmsg
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir -p run/log/journal run/fusectl old ".$folder/share" ".$folder/units"
mount -t fusectl fusectl run/fusectl
mount --bind "$folder/journal" run/log/journal
mount --bind "$folder/share" ".$folder/share"
mount --bind "$folder/units" ".$folder/units"
cp "$folder/fstab" etc/fstab
ip link set lo up
set -- PATH=/usr/sbin:/usr/bin:/sbin:/bin
if [ "$system" = / ]; then
    mkdir -p etc/meshfs mesh
    mount --bind "$folder/etc" etc/meshfs
    for program in meshfs meshfsd meshctl; do
        ln -sf "$bin/$program" usr/bin/
        rm -f "usr/local/bin/$program"
    done
    ln -sf "$bin/meshfs" usr/sbin/mount.meshfs
    set -- "$@" SYSTEMD_UNIT_PATH=/run/systemd/transient:/run/systemd/generator:"$folder/units" \\
        SYSTEMD_GENERATOR_PATH="$folder/generators"
fi
hostname meshfs-machine
pivot_root . old
umount -l /old
exec env -i container=meshfs "$@" SYSTEMD_LOG_TARGET=journal \\
    /lib/systemd/systemd --system --unit=multi-user.target
"""


class MachineFailure(Exception):
    """A command in the machine failed or took too long. The text has the end of the journal."""


class SystemdMachine:
    """A machine that is booted at most once."""

    def __init__(self, folder: Path, system: Path = Path("/")) -> None:
        self.folder = folder
        self._system = system
        for name in ("root", "share", "etc", "units", "journal", "generators"):
            (folder / name).mkdir(parents=True)
        (folder / "generators" / "fstab").symlink_to("/lib/systemd/system-generators/systemd-fstab-generator")
        self.units = folder / "units"
        for unit in _UNITS:
            (self.units / unit).symlink_to(f"/lib/systemd/system/{unit}")
        shutil.copytree(SHIPPED, self.units, dirs_exist_ok=True)
        self.drop_in("meshfsd@.service", "[Service]\nProtectHome=no\n")
        self.want("sysinit.target", "systemd-journald.service")
        self.want("multi-user.target", "remote-fs.target")
        self.fstab()
        self._cgroup = _cgroup2() / f"meshfs-machine-{os.getpid()}-{id(self):x}"
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def share(self) -> Path:
        """Return the folder that is the same inside and outside."""
        return self.folder / "share"

    # --- before the boot

    def fstab(self, *lines: str) -> None:
        (self.folder / "fstab").write_text("".join(f"{line}\n" for line in lines))

    def unit(self, name: str, text: str) -> None:
        (self.units / name).write_text(text)

    def drop_in(self, unit: str, text: str) -> None:
        folder = self.units / f"{unit}.d"
        folder.mkdir(exist_ok=True)
        (folder / f"{len(list(folder.iterdir()))}.conf").write_text(text)

    def want(self, target: str, unit: str) -> None:
        """Enable the unit for the target, as `systemctl enable` does for WantedBy=.

        A template is enabled by its instance.
        """
        name, at, _ = unit.partition("@")
        folder = self.units / f"{target}.wants"
        folder.mkdir(exist_ok=True)
        (folder / unit).symlink_to(self.units / (f"{name}@.service" if at else unit))

    def enable(self, unit: str) -> None:
        self.want("multi-user.target", unit)

    # --- from the boot to the end

    def boot(self) -> str:
        """Return systemd's word for the result (running or degraded) when all jobs of the boot are done."""
        self._cgroup.mkdir()
        unshare = "unshare --mount --pid --fork --kill-child --net --uts --ipc --cgroup"
        start = f"echo $$ >{shlex.quote(str(self._cgroup))}/cgroup.procs; exec {unshare} sh -c {shlex.quote(_SETUP)} sh"
        with (self.folder / "console.log").open("wb") as output:
            self._process = subprocess.Popen(
                ["sh", "-c", f'{start} "$@"', "sh", str(self.folder), str(BIN), str(self._system)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_up():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise self.failure("systemd did not start")
            time.sleep(POLL_S)
        return self.run("systemctl", "is-system-running", "--wait", status=None).strip()

    def _is_up(self) -> bool:
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children or os.readlink(f"/proc/{children[0]}/exe") != str(SYSTEMD.resolve()):
            return False
        self._init = int(children[0])
        return Path(f"/proc/{self._init}/root/run/systemd/private").exists()

    def command(self, *command: str | Path) -> list[str]:
        # tools/test keeps bytecode in a folder of its own. The machine must keep it where its packages expect it.
        clean = ["env", "--unset=PYTHONPYCACHEPREFIX"]
        return ["nsenter", f"--target={self._init}", "--all", *clean, *map(str, command)]

    def run(self, *command: str | Path, status: int | None = 0, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Return the command's output and errors. Raise MachineFailure for another exit status (None accepts any)."""
        try:
            done = subprocess.run(
                self.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise self.failure(f"{command} took more than {timeout_s:g} s") from error
        if status is not None and done.returncode != status:
            raise self.failure(f"{command}: exit status {done.returncode}\n{done.stdout}")
        return done.stdout

    def shell(self, script: str, status: int | None = 0) -> str:
        return self.run("sh", "-ec", script, status=status)

    def power_off(self, timeout_s: float = 120.0) -> None:
        """Power off, and return when the machine's last process has ended."""
        assert self._process is not None
        # systemctl asks logind first, which does not run here, and then PID 1. Its exit status is that of the first
        # attempt.
        self.run("systemctl", "poweroff", status=None)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise self.failure(f"still up after {timeout_s:g} s") from error

    def journal(self, *options: str) -> str:
        """Return what was logged, also after the machine has ended."""
        command = [
            "journalctl",
            "--no-pager",
            "--output=short-monotonic",
            f"--directory={self.folder}/journal",
            *options,
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False).stdout

    def failure(self, what: str) -> MachineFailure:
        console = (self.folder / "console.log").read_text(errors="replace")
        return MachineFailure(f"{what}\n{console[-2000:]}\n{self.journal()[-8000:]}")

    def close(self) -> None:
        """Kill PID 1, which ends all processes in its namespace."""
        if self._process is not None and self._process.poll() is None:
            self._abort_meshes()
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        _remove_cgroup(self._cgroup)

    def _abort_meshes(self) -> None:
        """Let all I/O of the machine's meshes fail.

        A killed mount process may be the last user of the mount namespace. It then unmounts the file systems in it, and
        would wait for one on a disk of its own mesh, whose requests only that process could answer.
        """
        if not self._init:
            return
        for mount in read_mounts(Path(f"/proc/{self._init}/mountinfo")):
            if mount.is_mesh:
                connection = Path(f"/proc/{self._init}/root/run/fusectl") / str(os.minor(mount.device))
                with suppress(OSError):
                    (connection / "abort").write_text("1")


def _cgroup2() -> Path:
    """Return where the unified hierarchy is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        if tail.startswith("cgroup2 "):
            return Path(head.split(" ")[4])
    raise MachineFailure("this machine has no cgroup v2")


def _remove_cgroup(top: Path) -> None:
    """Remove the cgroup. Killed processes leave their groups a moment after they were killed."""
    deadline = time.monotonic() + COMMAND_TIMEOUT_S
    while top.exists():
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                if time.monotonic() > deadline:
                    raise
        time.sleep(POLL_S)


def unavailable() -> str:
    """Return why no machine can be made here, or "" if one can."""
    if not SYSTEMD.exists():
        return "there is no systemd here"
    try:
        _cgroup2()
    except MachineFailure as error:
        return str(error)
    return ""


__all__: Sequence[str] = ("MachineFailure", "SystemdMachine", "unavailable")
