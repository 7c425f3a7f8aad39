"""Probe a disk after one of its calls timed out. Meanwhile all calls of the disk are held.

failfast.py says how long a call is held, and why.
"""

import logging
from contextlib import suppress

import trio

from meshfs import limits
from meshfs.initiator.attached.attempts import Attempts
from meshfs.initiator.attached.shared_open import PortOfOpens
from meshfs.initiator.session.session import InitiatorSession

logger = logging.getLogger(__name__)


async def ask_disk(disk: PortOfOpens, attempts: Attempts, session: InitiatorSession) -> None:
    """Read one block, and return when the disk has answered anything, is suspended, or its session has ended.

    The open is kept until then, even if its last handle is closed.
    """
    answers, exporter, asked_at_s = disk.answers, disk.exporter, trio.current_time()
    shared = attempts.shared
    shared.keep(True)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_probe, attempts, nursery.cancel_scope)
            while exporter.session is session and answers.held and not disk.silent_on_purpose:
                # The disk has answered an earlier call. While it is fenced, a write is still unanswered.
                if answers.last_s > asked_at_s and not disk.fences:
                    break
                _tell(disk)
                await trio.sleep(limits.CHANNEL_TICK_S)
            nursery.cancel_scope.cancel()
    finally:
        answers.well(trio.current_time())
        if exporter.hung_disks.pop(disk.info.name, None) is not None:
            logger.info(
                "disk %s answers again, is suspended, or its session has ended; calls wait for its answers from now on",
                disk.info.name,
            )
        shared.keep(False)
        disk.update_opens()


async def _probe(attempts: Attempts, answered: trio.CancelScope) -> None:
    """Cancel ``answered`` when the disk has answered. An error is an answer as well."""
    with suppress(OSError):
        await attempts.probe()
    answered.cancel()


def _tell(disk: PortOfOpens) -> None:
    """Log once that the disk hangs, and note it for the status."""
    now, name, hung_disks = trio.current_time(), disk.info.name, disk.exporter.hung_disks
    if disk.answers.hung(now, disk.io_timeout_s) and name not in hung_disks:
        hung_disks[name] = since_s = disk.answers.suspected_since_s
        logger.warning(
            "disk %s hangs: it has answered nothing for %.1f s; calls fail at once until it answers",
            name,
            now - since_s,
        )
