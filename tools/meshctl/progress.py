"""A progress bar on one line of a terminal. Anywhere else nothing is shown, because a log has no use for a bar."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

_WIDTH_MAX: Final = 40
#: A line that is written this often is smooth, and takes no time.
_EVERY_S: Final = 0.1


def bar(part: float, text: str, columns: int) -> str:
    """Return a bar that is filled to ``part`` (0 to 1), with a text behind it, in at most ``columns`` characters."""
    part = min(max(part, 0.0), 1.0)
    tail = f" {part:4.0%} {text}"
    width = min(_WIDTH_MAX, columns - len(tail) - 3)
    if width < 1:
        return tail.strip()[: max(columns - 1, 0)]
    filled = int(part * width)
    return f"[{'#' * filled}{'.' * (width - filled)}]{tail}"


class ProgressBar:
    """Shows a bar on ``stream`` if it is a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown_s = -_EVERY_S
        self._is_terminal = stream.isatty()

    def show(self, part: float, text: str) -> None:
        """Show the bar. A call that comes too soon after another one shows nothing, unless the bar is full."""
        now = time.monotonic()
        if not self._is_terminal or (now - self._shown_s < _EVERY_S and part < 1.0):
            return
        self._shown_s = now
        # Erase the rest of the line, which may be of a longer text.
        self._stream.write(f"\r{bar(part, text, shutil.get_terminal_size().columns)}\x1b[K")
        self._stream.flush()

    def end(self) -> None:
        """Leave the line of the bar, so that other output begins on a new line."""
        if self._shown_s >= 0 and self._is_terminal:
            self._stream.write("\n")
            self._stream.flush()


@contextmanager
def progress(stream: TextIO | None = None) -> Iterator[ProgressBar]:
    """Yield a bar on ``stream`` (default: standard error), and end its line after the block."""
    shown = ProgressBar(sys.stderr if stream is None else stream)
    try:
        yield shown
    finally:
        shown.end()
