"""Requests with a channel sequence, to an exporter in memory."""

import struct

from meshfs.smb.constants import Command, Flags, Fsctl, NtStatus
from meshfs.smb.messages import FileId, IoctlRequest, SetInfoRequest
from meshlab.smb.raw_initiator import RawInitiator
from meshlab.smb.raw_messages import write_body

REPLAY = int(Flags.REPLAY_OPERATION)
STALE = NtStatus.FILE_NOT_AVAILABLE
BLOCK = 512
OLD, NEW, NEWER = b"old" * 4, b"new" * 4, b"newer" * 4

#: A SET_INFO of FileModeInformation, which succeeds and changes nothing.
SET_INFO_CLASS, SET_INFO_DATA = 16, struct.pack("<I", 0)


def write(client: RawInitiator, file_id: int, data: bytes, sequence: int, flags: int = 0) -> int:
    """Return the status of a WRITE that is answered at once."""
    return client.call(Command.WRITE, write_body(file_id, 0, data), sequence=sequence, flags=flags).status


def sequence_of(client: RawInitiator, file_id: int) -> int:
    return client.exporter.sessions[client.session_id].opens[file_id].channel_sequence


def changing(file_id: int) -> list[tuple[int, bytes]]:
    """Return requests whose command may change something, so that the exporter checks their sequence."""
    pair = FileId(file_id, file_id)
    return [
        (Command.WRITE, write_body(file_id, 0, OLD)),
        (Command.SET_INFO, SetInfoRequest(pair, 1, SET_INFO_CLASS, SET_INFO_DATA).pack()),
        (Command.IOCTL, IoctlRequest(Fsctl.MESHFS_QUERY_DISKS, pair, b"", 4096).pack()),
    ]
