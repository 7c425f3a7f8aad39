"""Assign processes to cores, so that the exporter's core is the bottleneck on any machine.

The exporter gets one core, and all mounts, their fio and the attackers share another one. On that shared core, the
reader (its mount and its fio) runs before all others, by SCHED_RR. Otherwise the reader would wait for the floods' own
processor time, which does not depend on the exporter. Exporter and floods have a raised priority, so that other
programs on the machine take little of the two cores.

The exporter also has a short time slice. When a task wakes whose slice is shorter than that of the running task, it
preempts that task (EEVDF, Linux 6.12; sched_setattr(2)). Otherwise the exporter would wait for up to 3 ms. The reader
alone is measured under the same settings.
"""

import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READER_PRIORITY: Final = 10
EXPORTER_NICE: Final = -20
EXPORTER_SLICE_NS: Final = 100_000
FLOOD_NICE: Final = -15

_SYS_SCHED_SETATTR: Final = 314 if os.uname().machine == "x86_64" else 274
# struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period.
_SCHED_ATTR: Final = struct.Struct("=IIQiIQQQ")
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Pins:
    """The core of the exporter, and the core of all others."""

    exporter: int
    users: int

    def pin_exporter(self, pid: int) -> None:
        _raise_group(pid, EXPORTER_NICE)
        for task in _tasks(pid):
            os.sched_setaffinity(task, [self.exporter])
            _set_slice(task, EXPORTER_NICE, EXPORTER_SLICE_NS)

    def pin_user(self, pid: int, *, first: bool) -> None:
        """Pin a mount. With `first`, it is the reader's mount, which runs before the others on their core."""
        _raise_group(pid, FLOOD_NICE)
        for task in _tasks(pid):
            os.sched_setaffinity(task, [self.users])
            if first:
                os.sched_setscheduler(task, os.SCHED_RR, os.sched_param(READER_PRIORITY))
            else:
                os.setpriority(os.PRIO_PROCESS, task, FLOOD_NICE)

    def prefix(self, *, first: bool) -> list[str]:
        """Return the words to put before the command of a program that uses the disk."""
        rank = ["chrt", "--rr", str(READER_PRIORITY)] if first else ["nice", "-n", str(FLOOD_NICE)]
        return ["taskset", "--cpu-list", str(self.users), *rank]


def pins() -> Pins:
    """Choose the two cores. Raises RuntimeError if this process may use only one."""
    cores = sorted(os.sched_getaffinity(0))
    # fio and the attackers are in the same session as this program.
    _raise_group(os.getpid(), FLOOD_NICE)
    if len(cores) < 2:
        raise RuntimeError("pinning the exporter and its users apart takes two cores, and this process may use one")
    return Pins(exporter=cores[-1], users=cores[-2])


def _raise_group(pid: int, nice: int) -> None:
    """Set the niceness of a session's task group.

    If the kernel groups tasks by session, a task's niceness counts only within its group, and the group has its own
    niceness (sched(7), autogroup).
    """
    group = Path(f"/proc/{pid}/autogroup")
    if group.exists():
        group.write_text(str(nice))


def _set_slice(task: int, nice: int, slice_ns: int) -> None:
    """Set a task's niceness and time slice. Raises OSError. Kernels before 6.12 ignore the slice."""
    attributes = _SCHED_ATTR.pack(_SCHED_ATTR.size, os.SCHED_OTHER, 0, nice, 0, slice_ns, 0, 0)
    if _libc.syscall(_SYS_SCHED_SETATTR, task, attributes, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _tasks(pid: int) -> list[int]:
    return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
