"""The constants of MS-SMB2 (2.2), MS-FSCC (2.6) and MS-ERREF (2.3.1) that meshfs uses, under their names there.

The docstring of each class names the section that defines its values.
"""

import enum
from typing import Final

PROTOCOL_ID: Final = b"\xfeSMB"
PROTOCOL_ID_TRANSFORM: Final = b"\xfdSMB"
PROTOCOL_ID_COMPRESSION: Final = b"\xfcSMB"
PROTOCOL_ID_SMB1: Final = b"\xffSMB"

HEADER_BYTES: Final = 64
TRANSFORM_HEADER_BYTES: Final = 52

MESSAGE_ID_UNSOLICITED: Final = 0xFFFFFFFFFFFFFFFF
SESSION_ID_RELATED: Final = 0xFFFFFFFFFFFFFFFF


class Command(enum.IntEnum):
    """Names the commands, as the header of a message has them (MS-SMB2 2.2.1.2)."""

    NEGOTIATE = 0x00
    SESSION_SETUP = 0x01
    LOGOFF = 0x02
    TREE_CONNECT = 0x03
    TREE_DISCONNECT = 0x04
    CREATE = 0x05
    CLOSE = 0x06
    FLUSH = 0x07
    READ = 0x08
    WRITE = 0x09
    LOCK = 0x0A
    IOCTL = 0x0B
    CANCEL = 0x0C
    ECHO = 0x0D
    QUERY_DIRECTORY = 0x0E
    CHANGE_NOTIFY = 0x0F
    QUERY_INFO = 0x10
    SET_INFO = 0x11
    OPLOCK_BREAK = 0x12


class Flags(enum.IntFlag):
    """Holds the flags of a header (MS-SMB2 2.2.1.2)."""

    SERVER_TO_REDIR = 0x00000001
    ASYNC_COMMAND = 0x00000002
    RELATED_OPERATIONS = 0x00000004
    SIGNED = 0x00000008
    PRIORITY_MASK = 0x00000070
    DFS_OPERATIONS = 0x10000000
    REPLAY_OPERATION = 0x20000000


class Dialect(enum.IntEnum):
    """Names the dialects of SMB (MS-SMB2 2.2.3). Dialects below 3.0 are listed so that they can be refused by name."""

    SMB_2_0_2 = 0x0202
    SMB_2_1 = 0x0210
    SMB_3_0 = 0x0300
    SMB_3_0_2 = 0x0302
    SMB_3_1_1 = 0x0311
    SMB_2_WILDCARD = 0x02FF

    @property
    def text(self) -> str:
        return _DIALECT_TEXTS[self]


_DIALECT_TEXTS: Final = {
    Dialect.SMB_2_0_2: "2.0.2",
    Dialect.SMB_2_1: "2.1",
    Dialect.SMB_3_0: "3.0",
    Dialect.SMB_3_0_2: "3.0.2",
    Dialect.SMB_3_1_1: "3.1.1",
    Dialect.SMB_2_WILDCARD: "2.???",
}


class SecurityMode(enum.IntFlag):
    """Tells whether an end can sign or requires signatures, in NEGOTIATE and SESSION_SETUP (MS-SMB2 2.2.3, 2.2.5)."""

    SIGNING_ENABLED = 0x01
    SIGNING_REQUIRED = 0x02


class Capabilities(enum.IntFlag):
    """Holds the capabilities of an end, SMB2_GLOBAL_CAP_* (MS-SMB2 2.2.3)."""

    DFS = 0x01
    LEASING = 0x02
    LARGE_MTU = 0x04
    MULTI_CHANNEL = 0x08
    PERSISTENT_HANDLES = 0x10
    DIRECTORY_LEASING = 0x20
    ENCRYPTION = 0x40
    NOTIFICATIONS = 0x80


class NegotiateContextType(enum.IntEnum):
    """Names the kinds of contexts in a NEGOTIATE (MS-SMB2 2.2.3.1)."""

    PREAUTH_INTEGRITY_CAPABILITIES = 0x0001
    ENCRYPTION_CAPABILITIES = 0x0002
    COMPRESSION_CAPABILITIES = 0x0003
    NETNAME_NEGOTIATE_CONTEXT_ID = 0x0005
    TRANSPORT_CAPABILITIES = 0x0006
    RDMA_TRANSFORM_CAPABILITIES = 0x0007
    SIGNING_CAPABILITIES = 0x0008
    POSIX_EXTENSIONS = 0x0100


class HashAlgorithm(enum.IntEnum):
    """Names the hash algorithms of the pre-authentication integrity (MS-SMB2 2.2.3.1.1)."""

    SHA_512 = 0x0001


class Cipher(enum.IntEnum):
    """Names the ciphers of encrypted messages (MS-SMB2 2.2.3.1.2). NONE means that the ends have none in common."""

    NONE = 0x0000
    AES_128_CCM = 0x0001
    AES_128_GCM = 0x0002
    AES_256_CCM = 0x0003
    AES_256_GCM = 0x0004

    @property
    def text(self) -> str:
        return self.name.replace("_", "-") if self else "none"


class SigningAlgorithm(enum.IntEnum):
    """Names the algorithms of signatures (MS-SMB2 2.2.3.1.7)."""

    HMAC_SHA256 = 0x0000
    AES_CMAC = 0x0001
    AES_GMAC = 0x0002

    @property
    def text(self) -> str:
        return self.name.replace("_", "-")


class SessionSetupFlags(enum.IntFlag):
    """Holds the flags of a SESSION_SETUP request (MS-SMB2 2.2.5)."""

    BINDING = 0x01


class SessionFlags(enum.IntFlag):
    """Holds the flags of a session, in a SESSION_SETUP response (MS-SMB2 2.2.6)."""

    IS_GUEST = 0x0001
    IS_NULL = 0x0002
    ENCRYPT_DATA = 0x0004


class ShareType(enum.IntEnum):
    """Names the kinds of shares (MS-SMB2 2.2.10)."""

    DISK = 0x01
    PIPE = 0x02
    PRINT = 0x03


class ShareFlags(enum.IntFlag):
    """Holds the flags of a share (MS-SMB2 2.2.10). Without NO_CACHING, the value 0 means manual caching."""

    NO_CACHING = 0x00000030
    ENCRYPT_DATA = 0x00008000


class AccessMask(enum.IntFlag):
    """Holds the access rights of an open (MS-SMB2 2.2.13.1.1)."""

    READ_DATA = 0x00000001
    WRITE_DATA = 0x00000002
    APPEND_DATA = 0x00000004
    READ_EA = 0x00000008
    WRITE_EA = 0x00000010
    EXECUTE = 0x00000020
    DELETE_CHILD = 0x00000040
    READ_ATTRIBUTES = 0x00000080
    WRITE_ATTRIBUTES = 0x00000100
    DELETE = 0x00010000
    READ_CONTROL = 0x00020000
    WRITE_DAC = 0x00040000
    WRITE_OWNER = 0x00080000
    SYNCHRONIZE = 0x00100000
    ACCESS_SYSTEM_SECURITY = 0x01000000
    MAXIMUM_ALLOWED = 0x02000000
    GENERIC_ALL = 0x10000000
    GENERIC_EXECUTE = 0x20000000
    GENERIC_WRITE = 0x40000000
    GENERIC_READ = 0x80000000


class ShareAccess(enum.IntFlag):
    """Holds the access that an open leaves to other opens of its file (MS-SMB2 2.2.13)."""

    READ = 0x01
    WRITE = 0x02
    DELETE = 0x04


class CreateDisposition(enum.IntEnum):
    """Tells a CREATE what to do with a file that exists, or that does not exist (MS-SMB2 2.2.13)."""

    SUPERSEDE = 0
    OPEN = 1
    CREATE = 2
    OPEN_IF = 3
    OVERWRITE = 4
    OVERWRITE_IF = 5


class CreateOptions(enum.IntFlag):
    """Holds the options of a CREATE request (MS-SMB2 2.2.13)."""

    DIRECTORY_FILE = 0x00000001
    WRITE_THROUGH = 0x00000002
    SEQUENTIAL_ONLY = 0x00000004
    NO_INTERMEDIATE_BUFFERING = 0x00000008
    NON_DIRECTORY_FILE = 0x00000040
    DELETE_ON_CLOSE = 0x00001000
    OPEN_BY_FILE_ID = 0x00002000
    OPEN_REPARSE_POINT = 0x00200000


class CreateAction(enum.IntEnum):
    """Tells what a CREATE did with the file (MS-SMB2 2.2.14)."""

    SUPERSEDED = 0
    OPENED = 1
    CREATED = 2
    OVERWRITTEN = 3


class ImpersonationLevel(enum.IntEnum):
    """Tells how far a server may act for the client (MS-SMB2 2.2.13). An exporter only checks the value."""

    ANONYMOUS = 0
    IDENTIFICATION = 1
    IMPERSONATION = 2
    DELEGATE = 3


class OplockLevel(enum.IntEnum):
    """Names the levels of an oplock (MS-SMB2 2.2.13)."""

    NONE = 0x00
    II = 0x01
    EXCLUSIVE = 0x08
    BATCH = 0x09
    LEASE = 0xFF


class FileAttributes(enum.IntFlag):
    """Holds the attributes of a file (MS-FSCC 2.6)."""

    READONLY = 0x00000001
    HIDDEN = 0x00000002
    SYSTEM = 0x00000004
    DIRECTORY = 0x00000010
    ARCHIVE = 0x00000020
    NORMAL = 0x00000080
    TEMPORARY = 0x00000100


class CloseFlags(enum.IntFlag):
    """Holds the flags of a CLOSE (MS-SMB2 2.2.15)."""

    POSTQUERY_ATTRIB = 0x0001


class WriteFlags(enum.IntFlag):
    """Holds the flags of a WRITE request (MS-SMB2 2.2.21)."""

    WRITE_THROUGH = 0x00000001
    WRITE_UNBUFFERED = 0x00000002


class NotifyFilter(enum.IntFlag):
    """Holds the CompletionFilter of CHANGE_NOTIFY: the properties whose changes are reported (MS-SMB2 2.2.35)."""

    FILE_NAME = 0x001
    DIR_NAME = 0x002
    ATTRIBUTES = 0x004
    SIZE = 0x008
    LAST_WRITE = 0x010
    LAST_ACCESS = 0x020
    CREATION = 0x040


class InfoType(enum.IntEnum):
    """Names the subjects of QUERY_INFO and SET_INFO (MS-SMB2 2.2.37)."""

    FILE = 0x01
    FILESYSTEM = 0x02
    SECURITY = 0x03
    QUOTA = 0x04


class QueryDirectoryFlags(enum.IntFlag):
    """Holds the flags of a QUERY_DIRECTORY request (MS-SMB2 2.2.33)."""

    RESTART_SCANS = 0x01
    RETURN_SINGLE_ENTRY = 0x02
    INDEX_SPECIFIED = 0x04
    REOPEN = 0x10


class LockFlags(enum.IntFlag):
    """Holds the flags of one element of a LOCK request (MS-SMB2 2.2.26.1)."""

    SHARED_LOCK = 0x00000001
    EXCLUSIVE_LOCK = 0x00000002
    UNLOCK = 0x00000004
    FAIL_IMMEDIATELY = 0x00000010


class Fsctl(enum.IntEnum):
    """Names the control codes of IOCTL (MS-SMB2 2.2.31), and the codes of meshfs."""

    DFS_GET_REFERRALS = 0x00060194
    DFS_GET_REFERRALS_EX = 0x000601B0
    GET_OBJECT_ID = 0x0009009C
    CREATE_OR_GET_OBJECT_ID = 0x000900C0
    SET_SPARSE = 0x000900C4
    SET_ZERO_DATA = 0x000980C8
    FILE_LEVEL_TRIM = 0x00098208
    PIPE_WAIT = 0x00110018
    PIPE_TRANSCEIVE = 0x0011C017
    QUERY_NETWORK_INTERFACE_INFO = 0x001401FC
    VALIDATE_NEGOTIATE_INFO = 0x00140204
    #: Returns the disks of the open's share, or the open's own disk, as ``model.encode_disks`` writes them. The code is
    #: CTL_CODE(FILE_DEVICE_NETWORK_FILE_SYSTEM, 0x801, METHOD_BUFFERED, FILE_READ_ACCESS), in the range for vendors.
    MESHFS_QUERY_DISKS = 0x00146004
    #: Returns the enclosures of the share `enclosures`, as ``enclosure_info.encode_enclosures`` writes them (0x802).
    MESHFS_QUERY_ENCLOSURES = 0x00146008
    #: Takes what a mount sees of the mesh, and returns what all mounts see, as ``mesh_view`` writes both (0x803).
    MESHFS_EXCHANGE_VIEWS = 0x0014600C


#: Tells that the control code of an IOCTL is an FSCTL (MS-SMB2 2.2.31, Flags).
IOCTL_IS_FSCTL: Final = 0x00000001


class NtStatus(enum.IntEnum):
    """Names the statuses that meshfs sends or acts on (MS-ERREF 2.3.1)."""

    SUCCESS = 0x00000000
    PENDING = 0x00000103
    NOTIFY_CLEANUP = 0x0000010B
    NOTIFY_ENUM_DIR = 0x0000010C
    BUFFER_OVERFLOW = 0x80000005
    NO_MORE_FILES = 0x80000006
    UNSUCCESSFUL = 0xC0000001
    INVALID_INFO_CLASS = 0xC0000003
    INFO_LENGTH_MISMATCH = 0xC0000004
    INVALID_HANDLE = 0xC0000008
    INVALID_PARAMETER = 0xC000000D
    NO_SUCH_FILE = 0xC000000F
    INVALID_DEVICE_REQUEST = 0xC0000010
    END_OF_FILE = 0xC0000011
    MORE_PROCESSING_REQUIRED = 0xC0000016
    NO_MEMORY = 0xC0000017
    ACCESS_DENIED = 0xC0000022
    BUFFER_TOO_SMALL = 0xC0000023
    OBJECT_NAME_INVALID = 0xC0000033
    OBJECT_NAME_NOT_FOUND = 0xC0000034
    OBJECT_NAME_COLLISION = 0xC0000035
    OBJECT_PATH_NOT_FOUND = 0xC000003A
    OBJECT_PATH_SYNTAX_BAD = 0xC000003B
    SHARING_VIOLATION = 0xC0000043
    EAS_NOT_SUPPORTED = 0xC000004F
    NO_EAS_ON_FILE = 0xC0000052
    FILE_LOCK_CONFLICT = 0xC0000054
    LOCK_NOT_GRANTED = 0xC0000055
    DELETE_PENDING = 0xC0000056
    PRIVILEGE_NOT_HELD = 0xC0000061
    LOGON_FAILURE = 0xC000006D
    DISK_FULL = 0xC000007F
    RANGE_NOT_LOCKED = 0xC000007E
    INSUFFICIENT_RESOURCES = 0xC000009A
    MEDIA_WRITE_PROTECTED = 0xC00000A2
    BAD_IMPERSONATION_LEVEL = 0xC00000A5
    INTEGER_OVERFLOW = 0xC0000095
    INVALID_LOCK_RANGE = 0xC00001A1
    IO_TIMEOUT = 0xC00000B5
    FILE_IS_A_DIRECTORY = 0xC00000BA
    NOT_SUPPORTED = 0xC00000BB
    NETWORK_NAME_DELETED = 0xC00000C9
    BAD_NETWORK_NAME = 0xC00000CC
    REQUEST_NOT_ACCEPTED = 0xC00000D0
    INTERNAL_ERROR = 0xC00000E5
    NOT_A_DIRECTORY = 0xC0000103
    CANCELLED = 0xC0000120
    CANNOT_DELETE = 0xC0000121
    FILE_CLOSED = 0xC0000128
    DEVICE_DATA_ERROR = 0xC000009C
    FILE_INVALID = 0xC0000098
    FS_DRIVER_REQUIRED = 0xC000019C
    IO_DEVICE_ERROR = 0xC0000185
    USER_SESSION_DELETED = 0xC0000203
    INVALID_DEVICE_STATE = 0xC0000184
    INVALID_OPLOCK_PROTOCOL = 0xC00000E3
    DIRECTORY_NOT_EMPTY = 0xC0000101
    NAME_TOO_LONG = 0xC0000106
    NETWORK_SESSION_EXPIRED = 0xC000035C
    REQUEST_OUT_OF_SEQUENCE = 0xC000042A
    NO_RANGES_PROCESSED = 0xC0000460
    FILE_NOT_AVAILABLE = 0xC0000467
    DEVICE_NOT_READY = 0xC00000A3
    NO_SUCH_DEVICE = 0xC000000E
    SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP = 0xC05D0000
