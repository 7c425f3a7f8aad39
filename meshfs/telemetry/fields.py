"""Tolerant reading of a JSON object that another process wrote: it may be older, newer, or broken.

Nothing here raises. A field that is missing or has another type reads as empty, because a program
that shows what is wrong must not fail on it.
"""

from collections.abc import Iterator, Mapping
from typing import Any


def printable(text: str) -> str:
    """What another process or a disk says must neither steer a terminal nor begin a line of its own in a log."""
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
        # JSON's integers have no end; a larger one is no count and would not fit a float.
        return value if type(value) is int and abs(value) < 1 << 64 else None

    def number(self, name: str) -> float | None:
        value = self.raw.get(name)
        # JSON knows no infinity and no NaN, Python's reader does.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
            return None
        return float(value)

    def flag(self, name: str) -> bool:
        return self.raw.get(name) is True

    def texts(self, name: str) -> list[str]:
        value = self.raw.get(name)
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

    def integers(self, name: str, count: int) -> list[int] | None:
        """An array of exactly that many counts."""
        value = self.raw.get(name)
        if not isinstance(value, list) or len(value) != count:
            return None
        return value if all(type(item) is int and 0 <= item < 1 << 64 for item in value) else None

    def object(self, name: str) -> "Fields":
        return Fields(self.raw.get(name))

    def names(self) -> list[str]:
        """The names of all fields."""
        return [name for name in self.raw if isinstance(name, str)]

    def items(self, name: str) -> "Iterator[Fields]":
        """The objects of an array."""
        value = self.raw.get(name)
        for item in value if isinstance(value, list) else []:
            if isinstance(item, dict):
                yield Fields(item)
