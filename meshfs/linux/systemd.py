"""Messages between a service and systemd.

    sd_notify(3)              the service reports that it is ready, that it reloads, and that it is alive
    sd_watchdog_enabled(3)    systemd says how often it expects the service to report that it is alive

One more function marks a process that systemd must not kill at shutdown.
"""

import logging
import os
import socket
import time
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

#: arg_start is the 48th field of proc_pid_stat(5). This is its index in the list of the fields after the second.
_ARG_START: Final = 48 - 3


def notify(*assignments: str) -> None:
    """Send assignments such as READY=1 to systemd in one datagram. Without NOTIFY_SOCKET, do nothing.

    The call neither blocks nor raises: a manager that has ended or does not read must not stop the service.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        try:
            # A status text may contain the name of any file, also one with a newline or with bytes that are no UTF-8.
            lines = (assignment.replace("\n", " ") for assignment in assignments)
            manager.sendto("\n".join(lines).encode(errors="backslashreplace"), address.replace("@", "\0", 1))
        except OSError:
            return


def notify_reloading() -> None:
    """Announce a reload. Type=notify-reload requires the time at which the reload began."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval_s() -> float | None:
    """Return how often to send WATCHDOG=1, or None if systemd does not watch this process.

    The interval is half of WatchdogSec, as sd_watchdog_enabled(3) recommends.
    """
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        expected_us = int(os.environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return expected_us / 2_000_000 if expected_us > 0 else None


def be_spared_at_shutdown() -> None:
    """Mark this process as one that file systems need: replace the first character of argv[0] by an @.

    At shutdown, after all units have stopped, systemd first kills the remaining processes and then unmounts the
    remaining file systems. It spares processes of root whose argv[0] begins with @. Without the mark, a file system
    on a disk of the mesh that is still mounted then loses its unwritten data. A marked process ends when its mount
    is unmounted.

    Source: systemd's paper "Storage Daemons for the Root File System".
    """
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    try:
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(int(after_name[_ARG_START]))
            memory.write(b"@")
    except OSError as error:
        logger.debug("the process cannot be marked for systemd's shutdown: %s", error)
