"""Make the listening sockets of a node: TCP on each of its addresses, and its Unix socket.

Every failure is a ConfigError that names the address or path, and leaves no socket open. A Unix socket that a dead
process left behind is replaced. A Unix socket that another process listens on is not.

When a node starts, an interface may be missing, or have no address yet. If another interface has an address of the
node, the exporter listens on the missing addresses already. They can be connected to as soon as an interface has them.
If no interface has any address of the node, the config is wrong for this machine, and listening fails.
"""

import errno
import logging
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from meshfs import limits
from meshfs.endpoint import format_endpoint
from meshfs.errors import ConfigError

logger = logging.getLogger(__name__)

#: The cause, and often the cure, if listening on an address fails.
_HINTS: Final = {
    errno.EADDRINUSE: "; another program listens there (a second meshfsd, or Samba at port 445): "
    "end it, or set another port",
    errno.EADDRNOTAVAIL: "; no interface of this machine has the address",
    errno.EACCES: "; a port below 1024 needs CAP_NET_BIND_SERVICE",
}

# With these options of linux/in.h and linux/in6.h a socket can be bound to an address that no interface has (ip(7)).
# Python has no names for them.
_IP_FREEBIND: Final = 15
_IPV6_FREEBIND: Final = 78


def listen_all(addresses: Sequence[str], port: int, path: Path) -> list[socket.socket]:
    """Return non-blocking listening sockets, the Unix socket last. Raises ConfigError."""
    early = any(_is_here(address) for address in addresses)
    sockets = listen_tcp_at([(address, port) for address in addresses], early=early)
    try:
        return [*sockets.values(), listen_unix(path)]
    except BaseException:
        for opened in sockets.values():
            opened.close()
        raise


def listen_tcp_at(places: Sequence[tuple[str, int]], *, early: bool = True) -> dict[tuple[str, int], socket.socket]:
    """Listen on all the places, or raise ConfigError and leave none open.

    If ``early``, listen also on an address that no interface has yet.
    """
    sockets: dict[tuple[str, int], socket.socket] = {}
    try:
        for address, port in places:
            sockets[address, port] = listen_tcp(address, port, early=early and not _is_here(address))
    except BaseException:
        for opened in sockets.values():
            opened.close()
        raise
    return sockets


def _is_here(address: str) -> bool:
    """Return whether an interface of this machine has the address."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def listen_tcp(address: str, port: int, *, early: bool = False) -> socket.socket:
    """Return a listening socket. Raises ConfigError.

    If ``early``, listening succeeds although no interface has the address yet.
    """
    listening = socket.socket(_family(address), socket.SOCK_STREAM)
    try:
        if early:
            logger.warning("no interface has address %s yet; it is served as soon as one has it", address)
            level, option = (
                (socket.IPPROTO_IPV6, _IPV6_FREEBIND) if ":" in address else (socket.IPPROTO_IP, _IP_FREEBIND)
            )
            listening.setsockopt(level, option, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listening.family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Accepted connections inherit the option. So they wake the exporter only when a whole message may have arrived.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, limits.FIRST_MESSAGE_MIN_BYTES)
        listening.bind((address, port))
        listening.listen(limits.LISTEN_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        place, hint = format_endpoint(address, port), _HINTS.get(error.errno or 0, "")
        raise ConfigError(f"cannot listen on {place}: {error.strerror}{hint}") from error
    return listening


def listen_unix(path: Path) -> socket.socket:
    """Return a listening Unix socket of mode 0600. Makes its folder (0700) if it is missing. Raises ConfigError."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        # Between bind and listen no one can connect. So no one connects before the mode is set.
        listening.bind(str(path))
        os.chmod(path, 0o600)
        listening.listen(limits.LISTEN_BACKLOG)
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
