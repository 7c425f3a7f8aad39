"""Making the listening sockets of a node: TCP on each of its addresses, and its Unix socket.

Everything that can go wrong is a ConfigError that names the address or path, and leaves
nothing open. A Unix socket a dead process left is replaced; one somebody listens on is not.
"""

import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

from meshfs.errors import ConfigError

_BACKLOG = 256


def listen_all(addresses: Sequence[str], port: int, path: Path) -> list[socket.socket]:
    """Non-blocking listening sockets, the Unix socket last."""
    sockets: list[socket.socket] = []
    try:
        sockets.extend(listen_tcp(address, port) for address in addresses)
        sockets.append(listen_unix(path))
    except BaseException:
        for opened in sockets:
            opened.close()
        raise
    return sockets


def listen_tcp(address: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listening.family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((address, port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen on {address} port {port}: {error.strerror}") from error
    return listening


def listen_unix(path: Path) -> socket.socket:
    """A Unix socket of mode 0600; its folder is made (0700) where it is missing."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        # Between bind and listen nobody can connect, so the mode is in force from the beginning.
        listening.bind(str(path))
        os.chmod(path, 0o600)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen on socket {path}: {error.strerror}") from error
    except ConfigError:
        listening.close()
        raise
    return listening


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"cannot listen on socket {path}: it exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
    raise ConfigError(f"cannot listen on socket {path}: another process does already")
