"""What a service and systemd say to each other: sd_notify(3), and the mark of a process that is needed to the end."""

import logging
import os
import socket
import time
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

#: The place of arg_start, the 48th field of proc_pid_stat(5), among those after the command's name, the second.
_ARG_START: Final = 48 - 3


def notify(*assignments: str) -> None:
    """Send assignments such as READY=1 in one datagram; without NOTIFY_SOCKET there is nobody to send them to.

    A manager that is gone or does not read must never stop or end the service, so the call neither blocks nor raises.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        try:
            manager.sendto("\n".join(assignments).encode(), address.replace("@", "\0", 1))
        except OSError:
            return


def notify_reloading() -> None:
    """Announce a reload; Type=notify-reload requires the time at which it began."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def be_spared_at_shutdown() -> None:
    """Mark this process as one that file systems need: make the first character of argv[0] an @.

    When all units are stopped, systemd ends every process that is left and only then unmounts what is
    still mounted. It spares processes of root whose argv[0] begins with @, as its paper "Storage Daemons
    for the Root File System" says. Without the mark, a file system on a disk of the mesh that was busy
    until then loses what it has not written. The process ends when its mount is unmounted.
    """
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    try:
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(int(after_name[_ARG_START]))
            memory.write(b"@")
    except OSError as error:
        log.debug("the process cannot be marked for systemd's shutdown: %s", error)
