"""The messages of a service to the manager that started it, as systemd defines them (sd_notify(3))."""

import os
import socket
import time


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
