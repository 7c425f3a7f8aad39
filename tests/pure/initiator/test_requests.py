"""An exporter's answers are cut to bounds before the mount works with them."""

import json
from ipaddress import ip_address
from typing import Any, cast

from meshfs import limits
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.channel.slots import Reply
from meshfs.initiator.session.commands import RemoteOpen, query_disks, query_interfaces
from meshfs.initiator.session.trees import TreeConnect
from meshfs.model import Access, DiskInfo, IoClass, encode_disks
from meshfs.smb.connection import Protection
from meshfs.smb.constants import HEADER_BYTES, Fsctl
from meshfs.smb.messages import FileId, IoctlResponse
from meshfs.smb.messages.ioctl import NO_FILE, NetworkInterface, pack_interfaces

TREE = TreeConnect(1, IoClass.APP)


class Answering:
    """A channel whose every request gets the same answer."""

    def __init__(self, output: bytes) -> None:
        body = IoctlResponse(Fsctl.MESHFS_QUERY_DISKS, NO_FILE, output).pack()
        self._reply = Reply(0, 1, 1, Protection.SIGNED, bytearray(HEADER_BYTES) + body)
        self.connection = self
        self.negotiated = self
        self.max_transact_bytes = limits.MIB

    async def request(self, *_: object, **__: object) -> Reply:
        return self._reply

    def start_request(self, *_: object, **__: object) -> None:
        """Return a request that is answered already."""

    async def answer(self, _: object) -> Reply:
        return self._reply


def channel(output: bytes) -> Channel:
    return cast(Any, Answering(output))


async def test_of_many_interfaces_no_more_are_planned_with_than_can_be_used() -> None:
    told = tuple(
        NetworkInterface(1, ip_address(f"10.0.{index // 250}.{index % 250 + 1}"), 1, 0) for index in range(256)
    )
    remotes = await query_interfaces(channel(pack_interfaces(told)), TREE)
    assert len(remotes) == limits.REMOTES_MAX
    assert remotes[0].address == "10.0.0.1"


async def test_of_many_disks_no_more_are_decoded_than_there_may_be_and_one() -> None:
    (disk,) = json.loads(encode_disks([DiskInfo("d", "n1", "d", 1, Access.READ_WRITE, "v")]))
    disks = [{**disk, "id": f"d{index}"} for index in range(2 * limits.DISKS_PER_NODE_MAX)]
    output = json.dumps([*disks, {"no": "disk"}]).encode()
    root = RemoteOpen(TREE, FileId(1, 1), 0)
    assert len(await query_disks(channel(output), root)) == limits.DISKS_PER_NODE_MAX + 1
