"""Word the values that an error text names: the value that was found, and the values that were expected.

The config parser, the control socket and the policy of a disk all refuse values, and an administrator reads their
texts side by side. All three use this wording, so that none of them has to import another.
"""

import difflib
from collections.abc import Sequence
from typing import Final

_TYPE_NAMES: Final[dict[type, str]] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    list: "an array",
    dict: "a table",
}


def describe(value: object) -> str:
    """Return a text for a value that was found, of at most 80 characters. A table or an array is named by its type."""
    if isinstance(value, list | dict):
        return _TYPE_NAMES[type(value)] if value else f"an empty {_TYPE_NAMES[type(value)].split()[1]}"
    shown = repr(value) if not isinstance(value, bool) else str(value).lower()
    return shown if len(shown) <= 80 else shown[:77] + "..."


def one_of(words: Sequence[str]) -> str:
    return " or ".join(f'"{word}"' for word in words)


def unknown_key(name: str, known: Sequence[str]) -> str:
    """Return the error text for a key that is not known. The text suggests the most similar known key."""
    near = difflib.get_close_matches(name, known, 1)
    meant = f', did you mean "{near[0]}"?' if near else "."
    return f"unknown key in this version{meant} The keys here are: {', '.join(known) or 'none'}"
