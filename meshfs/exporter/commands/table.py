"""Lists the handlers of all commands (MS-SMB2 3.3.5.2.12 and the sections of each command).

A handler is a function that gets a checked request. It answers by ``request.reply``, at once or later, or raises
StatusError. If the body is malformed, a RemoteProtocolError is raised, and answered with INVALID_PARAMETER.

``Needs`` says what `gate.serve` checks before it calls the handler. No handler checks a session or a signature itself,
except SESSION_SETUP, which makes them. For each command, docs/security/before-a-session.md says what a peer without a
session, or without its key, can cause.
"""

import enum
from collections.abc import Callable
from typing import Final

from meshfs.errors import StatusError
from meshfs.exporter.commands import (
    cancel,
    change_notify,
    close,
    create,
    ioctl,
    lock,
    oplock_break,
    query_directory,
    query_info,
    read_write,
    set_info,
    trees,
)
from meshfs.exporter.commands import session_setup as session
from meshfs.exporter.exchange.request import Request
from meshfs.smb.constants import Command, NtStatus
from meshfs.smb.messages import EchoRequest, EchoResponse


class Needs(enum.IntEnum):
    """Lists the conditions that have to hold before a handler is called."""

    #: No condition, because the command is a login.
    LOGIN = 0
    #: There is a session, and the request is protected as the session demands.
    SESSION = 1
    #: The same as SESSION, and the request names a tree of the session.
    TREE = 2
    #: The same as SESSION if the request names a session or is signed, and otherwise no condition.
    SESSION_IF_NAMED = 3


def _echo(request: Request) -> None:
    EchoRequest.unpack(request.message.body)
    request.reply(EchoResponse().pack())


def _unknown(request: Request) -> None:
    raise StatusError(NtStatus.INVALID_PARAMETER, f"command {request.message.command} does not exist")


Handler = Callable[[Request], None]

UNKNOWN: Final[tuple[Handler, Needs]] = (_unknown, Needs.SESSION_IF_NAMED)
HANDLERS: Final[dict[int, tuple[Handler, Needs]]] = {
    Command.SESSION_SETUP: (session.session_setup, Needs.LOGIN),
    Command.LOGOFF: (session.logoff, Needs.SESSION),
    Command.TREE_CONNECT: (trees.connect, Needs.SESSION),
    Command.TREE_DISCONNECT: (trees.disconnect, Needs.TREE),
    Command.CREATE: (create.create, Needs.TREE),
    Command.CLOSE: (close.close, Needs.TREE),
    Command.FLUSH: (read_write.flush, Needs.TREE),
    Command.READ: (read_write.read, Needs.TREE),
    Command.WRITE: (read_write.write, Needs.TREE),
    Command.LOCK: (lock.lock, Needs.TREE),
    Command.IOCTL: (ioctl.ioctl, Needs.TREE),
    Command.CANCEL: (cancel.cancel, Needs.SESSION),
    Command.ECHO: (_echo, Needs.SESSION_IF_NAMED),
    Command.QUERY_DIRECTORY: (query_directory.query_directory, Needs.TREE),
    Command.CHANGE_NOTIFY: (change_notify.change_notify, Needs.TREE),
    Command.QUERY_INFO: (query_info.query_info, Needs.TREE),
    Command.SET_INFO: (set_info.set_info, Needs.TREE),
    Command.OPLOCK_BREAK: (oplock_break.acknowledge, Needs.TREE),
}
