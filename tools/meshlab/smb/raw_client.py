"""The client of a test: it packs and signs any request, and counts message ids.

A subclass delivers the frames, without or over a socket.
"""

import struct
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Self

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.smb.auth import Login
from meshfs.smb.connection import Message, Role
from meshfs.smb.constants import (
    Capabilities,
    Cipher,
    Command,
    CreateDisposition,
    Dialect,
    Flags,
    HashAlgorithm,
    NtStatus,
    SecurityMode,
    SigningAlgorithm,
)
from meshfs.smb.messages import (
    UNIQUE_NONCES,
    CreateRequest,
    CreateResponse,
    EchoRequest,
    Encryption,
    NegotiateContext,
    NegotiateRequest,
    NegotiateResponse,
    PreauthIntegrity,
    SessionSetupRequest,
    SessionSetupResponse,
    Signing,
    TreeConnectRequest,
    only_context,
)
from meshfs.smb.security import ChannelSecurity, PreauthHash, channel_security
from meshfs.smb.signing import GmacSigner
from meshfs.smb.wire import pack_header
from meshlab.smb.byte_connection import ByteConnection
from meshlab.smb.raw_messages import READ_WRITE, SHARE_ALL, Reply, reply_of

PASSWORDS = {"n1": "password of n1", "n2": "password of n2", "n3": "password of n3"}


class FreeSigner(GmacSigner):
    """Signs any message, even two under one nonce. The test session watches only GmacSigner for repeated nonces."""

    __slots__ = ()

    def sign(self, message: bytearray | memoryview, message_id: int, sender: int) -> None:
        message[48:64] = self._encrypt(struct.pack("<QI", message_id, sender), b"", message)


def freed(security: ChannelSecurity) -> ChannelSecurity:
    """Replace the signer by a FreeSigner with the same key, so that a test may sign anything."""
    if isinstance(security.signer, GmacSigner):
        security.signer = FreeSigner(security.signer.key)
    return security


class RawClient(ABC):
    """Drives one connection. It counts message ids up, unless a test gives one."""

    def __init__(self) -> None:
        self.connection = ByteConnection(Role.INITIATOR, BufferPool())
        self.replies: deque[Reply] = deque()
        self.next_id = 0
        self.session_id = 0
        self.tree_id = 0
        self.security: ChannelSecurity | None = None
        #: The session's own keys, which sign the requests of a bind.
        self.session_security: ChannelSecurity | None = None
        #: The first message id that no bind of the session has used; all channels of the session share this list.
        self.next_bind_id = [1]
        self.sealed = False
        #: The channel sequence of requests.
        self.sequence = 0
        self.preauth = PreauthHash()

    # --- bytes -------------------------------------------------------------------------

    @abstractmethod
    def deliver(self, *frames: bytes | bytearray | memoryview) -> None:
        """Hand frames to the exporter."""

    def answered(self, message_id: int) -> bool:
        return any(reply.message_id == message_id for reply in self.replies)

    def _receive(self, data: memoryview) -> list[Reply]:
        replies = []
        while data:
            memory = self.connection.get_buffer()
            count = min(len(memory), len(data))
            memory[:count] = data[:count]
            data = data[count:]
            for head in self.connection.received(count):
                message: Message | None = head
                while message is not None:
                    replies.append(reply_of(message))
                    message = message.next
        return replies

    # --- requests ----------------------------------------------------------------------

    def pack(
        self,
        command: int,
        body: bytes,
        *,
        charge: int = 1,
        credits: int = 1,
        message_id: int | None = None,
        flags: int = 0,
        tree_id: int | None = None,
        async_id: int | None = None,
        session_id: int | None = None,
        sequence: int | None = None,
        sign: bool = True,
        seal: bool | None = None,
    ) -> tuple[int, bytearray | memoryview]:
        """Return (message id, frame). The frame is signed or sealed as the session requires."""
        if message_id is None:
            message_id, self.next_id = self.next_id, self.next_id + max(charge, 1)
        security = self.security
        sealing = security if (self.sealed if seal is None else seal) else None
        frame = self.connection.pack(
            command,
            body,
            status=self.sequence if sequence is None else sequence,
            flags=flags,
            credits=credits,
            credit_charge=charge,
            message_id=message_id,
            tree_id=self.tree_id if tree_id is None else tree_id,
            async_id=async_id,
            session_id=self.session_id if session_id is None else session_id,
            sign=security if sign and sealing is None else None,
            seal=sealing,
        )
        return message_id, frame

    def send(self, command: int, body: bytes, **header: Any) -> int:
        """Deliver a request, and return its message id."""
        message_id, frame = self.pack(command, body, **header)
        self.deliver(frame)
        return message_id

    def call(self, command: int, body: bytes, **header: Any) -> Reply:
        """Deliver a request, and return its reply. Without a socket, the reply must be there at once."""
        message_id = self.send(command, body, **header)
        return self.take(message_id)

    def take(self, message_id: int) -> Reply:
        """Take the oldest reply to that message that was not taken yet."""
        for reply in self.replies:
            if reply.message_id == message_id:
                self.replies.remove(reply)
                return reply
        raise AssertionError(f"no reply to message {message_id}; there are {list(self.replies)}")

    def compound(self, *parts: tuple[int, bytes, dict[str, Any]]) -> list[int]:
        """Deliver requests in one frame, and return their message ids. Each part is (command, body, header fields)."""
        messages, ids = [], []
        for command, body, header in parts:
            message_id, self.next_id = self.next_id, self.next_id + 1
            signed = 0 if self.sealed or self.security is None else Flags.SIGNED
            fields = {
                "tree_id": self.tree_id,
                "session_id": self.session_id,
                "credits": 1,
                "credit_charge": 1,
                "status": self.sequence,
                **header,
            }
            fields["flags"] = fields.get("flags", 0) | signed
            messages.append(bytearray(pack_header(command, message_id=message_id, **fields) + body))
            ids.append(message_id)
        seal = self.security if self.sealed else None
        self.deliver(self.connection.protect(messages, None if seal else self.security, seal))
        return ids

    # --- a session ---------------------------------------------------------------------

    def negotiate(
        self,
        dialects: tuple[int, ...] = (Dialect.SMB_3_1_1,),
        *,
        ciphers: tuple[int, ...] = (Cipher.AES_128_GCM,),
        signing: tuple[int, ...] = (SigningAlgorithm.AES_GMAC,),
        contexts: tuple[NegotiateContext, ...] | None = None,
        capabilities: int = int(Capabilities.LARGE_MTU | Capabilities.ENCRYPTION | Capabilities.MULTI_CHANNEL),
        guid: bytes = b"test client guid",
        unique_nonces: bool = True,
    ) -> NegotiateResponse:
        """Negotiate. With ``unique_nonces``, advertise unique nonces, as the mount does."""
        if contexts is None:
            contexts = (PreauthIntegrity((HashAlgorithm.SHA_512,), bytes(32)),)
            contexts += (Encryption(ciphers),) if ciphers else ()
            contexts += (Signing(signing),) if signing else ()
            contexts += (UNIQUE_NONCES,) if unique_nonces else ()
        body = NegotiateRequest(
            dialects,
            int(SecurityMode.SIGNING_ENABLED),
            capabilities,
            guid,
            contexts if Dialect.SMB_3_1_1 in dialects else (),
        )
        message_id, frame = self.pack(Command.NEGOTIATE, body.pack(), sign=False, charge=0)
        self.deliver(frame)
        reply = self.take(message_id)
        if reply.status:
            raise AssertionError(f"NEGOTIATE: 0x{reply.status:08x}")
        self.preauth.update(memoryview(frame)[4:])
        self.preauth.update(reply.view)
        response = NegotiateResponse.unpack(reply.body)
        negotiated = self.connection.negotiated
        negotiated.dialect = Dialect(response.dialect)
        negotiated.peer_capabilities = response.capabilities
        negotiated.unique_nonces = UNIQUE_NONCES in response.contexts
        encryption, chosen = only_context(response.contexts, Encryption), only_context(response.contexts, Signing)
        if encryption is not None:
            negotiated.cipher = Cipher(encryption.algorithms[0])
        elif response.capabilities & Capabilities.ENCRYPTION:
            negotiated.cipher = Cipher.AES_128_CCM
        if chosen is not None:
            negotiated.signing_algorithm = SigningAlgorithm(chosen.algorithms[0])
        return response

    def set_up(
        self, user: str = "n2", password: str | None = None, *, previous: int = 0, flags: int = 0, mode: int = 1
    ) -> Reply:
        """Run the SESSION_SETUP exchange, and return its last reply. Raises AssertionError if a reply is missing."""
        login = Login(user, PASSWORDS.get(user, "?") if password is None else password, "")
        again = self.security is not None
        preauth = self.preauth.copy()
        token, session_id = login.step()[0], self.session_id
        for _ in range(4):
            body = SessionSetupRequest(flags, mode, 0, token or b"", previous)
            message_id, frame = self.pack(Command.SESSION_SETUP, body.pack(), sign=again, session_id=session_id)
            preauth.update(memoryview(frame)[4:])
            self.deliver(frame)
            if not self.answered(message_id):
                self.pending = (message_id, login, preauth, session_id)
                raise AssertionError("the exporter has not answered yet")
            reply = self.take(message_id)
            if reply.status != NtStatus.MORE_PROCESSING_REQUIRED:
                break
            preauth.update(reply.view)
            session_id = reply.session_id
            token = login.step(SessionSetupResponse.unpack(reply.body).security_buffer)[0]
        if not reply.status and not again:
            self._take_keys(session_id, login, preauth)
        return reply

    def _take_keys(self, session_id: int, login: Login, preauth: PreauthHash) -> None:
        negotiated = self.connection.negotiated
        assert negotiated.dialect is not None
        self.session_id = session_id
        self.security = freed(
            channel_security(
                negotiated.dialect,
                negotiated.signing_algorithm,
                negotiated.cipher,
                login.session_key,
                preauth.value,
                session_id,
                exporter=False,
                nonces=negotiated.peer_nonces,
            )
        )
        self.session_security = self.connection.security[session_id] = self.security
        self.next_bind_id = [1]

    def skip_ids(self, first: int) -> None:
        """Use up the message ids before ``first`` with ECHOs without a session, so that later requests begin there."""
        held, header = 1, {"session_id": 0, "tree_id": 0, "sign": False, "seal": False}
        while (missing := first - self.next_id) > 0:
            charge = min(missing, held)
            held += self.call(Command.ECHO, EchoRequest().pack(), charge=charge, credits=16, **header).credits - charge

    def log_in(self, user: str = "n2", share: str = "disks", *, to_be_bound: bool = False, **negotiation: Any) -> Self:
        """Run NEGOTIATE, SESSION_SETUP and TREE_CONNECT. ``to_be_bound``: reserve message ids for binds."""
        self.negotiate(**negotiation)
        if to_be_bound:
            self.skip_ids(limits.BIND_MESSAGE_IDS)
        reply = self.set_up(user)
        if reply.status:
            raise AssertionError(f"SESSION_SETUP: 0x{reply.status:08x}")
        self.sealed = bool(SessionSetupResponse.unpack(reply.body).session_flags & 4)
        self.connect(share)
        return self

    def connect(self, share: str) -> Reply:
        reply = self.call(Command.TREE_CONNECT, TreeConnectRequest(f"\\\\n1\\{share}").pack(), credits=64)
        self.tree_id = reply.tree_id
        return reply

    def create(
        self,
        name: str,
        access: int = READ_WRITE,
        share: int = SHARE_ALL,
        disposition: int = CreateDisposition.OPEN,
        **fields: Any,
    ) -> Reply:
        return self.call(Command.CREATE, CreateRequest(name, access, share, disposition, **fields).pack())

    def open(self, name: str, access: int = READ_WRITE, share: int = SHARE_ALL) -> int:
        """Open a file, and return its file id, of which both halves are the same."""
        reply = self.create(name, access, share)
        if reply.status:
            raise AssertionError(f"CREATE {name!r}: 0x{reply.status:08x}")
        return CreateResponse.unpack(reply.body).file_id.volatile
