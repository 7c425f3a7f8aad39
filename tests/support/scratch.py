"""An exporter in memory with a scratch share, and one-line requests to it."""

import struct

from meshfs.exporter.rules.scratch.tree import ScratchFile
from meshfs.exporter.rules.scratch.volume import ScratchVolume
from meshfs.exporter.state.exporter import Exporter
from meshfs.model import Security
from meshfs.smb.constants import Command, CreateDisposition, CreateOptions, InfoType
from meshfs.smb.info import FileInfoClass
from meshfs.smb.messages import (
    CloseRequest,
    CreateResponse,
    FileId,
    QueryDirectoryRequest,
    QueryDirectoryResponse,
    QueryInfoRequest,
    QueryInfoResponse,
    SetInfoRequest,
)
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import Reply, read_body, write_body

SIZE = 1 << 20
ALL = 0x001F01FF


class Clock:
    """A time that serves as both clocks of an exporter."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def client_of(security: Security, clock: Clock) -> RawInitiator:
    exporter = make_exporter(security, clock=clock, disk0=MemoryDisk(1 << 20))
    exporter.wall_clock = clock
    exporter.scratch = ScratchVolume(SIZE, exporter.now_filetime())
    return another(exporter, "n2")


def files(volume: ScratchVolume) -> list[ScratchFile]:
    """Return all files that have a name, each directory before what is in it."""
    found: list[ScratchFile] = []
    left = [volume.root]
    while left:
        file = left.pop()
        found.append(file)
        left.extend(reversed(list((file.children or {}).values())))
    return found[1:]


def another(exporter: Exporter, node: str = "n3") -> RawInitiator:
    client = RawInitiator(exporter).log_in(node, "scratch")
    client.call(Command.ECHO, b"\x04\0\0\0", credits=400)
    return client


def make(client: RawInitiator, name: str, access: int = ALL, **fields: int) -> int:
    """Open the file, make it if there is none, and return its id."""
    fields.setdefault("disposition", CreateDisposition.OPEN_IF)
    reply = client.create(name, access, **fields)
    assert not reply.status, hex(reply.status)
    return CreateResponse.unpack(reply.body).file_id.volatile


def mkdir(client: RawInitiator, name: str) -> int:
    return make(client, name, disposition=CreateDisposition.CREATE, options=CreateOptions.DIRECTORY_FILE)


def close(client: RawInitiator, file_id: int, flags: int = 0) -> Reply:
    return client.call(Command.CLOSE, CloseRequest(FileId(file_id, file_id), flags).pack())


def write(client: RawInitiator, file_id: int, offset: int, data: bytes) -> int:
    return client.call(Command.WRITE, write_body(file_id, offset, data), charge=-(-len(data) // 65536) or 1).status


def read(client: RawInitiator, file_id: int, offset: int, length: int, minimum: int = 0) -> bytes | int:
    body = read_body(file_id, offset, length, minimum=minimum)
    reply = client.call(Command.READ, body, charge=-(-length // 65536) or 1)
    return reply.status or reply.data


def set_info(client: RawInitiator, file_id: int, info_class: int, data: bytes) -> int:
    body = SetInfoRequest(FileId(file_id, file_id), InfoType.FILE, info_class, data)
    return client.call(Command.SET_INFO, body.pack()).status


def get_info(client: RawInitiator, file_id: int, info_class: int, kind: int = InfoType.FILE) -> bytes:
    reply = client.call(Command.QUERY_INFO, QueryInfoRequest(FileId(file_id, file_id), kind, info_class, 4096).pack())
    assert not reply.status, hex(reply.status)
    return QueryInfoResponse.unpack(reply.body).output


def rename(client: RawInitiator, file_id: int, name: str, replace: bool = False) -> int:
    encoded = name.encode("utf-16-le")
    data = struct.pack("<B7xQI", replace, 0, len(encoded)) + encoded
    return set_info(client, file_id, FileInfoClass.RENAME, data)


def listing(client: RawInitiator, folder: int, pattern: str = "*") -> list[str]:
    body = QueryDirectoryRequest(FileId(folder, folder), FileInfoClass.NAMES, 65536, pattern, flags=1)
    reply = client.call(Command.QUERY_DIRECTORY, body.pack())
    assert not reply.status, hex(reply.status)
    output, names, offset, step = QueryDirectoryResponse.unpack(reply.body).output, [], 0, 1
    while step:
        step, _, length = struct.unpack_from("<III", output, offset)
        names.append(output[offset + 12 : offset + 12 + length].decode("utf-16-le"))
        offset += step
    return names
