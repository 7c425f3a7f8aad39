"""Compute the mode of an open: those options of its CREATE that are in force now (MS-FSCC 2.4.31). Pure.

The options that make a client's own calls synchronous are left out, because a server ignores them (MS-SMB2 2.2.13).
"""

from typing import Final

from meshfs.smb.constants import CreateOptions

_O = CreateOptions
_KEPT: Final = int(_O.WRITE_THROUGH | _O.SEQUENTIAL_ONLY | _O.NO_INTERMEDIATE_BUFFERING | _O.DELETE_ON_CLOSE)
_SETTABLE: Final = int(_O.WRITE_THROUGH | _O.SEQUENTIAL_ONLY)


def mode_of(create_options: int) -> int:
    """Return the mode of a new open."""
    return create_options & _KEPT


def changed_mode(mode: int, wanted: int) -> int | None:
    """Return the mode after SET_INFO asked for ``wanted``, or None for INVALID_PARAMETER (MS-FSA 2.1.5.15.7).

    An open without buffering always writes through, so its WRITE_THROUGH stays as it is.
    """
    if wanted & ~_SETTABLE:
        return None
    settable = int(_O.SEQUENTIAL_ONLY) if mode & _O.NO_INTERMEDIATE_BUFFERING else _SETTABLE
    return mode & ~settable | wanted & settable
