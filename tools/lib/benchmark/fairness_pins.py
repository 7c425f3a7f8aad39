"""Who runs on which processor, so that the exporter's processor is the bottleneck on any machine.

The exporter gets one core, and all mounts, their fio and the attackers share another one. On that shared core the
reader (its mount and its fio) runs before everybody else, by SCHED_RR. Otherwise the reader would wait for the
floods' own processor time, which is no matter of the exporter. The exporter runs by SCHED_RR as well: whatever else
the machine does would take its core for some milliseconds some ten times a second, which is just what a p99 of a
thousand reads a second shows. The floods have a raised niceness. "Alone" is measured under the same settings.

The kernel keeps a twentieth of each second for others than SCHED_RR (sched(7)). A reader that has one request at a
time meets that with one request in a second, so its worst latency tells of it and its p99 does not.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READER_PRIORITY: Final = 10
EXPORTER_PRIORITY: Final = 5
FLOOD_NICE: Final = -15


@dataclass(frozen=True)
class Pins:
    """The core of the exporter, and the one of everybody else."""

    exporter: int
    users: int

    def pin_exporter(self, pid: int) -> None:
        for task in _tasks(pid):
            os.sched_setaffinity(task, [self.exporter])
            os.sched_setscheduler(task, os.SCHED_RR, os.sched_param(EXPORTER_PRIORITY))

    def pin_user(self, pid: int, *, first: bool) -> None:
        """`first`: it is the reader's."""
        _raise_group(pid, FLOOD_NICE)
        for task in _tasks(pid):
            os.sched_setaffinity(task, [self.users])
            if first:
                os.sched_setscheduler(task, os.SCHED_RR, os.sched_param(READER_PRIORITY))
            else:
                os.setpriority(os.PRIO_PROCESS, task, FLOOD_NICE)

    def prefix(self, *, first: bool) -> list[str]:
        """Goes before the command of a program that uses the disk."""
        rank = ["chrt", "--rr", str(READER_PRIORITY)] if first else ["nice", "-n", str(FLOOD_NICE)]
        return ["taskset", "--cpu-list", str(self.users), *rank]


def pins() -> Pins:
    """Raises RuntimeError on a machine with one core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise RuntimeError("pinning the exporter and its users apart takes two cores, and this process may use one")
    # fio and the attackers are of this program's own session.
    _raise_group(os.getpid(), FLOOD_NICE)
    return Pins(exporter=cores[-1], users=cores[-2])


def _raise_group(pid: int, nice: int) -> None:
    """Where the kernel groups tasks by session, niceness counts within a group only, and the group has its own.

    See sched(7), autogroup.
    """
    group = Path(f"/proc/{pid}/autogroup")
    if group.exists():
        group.write_text(str(nice))


def _tasks(pid: int) -> list[int]:
    return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
