"""Sends the requests of a share: for opens, disks, enclosures, the exporter's interfaces, and changes."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import Final

from meshfs import limits
from meshfs.enclosure_info import EnclosureInfo, decode_enclosures
from meshfs.errors import RemoteProtocolError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.channel.credits import Lane
from meshfs.initiator.channel.slots import Reply, Slot
from meshfs.initiator.session.address import Remote
from meshfs.initiator.session.trees import TreeConnect
from meshfs.mesh_view import MountView, ViewExchange, decode_exchange, encode_view
from meshfs.model import DiskInfo, decode_disks
from meshfs.smb.constants import (
    AccessMask,
    Command,
    CreateDisposition,
    CreateOptions,
    Fsctl,
    NtStatus,
    ShareAccess,
)
from meshfs.smb.credits import charge_for
from meshfs.smb.messages import (
    NO_FILE,
    ChangeNotifyRequest,
    CloseRequest,
    CreateRequest,
    CreateResponse,
    FileId,
    IoctlRequest,
    IoctlResponse,
    NetworkInterface,
    TrimOutput,
    TrimRanges,
    ZeroData,
    unpack_interfaces,
)

_ATTRIBUTES: Final = AccessMask.READ_ATTRIBUTES | AccessMask.READ_CONTROL | AccessMask.SYNCHRONIZE
_WRITE: Final = AccessMask.WRITE_DATA | AccessMask.APPEND_DATA | AccessMask.WRITE_ATTRIBUTES
_SHARE_ALL: Final = ShareAccess.READ | ShareAccess.WRITE | ShareAccess.DELETE
# FILE_NOTIFY_CHANGE_FILE_NAME, _ATTRIBUTES, _SIZE (MS-SMB2 2.2.35): what a disk list is made of.
_CHANGES: Final = 0x0001 | 0x0004 | 0x0008
_NOTIFY_OUTPUT_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class RemoteOpen:
    """Describes an SMB open, and the tree that it belongs to."""

    tree: TreeConnect
    file_id: FileId
    size_bytes: int


async def open_file(
    channel: Channel,
    tree: TreeConnect,
    name: str,
    *,
    readable: bool = True,
    writable: bool = False,
    directory: bool = False,
    disposition: CreateDisposition = CreateDisposition.OPEN,
    deadline: float = inf,
    late: Callable[[RemoteOpen], None] | None = None,
) -> RemoteOpen:
    """Open a file by CREATE, with share access read, write and delete. Raises StatusError if the exporter refuses.

    If the deadline passes, the open may still be made. ``late`` is then called with it, and has to close it.
    """
    request = CreateRequest(
        name=name,
        desired_access=_ATTRIBUTES | (AccessMask.READ_DATA if readable else 0) | (_WRITE if writable else 0),
        share_access=_SHARE_ALL,
        disposition=disposition,
        options=CreateOptions.DIRECTORY_FILE if directory else CreateOptions.NON_DIRECTORY_FILE,
    )

    def opened(reply: Reply) -> RemoteOpen:
        response = CreateResponse.unpack(reply.body)
        return RemoteOpen(tree, response.file_id, response.size_bytes)

    def opened_late(reply: Reply) -> None:
        if late and reply.status == NtStatus.SUCCESS:
            late(opened(reply))

    slot = channel.start_request(
        Command.CREATE, request.pack(), tree_id=tree.tree_id, deadline=deadline, late=opened_late if late else None
    )
    return opened(await channel.answer(slot))


async def close_file(channel: Channel, file: RemoteOpen, deadline: float = inf) -> None:
    """Close an open. An open that the exporter does not know any more counts as closed."""
    await channel.answer(
        channel.start_request(
            Command.CLOSE, CloseRequest(file.file_id).pack(), tree_id=file.tree.tree_id, deadline=deadline
        ),
        accept=(NtStatus.SUCCESS, NtStatus.FILE_CLOSED),
    )


async def query_disks(channel: Channel, root: RemoteOpen, deadline: float = inf) -> tuple[DiskInfo, ...]:
    """Return all disks of a share, by FSCTL_MESHFS_QUERY_DISKS on its root."""
    size = min(channel.connection.negotiated.max_transact_bytes, limits.DISK_LIST_MAX_BYTES)
    slot = start_query_disks(channel, root.tree.tree_id, root.file_id, deadline, size)
    return _disks(await channel.answer(slot))


async def query_enclosures(channel: Channel, root: RemoteOpen, deadline: float = inf) -> tuple[EnclosureInfo, ...]:
    """Return all enclosures of a share, by FSCTL_MESHFS_QUERY_ENCLOSURES on its root."""
    size = min(channel.connection.negotiated.max_transact_bytes, limits.ENCLOSURE_LIST_MAX_BYTES)
    body = IoctlRequest(Fsctl.MESHFS_QUERY_ENCLOSURES, root.file_id, b"", size).pack()
    reply = await channel.answer(
        channel.start_request(
            Command.IOCTL, body, tree_id=root.tree.tree_id, deadline=deadline, charge=charge_for(size)
        )
    )
    output = IoctlResponse.unpack(reply.body).output
    # One more of each is decoded than there may be, so that the catalog sees that a list is too long.
    most, slots_max = limits.ENCLOSURES_PER_NODE_MAX + 1, limits.SLOTS_PER_ENCLOSURE_MAX + 1
    try:
        return tuple(decode_enclosures(output, most, slots_max))
    except ValueError as error:
        raise RemoteProtocolError(f"the list of enclosures makes no sense: {error}") from error


async def query_one_of(channel: Channel, root: RemoteOpen, info: DiskInfo) -> DiskInfo | None:
    """Return the facts of one disk without an open of the disk, or None if the exporter offers no such disk.

    The query on the root has the disk's name as its input. An exporter that ignores the input lists all its disks.
    """
    name = info.name.encode()
    slot = start_query_disks(channel, root.tree.tree_id, root.file_id, inf, name=name)
    return next((each for each in _disks(await channel.answer(slot)) if each.id == info.id), None)


async def query_disk(channel: Channel, file: RemoteOpen, disk_id: str, deadline: float = inf) -> DiskInfo:
    """Return the facts that the exporter gives of the disk. ``file`` is an open of the disk."""
    slot = start_query_disks(channel, file.tree.tree_id, file.file_id, deadline)
    return only_disk(await channel.answer(slot), disk_id)


def start_query_disks(
    channel: Channel,
    tree_id: int,
    file_id: FileId,
    deadline: float,
    size: int = limits.CREDIT_BYTES,
    name: bytes = b"",
) -> Slot:
    """Start the query. ``size`` bounds the answer and the credits that it costs. ``name`` asks for one disk only."""
    body = IoctlRequest(Fsctl.MESHFS_QUERY_DISKS, file_id, name, size).pack()
    return channel.start_request(Command.IOCTL, body, tree_id=tree_id, deadline=deadline, charge=charge_for(size))


def start_clearing(
    channel: Channel,
    tree_id: int,
    file_id: FileId,
    wanted: ZeroData | TrimRanges,
    deadline: float,
    lane: Lane,
    *,
    replay: bool,
) -> Slot:
    """Start FSCTL_SET_ZERO_DATA or FSCTL_FILE_LEVEL_TRIM.

    The request is a ``replay`` if a channel that was lost may have executed it already.
    """
    code = Fsctl.SET_ZERO_DATA if isinstance(wanted, ZeroData) else Fsctl.FILE_LEVEL_TRIM
    output_bytes_max = 0 if isinstance(wanted, ZeroData) else TrimOutput.LAYOUT.size
    body = IoctlRequest(code, file_id, wanted.pack(), output_bytes_max).pack()
    return channel.start_request(
        Command.IOCTL, body, tree_id=tree_id, deadline=deadline, lane=lane, changes=True, replay=replay
    )


def only_disk(reply: Reply, disk_id: str) -> DiskInfo:
    """Return the only disk of a reply. Raises RemoteProtocolError if the reply is not about ``disk_id``."""
    disks = _disks(reply)
    if len(disks) != 1 or disks[0].id != disk_id:
        raise RemoteProtocolError(f"asked about disk {disk_id}, answered about {[disk.id for disk in disks][:3]}")
    return disks[0]


def _disks(reply: Reply) -> tuple[DiskInfo, ...]:
    try:
        # One disk more than there may be is decoded, so that the catalog sees that the list is too long.
        return tuple(decode_disks(IoctlResponse.unpack(reply.body).output, limits.DISKS_PER_NODE_MAX + 1))
    except ValueError as error:
        raise RemoteProtocolError(f"the list of disks makes no sense: {error}") from error


async def exchange_views(
    channel: Channel, root: RemoteOpen, view: MountView, deadline: float, *, answered: bool = False
) -> ViewExchange:
    """Send the view of this mount. If ``answered``, return the views of all mounts, or else an empty exchange."""
    data = encode_view(view)
    size = min(channel.connection.negotiated.max_transact_bytes, limits.VIEWS_MAX_BYTES) if answered else 0
    body = IoctlRequest(Fsctl.MESHFS_EXCHANGE_VIEWS, root.file_id, data, size).pack()
    slot = channel.start_request(
        Command.IOCTL, body, tree_id=root.tree.tree_id, deadline=deadline, charge=charge_for(max(len(data), size))
    )
    output = IoctlResponse.unpack((await channel.answer(slot)).body).output
    try:
        return decode_exchange(output) if answered else ViewExchange()
    except ValueError as error:
        raise RemoteProtocolError(str(error)) from error


async def query_interfaces(channel: Channel, tree: TreeConnect) -> tuple[Remote, ...]:
    """Return the exporter's addresses, by FSCTL_QUERY_NETWORK_INTERFACE_INFO. Raises StatusError if it has no answer.

    The mount plans a path for each address and may try to connect to it, so only the first REMOTES_MAX are taken.
    """
    body = IoctlRequest(Fsctl.QUERY_NETWORK_INTERFACE_INFO, NO_FILE, b"", limits.CREDIT_BYTES).pack()
    reply = await channel.answer(channel.start_request(Command.IOCTL, body, tree_id=tree.tree_id))
    remotes = (
        Remote(
            str(interface.address),
            interface.link_speed_bits_s,
            interface.index,
            bool(interface.capability & NetworkInterface.RDMA_CAPABLE),
        )
        for interface in unpack_interfaces(IoctlResponse.unpack(reply.body).output)
        if not interface.address.is_link_local
    )
    return tuple(islice(remotes, limits.REMOTES_MAX))


async def wait_for_change(channel: Channel, root: RemoteOpen) -> None:
    """Wait by CHANGE_NOTIFY until something in the share changes. Raise StatusError if the exporter lacks it."""
    body = ChangeNotifyRequest(root.file_id, _NOTIFY_OUTPUT_BYTES, _CHANGES).pack()
    await channel.answer(
        channel.start_request(Command.CHANGE_NOTIFY, body, tree_id=root.tree.tree_id),
        accept=(NtStatus.SUCCESS, NtStatus.NOTIFY_ENUM_DIR),
    )
