"""Telling systemd how it goes (sd_notify(3)): one datagram, and nothing without NOTIFY_SOCKET."""

import os
import socket
import time


def notify(*assignments: str) -> None:
    """Send ``assignments`` as READY=1 or STATUS=text; a manager that does not listen is no error."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        try:
            manager.sendto("\n".join(assignments).encode(), address.replace("@", "\0", 1))
        except OSError:
            # The manager is gone or full: the service goes on without it.
            return


def notify_reloading() -> None:
    """Type=notify-reload wants the time with it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
