"""A function that runs in a child process with its own network namespace, for tests of what a process sees there."""

import ctypes
import os
import subprocess
import traceback
from collections.abc import Callable

_CLONE_NEWNET = 0x40000000


def in_new_namespace(function: Callable[[], None]) -> None:
    """Call the function in a child with a new network namespace (only lo, down). Fail with the child's traceback."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        report = b""
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            function()
        except BaseException:
            report = traceback.format_exc().encode()
        finally:
            os.write(writing, report or b"ok")
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        report = pipe.read()
    os.waitpid(child, 0)
    assert report == b"ok", report.decode()


def ip(*words: str) -> None:
    """Run ip(8) in the namespace of the caller, for example `ip("link set lo up")`."""
    for line in words:
        subprocess.run(["ip", *line.split()], check=True, capture_output=True, text=True, timeout=10)
