"""Handle the standard streams of every command, so that a full disk or a closed pipe gives no traceback.

    standard output   If it cannot be written, one line on standard error gives the reason, and the exit status is not
                      0. Otherwise a script might take a truncated table for the whole. If the reader has closed the
                      pipe (head, less), the command ends without a message, like cat(1).
    standard error    If it cannot be written, the error is ignored, because no place is left to report it.

A stream that the caller closed counts as one that cannot be written. Python itself would print errors to standard
output if standard error is closed. Characters that the locale cannot encode are written as backslash escapes.
"""

import errno
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from meshfs import __version__
from meshfs.errors import MeshfsError

EXIT_OUTPUT: Final = 1
_ERRORS: Final = "backslashreplace"


class OutputFailed(MeshfsError):
    """Standard output cannot be written. This class is no OSError, because handlers of OSError expect other files."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output: {error.strerror}")
        self.is_reader_gone = error.errno == errno.EPIPE


def version_text(program: str) -> str:
    return f"{program} {__version__}"


def run_command(program: str, work: Callable[[], int]) -> int:
    """Run ``work``. Return its exit status, also if ``work`` raises SystemExit.

    Return EXIT_OUTPUT if standard output cannot be written.
    """
    _open_streams()
    try:
        status = _status_of(work)
        sys.stdout.flush()
    except OutputFailed as error:
        # The rest of the buffer must not fail again when Python flushes it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        if not error.is_reader_gone:
            print(f"{program}: {error}", file=sys.stderr)
        return EXIT_OUTPUT
    return status


def _status_of(work: Callable[[], int]) -> int:
    try:
        return work()
    except SystemExit as exit_:
        # argparse raises SystemExit after it has printed a help text or an error.
        return exit_.code if isinstance(exit_.code, int) else int(bool(exit_.code))


def _open_streams() -> None:
    """Replace sys.stdout and sys.stderr by streams on descriptors 1 and 2, unless a test captures them."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # The descriptor is closed. Open it so that using it still fails, but no other file gets its number.
            os.open(os.devnull, os.O_WRONLY if descriptor == 0 else os.O_RDONLY)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Errors(2, "w", closefd=False), sys.stderr, line_buffering=True)


def _text(raw: io.FileIO, before: io.TextIOBase | None, *, line_buffering: bool = False) -> io.TextIOWrapper:
    encoding = before.encoding if before is not None else None
    lines = line_buffering or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=_ERRORS, line_buffering=lines)


class _Readable(Protocol):
    """Stands for collections.abc.Buffer, which Python has only from version 3.12 on."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


class _Output(io.FileIO):
    def write(self, data: _Readable, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputFailed(error) from error


class _Errors(io.FileIO):
    def write(self, data: _Readable, /) -> int:
        with suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes
