"""The C library of this process, for system calls that Python's os module does not have.

`function` returns a new function object for each caller. ctypes keeps only one object per name as an attribute of the
library, and two modules that set its argument types would overwrite each other's. ctypes keeps errno per thread;
`check` reads it.
"""

import ctypes
import os
from collections.abc import Callable
from typing import Any, Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

Function = Callable[..., Any]


def function(name: str, *argtypes: type, result: type = ctypes.c_int) -> Function:
    """Return a function of the C library. Without ``argtypes``, ctypes derives them from the arguments of each call."""
    found = _LIBC[name]
    if argtypes:
        found.argtypes = argtypes
    found.restype = result
    return found


def find(name: str) -> Function | None:
    """Return a function that not every C library has, such as mallopt(3) of glibc, or None if it is missing."""
    try:
        return function(name)
    except AttributeError:
        return None


def check(result: int) -> int:
    """Return ``result``. If it is negative, raise OSError with the errno of the call."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


#: syscall(2), for system calls that the C library does not wrap.
syscall: Final = function("syscall", result=ctypes.c_long)
