"""What a mount asks of a front end: whatever carries requests of a kernel to the operations and their answers back.

Three things are a front end's work, and no other part of meshfs does them:

    mount        at the mount point, with the options of libfuse's ``-o``, and unmount at the end
    serve        READ and WRITE through `Transfers`, which raises the front end's own error; all else through
                 `Operations`, whose OSErrors (and any other error: `errno_of`) it turns into its library's
    drop pages   start `Operations.run` with the mount's cached pages, and let it run until the end
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from meshfs.fuse.operations import Operations


class FrontEnd(Protocol):
    """A callable that mounts, and serves until the unmount."""

    async def __call__(
        self, operations: Operations, mountpoint: str, options: Iterable[str], *, on_ready: Callable[[], None]
    ) -> None:
        """Mount, serve, and return after the unmount; ``on_ready`` is called when requests are answered.

        ``mountpoint`` is absolute and without symlinks. Cancellation unmounts: the kernel answers what is in flight
        with ENOTCONN, and so every later use of a file that is still open. Raises MountFailed.
        """
