"""Closing opens, and being told when nothing of them is at a disk any more."""

from collections.abc import Callable, Collection
from typing import Protocol


class Closable(Protocol):
    """What can be closed and has I/O at a disk for a while after that, as all opens."""

    def close(self, then: Callable[[], object]) -> None:
        """Close it, and call ``then`` when nothing of it is at a disk any more, which may be at once."""


def close_all(opens: Collection[Closable], then: Callable[[], object]) -> None:
    """Close these, and call ``then`` once, when nothing of any of them is at a disk any more."""
    # One more than there are, so that ``then`` is not called before all were closed.
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
    """Stands for ``then`` where nobody waits for the I/O to end."""
