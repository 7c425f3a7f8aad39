"""A timer of the kernel among the reactor's descriptors: it calls back within some ten microseconds of its time.

trio's clock would be late by milliseconds. epoll_wait counts in whole milliseconds, and while the reactor has work,
trio gets a turn only every two milliseconds (`reactor.py`).

Source: timerfd_create(2).
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
    """Calls ``callback`` from the reactor once for each `set` that is not replaced before it fires.

    Raises OSError when the kernel cannot create a timer.
    """

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
        """Fire after ``delay_s``. A time that was set before and has not come is replaced."""
        seconds, ns = divmod(max(int(delay_s * _NS), 1), _NS)
        spec = _TimerSpec(0, 0, seconds, ns)
        libc.check(_settime(self._fd, 0, ctypes.byref(spec), None))

    def _fired(self) -> None:
        try:
            os.read(self._fd, _COUNT_BYTES)
        except BlockingIOError:
            # A callback of the same round set the timer again, which cleared its expiration.
            return
        self._callback()
