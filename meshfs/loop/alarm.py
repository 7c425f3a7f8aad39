"""Waking at a time, to some ten microseconds: a timer of the kernel's among the reactor's descriptors.

trio's clock would do it late by milliseconds: epoll_wait counts in whole ones, and trio has its turn
beside the reactor only every other (`reactor.py`). See timerfd_create(2).
"""

import ctypes
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from meshfs.linux import libc
from meshfs.loop import reactor

_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC
_NS: Final = 1_000_000_000
_COUNT_BYTES: Final = 8

_create: Final = libc.function("timerfd_create")
_settime: Final = libc.function("timerfd_settime")


class _TimerSpec(ctypes.Structure):
    """struct itimerspec: the interval, which stays 0, and the time until it fires."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Alarm:
    """Calls ``callback`` from the reactor, once each time it was set. OSError when there is no timer to be had."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._fd = libc.check(_create(time.CLOCK_MONOTONIC, _FLAGS))
        self._reactor = reactor.current()
        self._reactor.add(self._fd, self._fired)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reactor.forget(self._fd)
        os.close(self._fd)

    def set(self, delay_s: float) -> None:
        """Fire after this long, instead of when it was set to before."""
        seconds, ns = divmod(max(int(delay_s * _NS), 1), _NS)
        spec = _TimerSpec(0, 0, seconds, ns)
        libc.check(_settime(self._fd, 0, ctypes.byref(spec), None))

    def _fired(self) -> None:
        try:
            os.read(self._fd, _COUNT_BYTES)
        except BlockingIOError:
            # It was set anew in the same round.
            return
        self._callback()
