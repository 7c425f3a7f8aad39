"""Packs a channel's requests into frames, and knows the protection that its replies must have.

Before the login nothing is protected. `Frames.protect` sets how every message is protected from then on. READ and
WRITE, the hot path, are packed by struct. A payload that is only signed is not copied.
"""

from typing import Final

from meshfs.buffers import FRAMING_BYTES
from meshfs.errors import LocalProtocolError
from meshfs.initiator.channel.slots import Parts, Slot
from meshfs.smb.connection import Connection, Protection
from meshfs.smb.constants import Command, Flags
from meshfs.smb.credits import CreditAccount
from meshfs.smb.messages import CancelRequest, FileId
from meshfs.smb.sealing import Sealer
from meshfs.smb.security import ChannelSecurity, PreauthHash
from meshfs.smb.signing import NONCE_INITIATOR, Signer
from meshfs.smb.wire import (
    READ_REQUEST_FRAME_BYTES,
    WRITE_REQUEST_FRAME_BYTES,
    pack_read_request_frame,
    pack_write_request_frame,
)

_ASYNC: Final = int(Flags.ASYNC_COMMAND)
_SIGNED: Final = int(Flags.SIGNED)
_REPLAY: Final = int(Flags.REPLAY_OPERATION)

_ACCEPT_HANDSHAKE: Final = (Protection.NONE, Protection.UNKNOWN)
_ACCEPT_ANY: Final = (Protection.NONE, Protection.SIGNED, Protection.SEALED)
ACCEPT_SIGNED: Final = (Protection.SIGNED, Protection.SEALED)
_ACCEPT_SEALED: Final = (Protection.SEALED,)


class Frames:
    """Packs requests. Each method returns the parts of one frame. Send frames in the order of their message ids."""

    def __init__(self, connection: Connection, credits: CreditAccount) -> None:
        self.session_id = 0
        #: The session's ChannelSequence (MS-SMB2 3.2.4.1.5). Every request carries it.
        self.sequence = 0
        #: Is set when the channel is logged in or bound, so that its messages belong to a session.
        self.logged_in = False
        self.sealed = False
        self.signed = False
        #: The kinds of protection that a reply may have, and those that an interim reply may have.
        self.accepted: tuple[Protection, ...] = _ACCEPT_HANDSHAKE
        self.accepted_interim: tuple[Protection, ...] = _ACCEPT_HANDSHAKE
        self._connection = connection
        self._credits = credits
        self._security: ChannelSecurity | None = None
        # The signer and the sealer of requests. Both are None while requests are neither signed nor sealed.
        self._signer: Signer | None = None
        self._sealer: Sealer | None = None
        self._flags = 0

    def protect(self, security: ChannelSecurity, session_id: int, *, sign: bool, seal: bool) -> None:
        """Use the session's keys from now on, to sign every message, to seal it, or for neither.

        Raises LocalProtocolError if messages are to be sealed and no cipher was negotiated.
        """
        if seal and security.sealer is None:
            raise LocalProtocolError("a key for encryption came, but no cipher was negotiated")
        self.session_id = session_id
        self.logged_in = True
        self._connection.security[session_id] = security
        self._security = security
        self.sealed = seal
        self.signed = sign and not seal
        self._signer = security.signer if self.signed else None
        self._sealer = security.sealer if seal else None
        self._flags = _SIGNED if self.signed else 0
        self.accepted = _ACCEPT_SEALED if seal else ACCEPT_SIGNED if sign else _ACCEPT_ANY
        # Interim replies are never checked for a signature (MS-SMB2 3.2.5.1.3).
        self.accepted_interim = _ACCEPT_SEALED if seal else _ACCEPT_ANY

    def read(self, slot: Slot, message_id: int, tree_id: int, file_id: FileId, offset: int) -> Parts:
        """Return the parts of a READ."""
        frame = bytearray(READ_REQUEST_FRAME_BYTES)
        charge = slot.charge
        pack_read_request_frame(
            frame, slot.length, offset, file_id[0], file_id[1], flags=self._flags,
            credits=self._credits.ask(charge), credit_charge=charge, channel_sequence=self.sequence,
            message_id=message_id, tree_id=tree_id, session_id=self.session_id,
        )  # fmt: skip
        if (signer := self._signer) is not None:
            signer.sign(memoryview(frame)[FRAMING_BYTES:], message_id, NONCE_INITIATOR)
        elif (sealer := self._sealer) is not None:
            return (sealer.seal(memoryview(frame)[FRAMING_BYTES:]),)
        return (frame,)

    def write(
        self,
        slot: Slot,
        message_id: int,
        tree_id: int,
        file_id: FileId,
        offset: int,
        data: bytes | memoryview,
        write_flags: int,
        replay: bool = False,
    ) -> Parts:
        """Return the parts of a WRITE. The second part is ``data`` itself, unless the frame is sealed."""
        head = bytearray(WRITE_REQUEST_FRAME_BYTES)
        charge = slot.charge
        pack_write_request_frame(
            head, slot.length, offset, file_id[0], file_id[1], flags=self._flags | _REPLAY if replay else self._flags,
            credits=self._credits.ask(charge), credit_charge=charge, channel_sequence=self.sequence,
            message_id=message_id, tree_id=tree_id, session_id=self.session_id, write_flags=write_flags,
        )  # fmt: skip
        if (signer := self._signer) is not None:
            signer.sign_parts(head, FRAMING_BYTES, data, message_id)
        elif (sealer := self._sealer) is not None:
            message = b"".join((memoryview(head)[FRAMING_BYTES:], data))
            return (sealer.seal(message),)
        return (head, data)

    def other(
        self,
        slot: Slot,
        message_id: int,
        body: bytes,
        tree_id: int = 0,
        session_id: int | None = None,
        preauth: PreauthHash | None = None,
        signed_by: ChannelSecurity | None = None,
        replay: bool = False,
    ) -> Parts:
        """Return the parts of any other request. A bind is ``signed_by`` the key of the session's first channel."""
        security = self._security
        sign = security if self.signed or (slot.signed and not self.sealed) else signed_by
        frame = self._connection.pack(
            slot.command, body, credits=self._credits.ask(slot.charge), credit_charge=slot.charge,
            message_id=message_id, tree_id=tree_id,
            session_id=self.session_id if session_id is None else session_id,
            # A request has its ChannelSequence where a response has its status (MS-SMB2 2.2.1.2).
            status=self.sequence, flags=_REPLAY if replay else 0, sign=sign,
            seal=security if self.sealed else None,
        )  # fmt: skip
        if preauth is not None:
            preauth.update(memoryview(frame)[FRAMING_BYTES:])
        return (frame,)

    def cancel(self, slot: Slot) -> Parts:
        """Return the parts of a CANCEL for a request whose caller gave up (MS-SMB2 3.2.4.24). It uses no credit."""
        security = self._security
        frame = self._connection.pack(
            Command.CANCEL, CancelRequest().pack(), message_id=slot.message_id, session_id=self.session_id,
            flags=0 if slot.async_id is None else _ASYNC, async_id=slot.async_id,
            sign=security if self.signed else None, seal=security if self.sealed else None,
        )  # fmt: skip
        return (frame,)
