"""The control socket of a mount's process. `mount -o remount` and `meshctl reload` connect to this socket.

The socket is not a file of the mount itself, because a read-only mount accepts no request, and a stuck mount no open.
The status document gives its path as "control".
"""

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from meshfs.errors import ConfigError
from meshfs.transport.listening import listen_unix

logger = logging.getLogger(__name__)

_RUN: Final = Path("/run/meshfs")


@contextmanager
def mount_control() -> Iterator[socket.socket | None]:
    """Yield a listening socket that only root and the process's user can use, or None if no socket can be made."""
    folder = _folder()
    _remove_dead(folder)
    path = folder / f"mount-{os.getpid()}-{secrets.token_hex(4)}.ctl"
    try:
        listening = listen_unix(path)
    except ConfigError as error:
        logger.warning("there is no control socket, so only SIGHUP can reload this mount: %s", error)
        yield None
        return
    try:
        with listening:
            yield listening
    finally:
        path.unlink(missing_ok=True)


def _folder() -> Path:
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(own) / "meshfs" if own and os.geteuid() != 0 else _RUN


def _remove_dead(folder: Path) -> None:
    """Remove the sockets of processes that were killed. A connection to such a socket is refused.

    A process that is starting also refuses connections, between bind(2) and listen(2). Therefore the socket of a
    process that still exists stays.
    """
    for path in folder.glob("mount-*.ctl"):
        if Path("/proc", path.name.split("-")[1]).exists():
            continue
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
            probe.setblocking(False)
            try:
                probe.connect(os.fspath(path))
            except ConnectionRefusedError:
                path.unlink()
