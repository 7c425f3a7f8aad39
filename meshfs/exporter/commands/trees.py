"""Handles TREE_CONNECT and TREE_DISCONNECT (MS-SMB2 3.3.5.7, 3.3.5.8)."""

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.state.closing import close_all
from meshfs.smb.connection import Protection
from meshfs.smb.constants import Dialect, NtStatus, ShareFlags
from meshfs.smb.messages import (
    TreeConnectRequest,
    TreeConnectResponse,
    TreeDisconnectRequest,
    TreeDisconnectResponse,
)


def connect(request: Request) -> None:
    """Connect the session to a share, and answer with its type and the most access that its files grant."""
    body = TreeConnectRequest.unpack(request.message.body)
    session = request.session
    if (
        request.message.protection == Protection.NONE
        and request.peer.connection.negotiated.dialect is Dialect.SMB_3_1_1
    ):
        # The signature of the first request after the login proves that NEGOTIATE was not changed on its way.
        raise StatusError(NtStatus.ACCESS_DENIED, "TREE_CONNECT of 3.1.1 is neither signed nor encrypted")
    exporter = request.peer.exporter
    share = exporter.find_share(body.share())
    if share is None:
        raise StatusError(NtStatus.BAD_NETWORK_NAME, f"there is no share {body.share().lower()!r}")
    tree = exporter.sessions.connect(session, share.name.lower(), share.io_class)
    request.tree_id = tree.id
    flags = share.flags | ShareFlags.ENCRYPT_DATA if session.encrypt else share.flags
    request.reply(TreeConnectResponse(share.type, flags, 0, share.rights).pack())


def disconnect(request: Request) -> None:
    """Disconnect a tree, and answer when nothing of its opens is at a disk any more."""
    TreeDisconnectRequest.unpack(request.message.body)
    session, tree = request.session, request.tree
    request.peer.exporter.sessions.disconnect(session, tree)
    close_all(list(tree.opens), lambda: request.reply(TreeDisconnectResponse().pack()))
