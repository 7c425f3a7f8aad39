"""Connects a session to the shares of an exporter that it uses (TREE_CONNECT)."""

from dataclasses import dataclass
from math import inf

from meshfs.errors import AuthenticationError
from meshfs.initiator.channel.channel import Channel
from meshfs.smb.constants import Command, ShareFlags
from meshfs.smb.messages import TreeConnectRequest, TreeConnectResponse


@dataclass(frozen=True, slots=True)
class TreeConnect:
    """Describes a connected share."""

    tree_id: int
    share: str


async def connect_tree(channel: Channel, server: str, share: str, deadline: float = inf) -> TreeConnect:
    r"""Connect to ``\\server\share``. The request is signed whatever the policy is (MS-SMB2 3.2.4.1.1)."""
    path = f"\\\\{server}\\{share}"
    reply = await channel.answer(
        channel.start_request(Command.TREE_CONNECT, TreeConnectRequest(path).pack(), signed=True, deadline=deadline)
    )
    response = TreeConnectResponse.unpack(reply.body)
    if response.share_flags & ShareFlags.ENCRYPT_DATA and not channel.sealed:
        raise AuthenticationError(f"share {share} wants encryption, which the config does not ask for")
    return TreeConnect(reply.tree_id, share)
