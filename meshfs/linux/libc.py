"""The C library of this process, for system calls that Python's os module does not have.

`function` hands out a function object of its own for each user: ctypes keeps one object per name on the library, and
two modules that set its argument types would overwrite each other's. An errno is kept per thread (`check` reads it).
"""

import ctypes
import os
from collections.abc import Callable
from typing import Any, Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

Function = Callable[..., Any]


def function(name: str, *argtypes: type, result: type = ctypes.c_int) -> Function:
    """A function of the C library. Without argument types, ctypes converts what it is called with."""
    found = _LIBC[name]
    if argtypes:
        found.argtypes = argtypes
    found.restype = result
    return found


def find(name: str) -> Function | None:
    """The same for a function that not every C library has, such as mallopt(3) of glibc; None without it."""
    try:
        return function(name)
    except AttributeError:
        return None


def check(result: int) -> int:
    """The result of a call. Raises OSError where it is negative, as system calls report an errno."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


#: syscall(2), for system calls that the C library does not wrap.
syscall: Final = function("syscall", result=ctypes.c_long)
