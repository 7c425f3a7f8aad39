"""Run one command in the guest: boot, pass on the command's output, and return how it ended."""

import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from vm.build import Guest
from vm.errors import GuestFailure
from vm.initramfs import RUN_FOLDER, START_SCRIPT, start_script
from vm.qemu import PROGRAM, Disk, command_line

#: Exit statuses of tools/guest itself. They follow timeout(1).
STATUS_TIMED_OUT: Final = 124
STATUS_DIED: Final = 125
STATUS_NOT_MADE: Final = 126

CONSOLE_LINES: Final = 80
_POLL_S: Final = 0.05
#: The time for a guest to panic and print its tasks after the NMI.
_POST_MORTEM_S: Final = 10.0

#: The command's environment. With PYTHONUNBUFFERED, the output before a hang is shown.
ENVIRONMENT: Final = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "MESHFS_GUEST": "1",
    "MESHFS_GUEST_OUTPUT": f"{RUN_FOLDER}/output",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONUNBUFFERED": "1",
    "TMPDIR": "/run/tmp",
}


@dataclass(frozen=True)
class Outcome:
    """Holds the result of a run: exit status of tools/guest, times, and the console's end if the guest failed."""

    status: int
    boot_s: float
    took_s: float
    console: str = ""


def command_script(words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    """Return the shell script that runs the command in the folder, or in `/` if the guest lacks the folder."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return "\n".join([*exports, f"cd {shlex.quote(str(folder))} || cd /", f"exec {shlex.join(words)}", ""])


def verdict(status: str | None, timed_out: bool) -> int:
    """Return the exit status: the command's if the guest stored it (as text), else that of a time-out or a crash."""
    if status is not None and status.strip().isdigit():
        return int(status)
    return STATUS_TIMED_OUT if timed_out else STATUS_DIED


def console_tail(text: str) -> str:
    """Return the console's last lines without the control characters of a terminal."""
    lines = [line.rstrip("\r") for line in text.split("\n")]
    return "\n".join("".join(c for c in line if c.isprintable() or c == "\t") for line in lines[-CONSOLE_LINES:])


class GuestRun:
    """Runs a guest for one command. The guest's files are in a folder of the host."""

    def __init__(self, guest: Guest, folder: Path, disks: Sequence[Disk], timeout_s: float):
        self._guest = guest
        self._folder = folder
        self._disks = disks
        self._timeout_s = timeout_s
        self._boot_s = 0.0
        self._shown: dict[str, BinaryIO] = {}

    def run(self, words: Sequence[str]) -> Outcome:
        """Boot, run the command, and power off. QEMU has ended when this returns or raises an exception."""
        self._prepare(words)
        images = [(disk, self._image(number, disk)) for number, disk in enumerate(self._disks)]
        start = time.monotonic()
        log = self._folder / "qemu.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command_line(self._guest, self._folder, images),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            timed_out = not self._follow(process, start)
        finally:
            process.kill()
            process.wait()
            self._show_end()
            for _, image in images:
                image.unlink()
        if process.returncode > 0:
            raise GuestFailure(f"{PROGRAM} failed:\n{log.read_text(errors='replace')[-2000:]}")
        return self._outcome(timed_out, time.monotonic() - start)

    def _prepare(self, words: Sequence[str]) -> None:
        (self._folder / "output").mkdir(exist_ok=True)
        for name in ("console", "status", "stdout", "stderr"):
            (self._folder / name).unlink(missing_ok=True)
        (self._folder / START_SCRIPT).write_text(start_script())
        (self._folder / "command").write_text(command_script(words, Path.cwd(), ENVIRONMENT))

    def _image(self, number: int, disk: Disk) -> Path:
        path = self._folder / f"disk{number}"
        with path.open("wb") as image:
            image.truncate(disk.size_bytes)
        return path

    def _follow(self, process: "subprocess.Popen[bytes]", start: float) -> bool:
        """Show the output as it arrives, until QEMU ends. Return whether it ended in time."""
        while process.poll() is None:
            self._show(start)
            if time.monotonic() - start > self._timeout_s:
                self._post_mortem(process)
                return False
            time.sleep(_POLL_S)
        return True

    def _show(self, start: float) -> None:
        for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
            if name not in self._shown:
                try:
                    self._shown[name] = (self._folder / name).open("rb")
                except FileNotFoundError:
                    continue
                self._boot_s = self._boot_s or time.monotonic() - start
            while data := self._shown[name].read(1 << 20):
                stream.buffer.write(data)
                stream.flush()

    def _show_end(self) -> None:
        self._show(0.0)
        for file in self._shown.values():
            file.close()

    def _post_mortem(self, process: "subprocess.Popen[bytes]") -> None:
        """Send an NMI, which makes the guest's kernel panic and list the blocked tasks on the console."""
        try:
            with socket.socket(socket.AF_UNIX) as monitor:
                monitor.settimeout(1.0)
                monitor.connect(str(self._folder / "monitor"))
                monitor.sendall(b"nmi\n")
                process.wait(_POST_MORTEM_S)
        except (OSError, subprocess.TimeoutExpired):
            # The console's present contents are all that can be shown.
            return

    def _outcome(self, timed_out: bool, took_s: float) -> Outcome:
        try:
            status = (self._folder / "status").read_text()
        except FileNotFoundError:
            status = None
        code = verdict(status, timed_out)
        if status is not None:
            return Outcome(code, self._boot_s, took_s)
        console = (self._folder / "console").read_text(errors="replace")
        return Outcome(code, self._boot_s, took_s, console_tail(console))
