"""The interface of a front end, which carries requests of the kernel to the operations, and their answers back.

A front end does three things that no other part of meshfs does:

    mount        It mounts with options in the syntax of libfuse's ``-o``, and unmounts at the end.
    serve        It answers READ and WRITE by `Transfers`, which raises the front end's own error. It answers all
                 other requests by `Operations`, and turns each exception into its library's error (`errno_of`).
    drop pages   It starts `Operations.run` with the mount's cached pages, and lets it run until the end.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from meshfs.fuse.operations import Operations


class FrontEnd(Protocol):
    """Mounts, and serves until the unmount."""

    async def __call__(
        self, operations: Operations, mountpoint: str, options: Iterable[str], *, on_ready: Callable[[], None]
    ) -> None:
        """Mount, serve, and return after the unmount. Call ``on_ready`` as soon as requests are answered.

        ``mountpoint`` is absolute and without symlinks. Cancellation unmounts. The kernel then answers with ENOTCONN
        every request in flight, and every later request for a file that is still open. Raises MountFailed.
        """
