"""Report to systemd that the exporter is alive, as WatchdogSec= of its unit demands.

The exporter has two loops: that of trio, and the reactor, which runs in a trio task and handles every request. Each
report passes through both. A trio task asks the reactor to call it back in a round, and reports only after this call.
If one of the loops is stuck or has ended, no report follows, and systemd kills and restarts the exporter.

The reports do not depend on disks. A disk that hangs is no reason to end the I/O of the other disks.
"""

import trio

from meshfs.linux.systemd import notify, watchdog_interval_s
from meshfs.loop import reactor


async def report_alive() -> None:
    """Send WATCHDOG=1 until cancelled. Return at once if systemd does not watch this process."""
    interval_s = watchdog_interval_s()
    if interval_s is None:
        return
    while True:
        await _round_of_reactor()
        notify("WATCHDOG=1")
        await trio.sleep(interval_s)


async def _round_of_reactor() -> None:
    """Return after the next round of the reactor."""
    loop, called = reactor.current(), trio.Event()

    def call_back() -> None:
        called.set()
        loop.give_turn()

    loop.soon(call_back)
    await called.wait()
