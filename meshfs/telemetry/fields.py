"""Read a JSON object of another process, which may be older, newer or broken.

No function here raises an error. A field that is missing or has another type reads as empty, because a program that
shows faults must not fail on one.
"""

from collections.abc import Iterator, Mapping
from typing import Any


def printable(text: str) -> str:
    """Return the text with control characters escaped.

    The text of another process or of a disk must not control a terminal or begin a new line in a log.
    """
    return text if text.isprintable() else ascii(text)[1:-1]


class Fields:
    """Reads one JSON object of another process."""

    def __init__(self, value: object) -> None:
        self.raw: Mapping[str, Any] = value if isinstance(value, dict) else {}

    def text(self, name: str) -> str:
        value = self.raw.get(name)
        return value if isinstance(value, str) else ""

    def integer(self, name: str) -> int | None:
        value = self.raw.get(name)
        # JSON's integers are unbounded. A larger one is no sensible count and would not fit into a float.
        return value if type(value) is int and abs(value) < 1 << 64 else None

    def number(self, name: str) -> float | None:
        value = self.raw.get(name)
        # JSON has no infinity and no NaN, but Python's reader accepts them.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
            return None
        return float(value)

    def flag(self, name: str) -> bool:
        return self.raw.get(name) is True

    def texts(self, name: str) -> list[str]:
        value = self.raw.get(name)
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

    def integers(self, name: str, count: int) -> list[int] | None:
        """Return an array of exactly ``count`` counts, or None."""
        value = self.raw.get(name)
        if not isinstance(value, list) or len(value) != count:
            return None
        return value if all(type(item) is int and 0 <= item < 1 << 64 for item in value) else None

    def object(self, name: str) -> "Fields":
        return Fields(self.raw.get(name))

    def names(self) -> list[str]:
        """Return the names of all fields."""
        return [name for name in self.raw if isinstance(name, str)]

    def items(self, name: str) -> "Iterator[Fields]":
        """Yield the objects in an array."""
        value = self.raw.get(name)
        for item in value if isinstance(value, list) else []:
            if isinstance(item, dict):
                yield Fields(item)
