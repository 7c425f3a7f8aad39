"""The I/O priority of a process, as `ionice` sets it: ioprio_get(2), which libc does not wrap."""

import platform
from typing import Final

from meshfs.linux import libc

_WHO_PROCESS: Final = 1
_CLASS_SHIFT: Final = 13
_CLASS_IDLE: Final = 3

# ioprio_get's number: asm/unistd_64.h, asm-generic/unistd.h.
_NUMBERS: Final = {"x86_64": 252, "aarch64": 31, "riscv64": 31, "s390x": 283, "ppc64le": 274}
_NUMBER: Final = _NUMBERS.get(platform.machine())


def is_idle(pid: int) -> bool:
    """Return whether the process (or thread) is in the idle class of I/O priority.

    Return False if the class cannot be found out: the process has ended, or is in another PID namespace (FUSE then
    reports pid 0), or this module does not know the system call's number on this machine.
    """
    if _NUMBER is None or pid <= 0:
        return False
    priority: int = libc.syscall(_NUMBER, _WHO_PROCESS, pid)
    return priority >= 0 and priority >> _CLASS_SHIFT == _CLASS_IDLE
