"""Waiting for a state that another part of the program reaches without telling anybody."""

from collections.abc import Callable

import trio


async def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait until ``condition`` holds. Raises trio.TooSlowError if that takes longer than ``timeout_s``."""
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - no event tells of any condition
            await trio.sleep(0.002)
