"""One SMB connection without I/O, for both ends, which turns frames into messages, and messages into frames.

    parse(frame) -> Message             decrypted, compounds split, signatures verified
    pack(command, body, ...) -> frame   signed or encrypted, behind room for the framing of the transport

The connection only reports whether a signature is right (`Protection`). The caller then ignores, refuses or closes,
because the rules of the two ends differ (MS-SMB2 3.2.5.1.3, 3.3.5.2.4). Of the sessions that are bound to it, a
connection knows only the keys (``security``).
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from meshfs import limits
from meshfs.buffers import FRAMING_BYTES, HEADROOM_BYTES, Account, Buffer, BufferPool, Frame
from meshfs.errors import RemoteProtocolError
from meshfs.smb.constants import (
    HEADER_BYTES,
    PROTOCOL_ID,
    PROTOCOL_ID_COMPRESSION,
    PROTOCOL_ID_SMB1,
    PROTOCOL_ID_TRANSFORM,
    SESSION_ID_RELATED,
    Capabilities,
    Cipher,
    Command,
    Dialect,
    SigningAlgorithm,
)
from meshfs.smb.messages import Smb1Negotiate
from meshfs.smb.sealing import parse_transform_header
from meshfs.smb.security import ChannelSecurity, PeerNonces, PreauthHash
from meshfs.smb.signing import NONCE_CANCEL, NONCE_EXPORTER, NONCE_INITIATOR
from meshfs.smb.wire import HEADER, READ_DATA_OFFSET, WRITE_DATA_OFFSET, pack_header

_SIGNED: Final = 0x00000008
_RESPONSE: Final = 0x00000001
_CANCEL: Final = int(Command.CANCEL)
_MULTI_CHANNEL: Final = int(Capabilities.MULTI_CHANNEL)
_unpack_header: Final = HEADER.unpack_from


class Role(enum.Enum):
    """Names one end of a connection."""

    INITIATOR = "initiator"
    EXPORTER = "exporter"


class Protection(enum.IntEnum):
    """Tells how a received message is protected."""

    #: Neither signed nor encrypted.
    NONE = 0
    #: Signed, and the signature is right.
    SIGNED = 1
    #: Encrypted, and authentic.
    SEALED = 2
    #: Signed for a session whose key this connection does not have (yet).
    UNKNOWN = 3
    #: The signature is wrong.
    BAD = 4


# The three members are looked up for each message. Looking up a member of an enum costs as much as a call.
_UNPROTECTED: Final = Protection.NONE
_SIGNED_WELL: Final = Protection.SIGNED
_BAD: Final = Protection.BAD


class Message:
    """Holds one received message. ``view`` (header and body) is valid until the next receive.

    A handler that needs a payload for longer takes the memory of ``frame``, or copies the payload (`take_payload`).
    """

    __slots__ = (
        "command", "credit_charge", "credits", "flags", "frame", "message_id", "next", "protection",
        "session_id", "status", "tail", "view",
    )  # fmt: skip
    credit_charge: int
    status: int
    command: int
    credits: int
    flags: int
    message_id: int
    tail: int
    session_id: int

    def __init__(self, view: memoryview, frame: Frame | None, header: tuple[Any, ...]) -> None:
        (
            _, size, self.credit_charge, self.status, self.command, self.credits, self.flags, _, self.message_id,
            self.tail, self.session_id, _,
        ) = header  # fmt: skip
        if size != HEADER_BYTES:
            raise RemoteProtocolError(f"the header says that it is {size} bytes long, expected {HEADER_BYTES}")
        self.view = view
        #: The frame, or None if the message is a part of a compound.
        self.frame = frame
        self.protection = _UNPROTECTED
        #: The next message of the same compound.
        self.next: Message | None = None

    @property
    def body(self) -> memoryview:
        return self.view[HEADER_BYTES:]

    @property
    def tree_id(self) -> int:
        return self.tail >> 32

    @property
    def async_id(self) -> int:
        return self.tail

    @property
    def channel_sequence(self) -> int:
        return self.status & 0xFFFF


class Smb1Opening(Message):
    """Stands for an SMB 1 packet that asks for SMB 2: an empty NEGOTIATE with message id 0 (MS-SMB2 3.3.5.3.1)."""

    __slots__ = ()

    def __init__(self) -> None:
        header = memoryview(pack_header(Command.NEGOTIATE, credits=1))
        super().__init__(header, None, _unpack_header(header))


@dataclass(slots=True)
class Negotiated:
    """Holds the result of NEGOTIATE. The defaults apply to a connection before its NEGOTIATE."""

    dialect: Dialect | None = None
    signing_algorithm: SigningAlgorithm = SigningAlgorithm.AES_CMAC
    cipher: Cipher = Cipher.NONE
    max_transact_bytes: int = limits.CREDIT_BYTES
    max_read_bytes: int = limits.CREDIT_BYTES
    max_write_bytes: int = limits.CREDIT_BYTES
    large_mtu: bool = False
    peer_guid: bytes = bytes(16)
    peer_capabilities: int = 0
    peer_security_mode: int = 0
    peer_dialects: tuple[int, ...] = ()
    #: True if both ends promised unique nonces, by the context messages.UNIQUE_NONCES.
    unique_nonces: bool = False
    preauth: PreauthHash = field(default_factory=PreauthHash)

    @property
    def peer_nonces(self) -> PeerNonces:
        """Return the promise of the peer about the nonces of a session that is set up on this connection."""
        if self.unique_nonces:
            return PeerNonces.TAGGED
        return PeerNonces.OTHER if self.peer_capabilities & _MULTI_CHANNEL else PeerNonces.ONE_CHANNEL


#: The offset of the payload in the messages with large payloads that an end receives: WRITEs and READ responses.
PAYLOAD_OFFSETS: Final = {Role.EXPORTER: WRITE_DATA_OFFSET, Role.INITIATOR: READ_DATA_OFFSET}


class ReceivedMemory(Protocol):
    """Holds the memory of received frames, which a decrypted frame joins."""

    account: Account

    def lend(self, frame: Frame) -> None:
        """Release the memory of ``frame`` when the memory of the frame that it was decrypted from is used again."""


class Connection:
    """Parses, packs and protects the messages of one end of one transport."""

    def __init__(self, role: Role, pool: BufferPool, received: ReceivedMemory) -> None:
        self.role = role
        self.negotiated = Negotiated()
        #: Session id -> the keys of that session on this connection.
        self.security: dict[int, ChannelSecurity] = {}
        self._pool = pool
        self._received = received
        exporter = role is Role.EXPORTER
        self._payload_offset = PAYLOAD_OFFSETS[role]
        self._peer = NONCE_INITIATOR if exporter else NONCE_EXPORTER
        self._self = NONCE_EXPORTER if exporter else NONCE_INITIATOR
        self._direction = 0 if exporter else _RESPONSE

    # --- receiving ---------------------------------------------------------------------

    def parse(self, frame: Frame) -> Message:
        """Return the message of a frame: decrypt it, split compounds, verify signatures. Raises RemoteProtocolError."""
        view = frame.view
        if len(view) < HEADER_BYTES:
            return self._other(frame)
        header = _unpack_header(view)
        if header[0] != PROTOCOL_ID:
            return self._other(frame)
        return self._message(frame, header, None)

    def _other(self, frame: Frame) -> Message:
        """Parse a frame that is no plain message of SMB 2: an encrypted one, an SMB 1 packet, or an invalid one."""
        protocol = bytes(frame.view[:4])
        if protocol == PROTOCOL_ID_TRANSFORM:
            return self._unseal(frame)
        if protocol == PROTOCOL_ID_COMPRESSION:
            raise RemoteProtocolError("the message is compressed, but compression was not negotiated")
        if protocol == PROTOCOL_ID_SMB1:
            return self._smb1(frame)
        if protocol == PROTOCOL_ID:
            raise RemoteProtocolError(f"a message of {len(frame.view)} bytes is shorter than a header")
        raise RemoteProtocolError(f"the message starts with {protocol.hex()}, not with an SMB 2 header")

    def _smb1(self, frame: Frame) -> Message:
        offered = () if self.role is Role.INITIATOR else Smb1Negotiate.unpack(frame.view).dialects
        if Smb1Negotiate.SMB_2_WILDCARD not in offered:
            raise RemoteProtocolError("SMB 1 is not supported")
        return Smb1Opening()

    def _unseal(self, frame: Frame) -> Message:
        size, session_id = parse_transform_header(frame.view)
        if size < HEADER_BYTES:
            raise RemoteProtocolError(f"an encrypted message of {size} bytes is shorter than a header")
        security = self.security.get(session_id)
        if security is None or security.opener is None:
            raise RemoteProtocolError(f"an encrypted message names session 0x{session_id:x}, which has no keys here")
        buffer = self._pool.acquire(size, self._received.account)
        start = HEADROOM_BYTES - self._payload_offset
        plain = Frame(buffer.view, start, size, buffer)
        self._received.lend(plain)
        security.opener.open(frame.memory, frame.start, len(frame.view), plain.view)
        header = _unpack_header(plain.view)
        if header[0] != PROTOCOL_ID:
            raise RemoteProtocolError("an encrypted message has no SMB 2 header")
        return self._message(plain, header, session_id)

    def _message(self, frame: Frame, header: tuple[Any, ...], sealed_session: int | None) -> Message:
        """Return the message of a frame, or the first message of a compound."""
        if header[7]:
            return self._compound(frame.view, sealed_session)
        message = Message(frame.view, frame, header)
        self._judge(message, sealed_session)
        return message

    def _compound(self, view: memoryview, sealed_session: int | None) -> Message:
        """Split a compound by NextCommand (MS-SMB2 3.3.5.2.7), and copy it into memory of its own.

        A later part is handled only after the earlier ones, when the receive buffer may hold other data already.
        """
        view = memoryview(bytearray(view))
        first: Message | None = None
        last: Message | None = None
        for _ in range(limits.COMPOUND_MAX):
            if len(view) < HEADER_BYTES or bytes(view[:4]) != PROTOCOL_ID:
                raise RemoteProtocolError("NextCommand points to a place in the compound that has no SMB 2 header")
            step = int.from_bytes(view[20:24], "little")
            if step and (step % 8 or not HEADER_BYTES <= step <= len(view) - HEADER_BYTES):
                raise RemoteProtocolError(f"NextCommand {step} points outside its compound of {len(view)} bytes")
            message = Message(view[: step or len(view)], None, _unpack_header(view))
            self._judge(message, sealed_session)
            if last is None:
                first = message
            else:
                last.next = message
            last = message
            if not step:
                assert first is not None
                return first
            view = view[step:]
        raise RemoteProtocolError(f"the compound has more than {limits.COMPOUND_MAX} messages")

    def _judge(self, message: Message, sealed_session: int | None) -> None:
        if (message.flags & _RESPONSE) != self._direction:
            raise RemoteProtocolError("the message has the wrong direction (request or response)")
        if sealed_session is not None:
            if message.session_id not in (sealed_session, SESSION_ID_RELATED):
                raise RemoteProtocolError("an encrypted message names another session than its transform header")
            message.protection = Protection.SEALED
        elif message.flags & _SIGNED:
            security = self.security.get(message.session_id)
            message.protection = Protection.UNKNOWN if security is None else self.check(message, security)

    def check(self, message: Message, security: ChannelSecurity) -> Protection:
        """Verify the signature of ``message`` with the key of ``security``, and return SIGNED or BAD."""
        sender = self._peer | NONCE_CANCEL if message.command == _CANCEL else self._peer
        good = security.signer.verify(message.view, message.message_id, sender)
        return _SIGNED_WELL if good else _BAD

    # --- sending -----------------------------------------------------------------------

    def pack(
        self,
        command: int,
        body: bytes,
        *,
        status: int = 0,
        flags: int = 0,
        credits: int = 0,
        credit_charge: int = 0,
        message_id: int = 0,
        tree_id: int = 0,
        async_id: int | None = None,
        session_id: int = 0,
        sign: ChannelSecurity | None = None,
        seal: ChannelSecurity | None = None,
    ) -> bytearray | memoryview:
        """Return the frame of one message, signed by ``sign`` or encrypted by ``seal``."""
        header = pack_header(
            command, status=status, flags=flags | self._own_flags(sign), credits=credits, credit_charge=credit_charge,
            message_id=message_id, tree_id=tree_id, async_id=async_id, session_id=session_id,
        )  # fmt: skip
        return self.protect([bytearray(header + body)], sign, seal)

    def _own_flags(self, sign: ChannelSecurity | None) -> int:
        direction = _RESPONSE if self.role is Role.EXPORTER else 0
        return direction | (_SIGNED if sign is not None else 0)

    def protect(
        self, messages: Sequence[bytearray], sign: ChannelSecurity | None, seal: ChannelSecurity | None
    ) -> bytearray | memoryview:
        """Return one frame of ``messages``, chained as a compound, and signed or encrypted.

        Their headers must be complete and their signatures zero. If ``sign`` is given, ``Flags.SIGNED`` must be set.
        """
        for message in messages[:-1]:
            message.extend(bytes(-len(message) % 8))
            message[20:24] = len(message).to_bytes(4, "little")
        if seal is not None:
            assert seal.sealer is not None
            return seal.sealer.seal(b"".join(messages))
        if sign is not None:
            for message in messages:
                self.sign(message, sign)
        return bytearray(FRAMING_BYTES) + b"".join(messages)

    def sign(self, message: bytearray | memoryview, security: ChannelSecurity) -> None:
        """Write the signature of a message whose signature field is zero."""
        sender = self._self | NONCE_CANCEL if message[12] == _CANCEL else self._self
        security.signer.sign(message, int.from_bytes(message[24:32], "little"), sender)


def take_payload(message: Message, start: int, length: int, pool: BufferPool, account: Account) -> tuple[Buffer, int]:
    """Return (buffer, offset): memory that holds ``message.view[start:start + length]`` beyond the next receive.

    ``offset`` is the start of the payload in ``buffer.view``. The buffer is the frame's own memory if it has some.
    Otherwise the payload is copied after the headroom of a new buffer. The caller must release the buffer.
    """
    frame = message.frame
    if frame is not None:
        buffer = frame.take()
        if buffer is not None:
            return buffer, frame.start + start
    buffer = pool.acquire(length, account)
    buffer.view[HEADROOM_BYTES : HEADROOM_BYTES + length] = message.view[start : start + length]
    return buffer, HEADROOM_BYTES


__all__ = [
    "Connection",
    "Message",
    "Negotiated",
    "Protection",
    "Role",
    "Smb1Opening",
    "take_payload",
]
