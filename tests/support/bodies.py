"""A good body of every command, for tests that send each command in a way that must do nothing."""

from meshfs.smb.constants import Command, Fsctl
from meshfs.smb.messages import (
    CancelRequest,
    ChangeNotifyRequest,
    CloseRequest,
    CreateRequest,
    EchoRequest,
    FileId,
    FlushRequest,
    IoctlRequest,
    LockElement,
    LockRequest,
    LogoffRequest,
    NegotiateRequest,
    OplockBreak,
    PreauthIntegrity,
    QueryDirectoryRequest,
    QueryInfoRequest,
    SessionSetupRequest,
    SetInfoRequest,
    TreeConnectRequest,
    TreeDisconnectRequest,
    ZeroData,
)
from meshlab.smb.raw_messages import read_body, write_body


def request_bodies(file: FileId, root: FileId) -> dict[Command, bytes]:
    """Return a body of every command that would succeed on ``file``, an open disk, or ``root``, the open root."""
    return {
        Command.NEGOTIATE: NegotiateRequest((0x0311,), 1, 0, bytes(16), (PreauthIntegrity((1,)),)).pack(),
        Command.SESSION_SETUP: SessionSetupRequest(0, 1, 0, b"NTLMSSP\0").pack(),
        Command.LOGOFF: LogoffRequest().pack(),
        Command.TREE_CONNECT: TreeConnectRequest(r"\\n1\disks").pack(),
        Command.TREE_DISCONNECT: TreeDisconnectRequest().pack(),
        Command.CREATE: CreateRequest("disk0", 3, 7, 1, contexts=((b"MxAc", b""), (b"QFid", b""))).pack(),
        Command.CLOSE: CloseRequest(file).pack(),
        Command.FLUSH: FlushRequest(file).pack(),
        Command.READ: read_body(file.volatile, 0, 4096),
        Command.WRITE: write_body(file.volatile, 0, b"changed"),
        Command.LOCK: LockRequest(file, (LockElement(0, 1, 0x12),)).pack(),
        Command.IOCTL: IoctlRequest(Fsctl.SET_ZERO_DATA, file, ZeroData(0, 4096).pack(), 0).pack(),
        Command.CANCEL: CancelRequest().pack(),
        Command.ECHO: EchoRequest().pack(),
        Command.QUERY_DIRECTORY: QueryDirectoryRequest(root, 37, 4096).pack(),
        Command.CHANGE_NOTIFY: ChangeNotifyRequest(root, 4096, 0xFFF).pack(),
        Command.QUERY_INFO: QueryInfoRequest(file, 1, 18, 4096).pack(),
        Command.SET_INFO: SetInfoRequest(file, 1, 20, bytes(8)).pack(),
        Command.OPLOCK_BREAK: OplockBreak(file, 0).pack(),
    }
