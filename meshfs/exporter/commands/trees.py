"""TREE_CONNECT and TREE_DISCONNECT (MS-SMB2 3.3.5.7, 3.3.5.8)."""

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.rules.access import READ_RIGHTS, WRITE_RIGHTS
from meshfs.exporter.rules.scratch.rules import SCRATCH_RIGHTS
from meshfs.exporter.state.shares import CLASS_OF_SHARE, SHARE_IPC, SHARE_SCRATCH
from meshfs.smb.connection import Protection
from meshfs.smb.constants import Dialect, NtStatus, ShareFlags, ShareType
from meshfs.smb.messages import (
    TreeConnectRequest,
    TreeConnectResponse,
    TreeDisconnectRequest,
    TreeDisconnectResponse,
)


def connect(request: Request) -> None:
    body = TreeConnectRequest.unpack(request.message.body)
    session = request.session
    if (
        request.message.protection == Protection.NONE
        and request.peer.connection.negotiated.dialect is Dialect.SMB_3_1_1
    ):
        # The first request behind the login proves by its signature that NEGOTIATE was not changed.
        raise StatusError(NtStatus.ACCESS_DENIED, "TREE_CONNECT of 3.1.1 is neither signed nor encrypted")
    share = body.share().lower()
    io_class = CLASS_OF_SHARE.get(share)
    is_scratch = share == SHARE_SCRATCH and request.peer.exporter.scratch is not None
    if io_class is None and not is_scratch and share != SHARE_IPC.lower():
        raise StatusError(NtStatus.BAD_NETWORK_NAME, f"no share {share!r}")
    tree = request.peer.exporter.sessions.connect(session, share, io_class)
    request.tree_id = tree.id
    is_pipe = io_class is None and not is_scratch
    kind, flags = (ShareType.PIPE, 0) if is_pipe else (ShareType.DISK, ShareFlags.NO_CACHING)
    if session.encrypt:
        flags |= ShareFlags.ENCRYPT_DATA
    allowed = SCRATCH_RIGHTS if is_scratch else int(READ_RIGHTS | WRITE_RIGHTS)
    request.reply(TreeConnectResponse(kind, flags, 0, allowed).pack())


def disconnect(request: Request) -> None:
    """Answered when nothing of the tree's opens is at a disk any more."""
    TreeDisconnectRequest.unpack(request.message.body)
    session, tree = request.session, request.tree
    request.peer.exporter.sessions.disconnect(session, tree)
    session.close_opens(list(tree.opens), lambda: request.reply(TreeDisconnectResponse().pack()))
