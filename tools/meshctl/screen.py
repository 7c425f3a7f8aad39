"""The terminal of a program that redraws its output. The codes are ANSI's (ECMA-48, xterm's alternate screen).

The terminal is restored when the program ends or stops. One pipe wakes the program up for an answer from a thread and
for a signal. So signal handlers only set attributes, and no drawing is interrupted.
"""

import os
import select
import signal
import termios
import time
import tty
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Final, Self

# Switch to the alternate screen, hide the cursor, and cut lines that are too wide instead of wrapping them.
_ENTER: Final = b"\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE: Final = b"\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME: Final = b"\x1b[H"
_CLEAR_TO_LINE_END: Final = b"\x1b[K"
_CLEAR_TO_SCREEN_END: Final = b"\x1b[J"
_QUIT_KEYS: Final = b"qQ"
_ESCAPE: Final = b"\x1b"
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


#: Returns the lines for a window of so many columns and rows. None stands for an output without a window.
Render = Callable[[tuple[int, int] | None], Sequence[str]]


class Bell:
    """Wakes a waiting main thread from other threads and from signals."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The pipe stays open, because threads that have not ended may still ring.
        signal.set_wakeup_fd(self._before)

    def ring(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._write, b"!")

    def wait(self, timeout_s: float, others: Sequence[int] = ()) -> list[int]:
        """Wait for `ring`, a signal, or a readable descriptor of ``others``, at most ``timeout_s``.

        Return the readable descriptors of ``others``.
        """
        ready, _, _ = select.select([self._read, *others], [], [], max(timeout_s, 0))
        if self._read in ready:
            with suppress(BlockingIOError):
                os.read(self._read, 4096)
        return [item for item in ready if item != self._read]


class Printer:
    """Writes one set of lines after the other, to an output that is no terminal."""

    redraws = False

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self.ended_by: int | None = None

    def wait(self, until_s: float, ready: Callable[[], bool]) -> bool:
        """Wait until `ready` returns true, or until ``until_s`` of time.monotonic(). Return True."""
        while not ready() and (left_s := until_s - time.monotonic()) > 0:
            self._bell.wait(left_s)
        return True

    def show(self, render: Render) -> None:
        print("\n".join(render(None)), flush=True)


class Screen:
    """Fills the terminal's window. Restores the terminal at the end of the block, and while stopped by Ctrl-Z."""

    redraws = True

    def __init__(self, bell: Bell, input_fd: int, output_fd: int) -> None:
        self._bell = bell
        self._input = input_fd if os.isatty(input_fd) else None
        self._output = output_fd
        self._settings: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._resized = False
        self._render: Render | None = None
        self._over = False
        #: The signal that ended the program, or None while the program runs and after a key that ends it.
        self.ended_by: int | None = None

    def __enter__(self) -> Self:
        for number in _ENDING:
            self._handlers[number] = signal.signal(number, self._on_end)
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, self._on_resize)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._on_stop)
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After SIGHUP the terminal may not exist any more. Then there is nothing to restore.
        with suppress(OSError, termios.error):
            self._leave()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def wait(self, until_s: float, ready: Callable[[], bool]) -> bool:
        """Wait until `ready` returns true, or until ``until_s`` of time.monotonic().

        Return False if a key or a signal asks the program to end.
        """
        while not self._over and not ready() and (left_s := until_s - time.monotonic()) > 0:
            if self._bell.wait(left_s, () if self._input is None else (self._input,)):
                self._read_key()
            if self._resized:
                self._resized = False
                self._draw()
        return not self._over

    def show(self, render: Render) -> None:
        """Draw what `render` returns for the window, and draw again whenever its size changes."""
        self._render = render
        self._draw()

    def _draw(self) -> None:
        if self._render is None:
            return
        columns, rows = os.get_terminal_size(self._output)
        # A terminal that does not know its size reports 0.
        lines = self._render((columns or 80, rows or 24))
        ends = (_CLEAR_TO_LINE_END + b"\r\n").join(line.encode(errors="replace") for line in lines)
        self._write(_HOME + ends + _CLEAR_TO_LINE_END + _CLEAR_TO_SCREEN_END)

    def _read_key(self) -> None:
        assert self._input is not None
        try:
            keys = os.read(self._input, 64)
        except OSError:
            keys = b""
        # An empty read means that the terminal is closed. The bytes after an escape belong to a function key.
        typed = keys.partition(_ESCAPE)[0]
        if not keys or any(key in _QUIT_KEYS for key in typed):
            self._over = True

    def _enter(self) -> None:
        if self._input is not None:
            self._settings = termios.tcgetattr(self._input)
            tty.setcbreak(self._input, termios.TCSANOW)
        self._write(_ENTER)

    def _leave(self) -> None:
        try:
            self._write(_LEAVE)
        finally:
            if self._input is not None and self._settings is not None:
                # Drop unread keys, because the shell would take them for a command.
                termios.tcflush(self._input, termios.TCIFLUSH)
                termios.tcsetattr(self._input, termios.TCSANOW, self._settings)

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._output, data) :]

    def _on_end(self, number: int, frame: FrameType | None) -> None:
        self._over = True
        self.ended_by = number
        # A write to a terminal that accepts no output would block for ever. A second signal ends the program then.
        signal.signal(number, signal.SIG_DFL)

    def _on_resize(self, number: int, frame: FrameType | None) -> None:
        self._resized = True

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        # The program is continued. The shell has used the terminal meanwhile.
        self._enter()
        self._resized = True
