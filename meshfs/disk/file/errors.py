"""Translate the error of a disk's request for the caller of the request, and report the error to the disk's state."""

import errno
import logging
from collections.abc import Callable
from typing import Protocol

from meshfs import bugs
from meshfs.disk.base import DiskRequest, Op
from meshfs.disk.discovery.scan import DiskFacts, device_size
from meshfs.disk.errnos import Sign, verdict

logger = logging.getLogger(__name__)

#: Receives each error: the operation, the kernel's errno (positive), and the meaning of the errno for the disk.
OnError = Callable[[Op, int, Sign], None]


class _Failed(Protocol):
    """Lists the parts of a disk that its errors are judged by."""

    facts: DiskFacts
    fd: int
    on_error: OnError


def answer_of(disk: _Failed, request: DiskRequest, result: int) -> int:
    """Return the caller's result for the kernel's ``result`` (-errno)."""
    try:
        return _judged(disk, request, result)
    except Exception as error:
        bugs.report(logger, f"judging an error of disk {disk.facts.path}", error)
        return -errno.EIO


def _judged(disk: _Failed, request: DiskRequest, result: int) -> int:
    device_bytes = device_size(disk.fd) if disk.facts.is_block_device else None
    stop = request.offset + request.length
    answer, sign = verdict(-result, request.op, stop=stop, device_bytes=device_bytes)
    if sign is not Sign.NOTHING:
        disk.on_error(request.op, -result, sign)
    return -answer
