"""What every command does with its standard streams, so that a full disk or a closed pipe gives no traceback.

    standard output   Where it cannot be written, one line on standard error says why, and the exit status is not 0: a
                      script must not take a cut table for the whole. A reader that went away (head, less) is the
                      exception: it has seen enough, so the command ends without a word, as cat(1) does.
    standard error    Where it cannot be written, there is nobody left to tell, and the exit status says enough.

A stream that was closed by the caller counts as one that cannot be written; Python itself would print the errors of
a closed standard error to standard output. Names that the locale has no letters for are written with backslashes.
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
    """Standard output cannot be written. It is no OSError, as handlers of those concern other files."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output: {error.strerror}")
        self.is_reader_gone = error.errno == errno.EPIPE


def version_text(program: str) -> str:
    return f"{program} {__version__}"


def run_command(program: str, work: Callable[[], int]) -> int:
    """The exit status of `work`, or EXIT_OUTPUT where its output cannot be written. Also of a `work` that exits."""
    _open_streams()
    try:
        status = _status_of(work)
        sys.stdout.flush()
    except OutputFailed as error:
        # What is buffered still must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        if not error.is_reader_gone:
            print(f"{program}: {error}", file=sys.stderr)
        return EXIT_OUTPUT
    return status


def _status_of(work: Callable[[], int]) -> int:
    try:
        return work()
    except SystemExit as exit_:
        # argparse ends the process after it printed a help or an error.
        return exit_.code if isinstance(exit_.code, int) else int(bool(exit_.code))


def _open_streams() -> None:
    """Make sys.stdout and sys.stderr of descriptors 1 and 2; those of a test's capture stay."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # Writing to it fails, as to a closed one, and no other file gets its number.
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
    """Has bytes to read, as collections.abc.Buffer says from Python 3.12 on."""

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
