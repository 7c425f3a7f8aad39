"""Closes opens, and calls a function when nothing of them is at a disk any more."""

from collections.abc import Callable, Collection
from typing import Protocol


class Closable(Protocol):
    """Stands for an object, such as an open, that may have I/O at a disk for a while after it was closed."""

    def close(self, then: Callable[[], object]) -> None:
        """Close the object. Call ``then``, perhaps at once, when nothing of it is at a disk any more."""


def close_all(opens: Collection[Closable], then: Callable[[], object]) -> None:
    """Close all of them. Call ``then`` once, when nothing of any of them is at a disk any more."""
    # The count starts one too high, so that ``then`` is not called before all were closed.
    left = len(opens) + 1

    def one_less() -> None:
        nonlocal left
        left -= 1
        if not left:
            then()

    for opened in opens:
        opened.close(one_less)
    one_less()


def nobody() -> None:
    """Do nothing, in place of ``then``, if nobody waits for the end of the I/O."""
