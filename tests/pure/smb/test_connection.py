"""Connection: each message passes through both ends, and what must not pass is refused."""

import pytest

from meshfs import limits
from meshfs.buffers import HEADROOM_BYTES, BufferPool
from meshfs.errors import RemoteProtocolError
from meshfs.smb.connection import Message, Protection, Role, take_payload
from meshfs.smb.constants import Cipher, Command, Dialect, Flags, SigningAlgorithm
from meshfs.smb.security import ChannelSecurity, channel_security
from meshfs.smb.wire import WRITE_DATA_OFFSET, pack_header
from meshlab.smb.byte_connection import ByteConnection

pytestmark = pytest.mark.free_nonces
SESSION = 0x1122334455667788


def keys(
    cipher: Cipher = Cipher.AES_128_GCM, algorithm: SigningAlgorithm = SigningAlgorithm.AES_GMAC
) -> tuple[ChannelSecurity, ChannelSecurity]:
    common = (Dialect.SMB_3_1_1, algorithm, cipher, b"k" * 16, bytes(64), SESSION)
    return channel_security(*common, exporter=False), channel_security(*common, exporter=True)


def ends(pool: BufferPool | None = None) -> tuple[ByteConnection, ByteConnection, ChannelSecurity, ChannelSecurity]:
    pool = pool or BufferPool()
    initiator, exporter = ByteConnection(Role.INITIATOR, pool), ByteConnection(Role.EXPORTER, pool)
    mine, theirs = keys()
    initiator.security[SESSION], exporter.security[SESSION] = mine, theirs
    return initiator, exporter, mine, theirs


def feed(connection: ByteConnection, stream: bytes | bytearray | memoryview) -> list[Message]:
    stream = bytes(stream)
    messages: list[Message] = []
    while stream:
        room = connection.get_buffer()
        piece, stream = stream[: len(room)], stream[len(room) :]
        room[: len(piece)] = piece
        messages += connection.received(len(piece))
    return messages


@pytest.mark.parametrize("size", [0, 100, 40_000, 1 << 20])
@pytest.mark.parametrize("protection", [Protection.NONE, Protection.SIGNED, Protection.SEALED])
@pytest.mark.parametrize("upstream", [True, False])
def test_every_message_passes_both_ways(size: int, protection: Protection, upstream: bool) -> None:
    pool = BufferPool()
    initiator, exporter, mine, theirs = ends(pool)
    sender, receiver, security = (initiator, exporter, mine) if upstream else (exporter, initiator, theirs)
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    frame = sender.pack(
        Command.WRITE,
        body,
        message_id=3,
        tree_id=5,
        session_id=SESSION,
        credits=9,
        credit_charge=2,
        sign=security if protection is Protection.SIGNED else None,
        seal=security if protection is Protection.SEALED else None,
    )
    (message,) = feed(receiver, frame)
    assert message.protection is protection
    assert bytes(message.body) == body
    assert (message.command, message.message_id, message.tree_id, message.session_id) == (Command.WRITE, 3, 5, SESSION)
    assert (message.credits, message.credit_charge) == (9, 2)
    receiver.close()
    assert pool.used_bytes == 0


def test_many_messages_in_one_receive() -> None:
    initiator, exporter, mine, _ = ends()
    stream = b"".join(
        bytes(initiator.pack(Command.ECHO, b"\4\0\0\0", message_id=n, session_id=SESSION, sign=mine)) for n in range(50)
    )
    messages = feed(exporter, stream)
    assert [message.message_id for message in messages] == list(range(50))
    assert {message.protection for message in messages} == {Protection.SIGNED}


def test_cancel_and_the_message_it_cancels_have_signatures_of_their_own() -> None:
    """Both have one message id, and the GMAC nonce distinguishes them (MS-SMB2 3.1.4.1)."""
    initiator, exporter, mine, _ = ends()
    frames = [
        initiator.pack(command, b"\4\0\0\0", message_id=8, session_id=SESSION, sign=mine)
        for command in (Command.ECHO, Command.CANCEL)
    ]
    messages = feed(exporter, b"".join(map(bytes, frames)))
    assert [message.protection for message in messages] == [Protection.SIGNED] * 2


def test_a_wrong_signature_is_told_and_an_unknown_session_too() -> None:
    initiator, exporter, mine, _ = ends()
    frame = bytearray(initiator.pack(Command.ECHO, b"\4\0\0\0", session_id=SESSION, sign=mine))
    frame[4 + 50] ^= 1
    assert feed(exporter, frame)[0].protection is Protection.BAD
    frame = bytearray(initiator.pack(Command.ECHO, b"\4\0\0\0", session_id=1, sign=mine))
    assert feed(exporter, frame)[0].protection is Protection.UNKNOWN


@pytest.mark.parametrize("sealed", [False, True])
def test_compound_is_split_and_each_part_verified(sealed: bool) -> None:
    initiator, exporter, mine, _ = ends()
    flags = 0 if sealed else int(Flags.SIGNED)
    parts = [
        bytearray(pack_header(Command.ECHO, flags=flags, message_id=n, session_id=SESSION) + bytes(4 + n))
        for n in range(3)
    ]
    frame = initiator.protect(parts, None if sealed else mine, mine if sealed else None)
    head: Message | None = feed(exporter, frame)[0]
    seen = []
    while head is not None:
        assert head.protection is (Protection.SEALED if sealed else Protection.SIGNED)
        seen.append(head.message_id)
        head = head.next
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("step", [1, 8, 60, 65, 72, 200, 0xFFFFFFF8, 0xFFFFFFFF])
def test_a_compound_that_points_astray(step: int) -> None:
    _, exporter, *_ = ends()
    message = bytearray(pack_header(Command.ECHO, next_command=step) + bytes(8))
    with pytest.raises(RemoteProtocolError):
        feed(exporter, len(message).to_bytes(4, "big") + message)


def test_a_compound_without_end() -> None:
    _, exporter, *_ = ends()
    message = pack_header(Command.ECHO, next_command=64) * (limits.COMPOUND_MAX + 1) + pack_header(Command.ECHO)
    with pytest.raises(RemoteProtocolError, match="more than"):
        feed(exporter, len(message).to_bytes(4, "big") + message)


@pytest.mark.parametrize(
    ("head", "why"),
    [(b"\xfcSMB", "compress"), (b"\xffSMB", "SMB 1"), (b"\xfeSMX", "starts with"), (b"\xfdSMB", "transform")],
)
def test_other_protocols_are_refused(head: bytes, why: str) -> None:
    _, exporter, *_ = ends()
    with pytest.raises(RemoteProtocolError, match=why):
        feed(exporter, b"\0\0\0\x50" + head + bytes(76))


def test_a_response_sent_to_an_exporter() -> None:
    _, exporter, *_ = ends()
    message = pack_header(Command.ECHO, flags=Flags.SERVER_TO_REDIR) + bytes(4)
    with pytest.raises(RemoteProtocolError, match="direction"):
        feed(exporter, len(message).to_bytes(4, "big") + message)


def test_sealed_for_another_session_than_it_says_inside() -> None:
    initiator, exporter, mine, _ = ends()
    frame = initiator.pack(Command.ECHO, b"\4\0\0\0", session_id=SESSION + 1, seal=mine)
    with pytest.raises(RemoteProtocolError, match="another session"):
        feed(exporter, frame)


def test_sealed_without_keys() -> None:
    initiator, exporter, mine, _ = ends()
    exporter.security.clear()
    frame = initiator.pack(Command.ECHO, b"\4\0\0\0", session_id=SESSION, seal=mine)
    with pytest.raises(RemoteProtocolError, match="no keys"):
        feed(exporter, frame)


@pytest.mark.parametrize("size", [512, 4096, 1 << 20])
@pytest.mark.parametrize("sealed", [False, True])
def test_take_payload_outlives_the_next_receive(size: int, sealed: bool) -> None:
    pool = BufferPool()
    initiator, exporter, mine, _ = ends(pool)
    data = bytes(i * 7 & 0xFF for i in range(256)) * (size // 256)
    body = bytes(WRITE_DATA_OFFSET - 64) + data
    frame = initiator.pack(
        Command.WRITE, body, session_id=SESSION, sign=None if sealed else mine, seal=mine if sealed else None
    )
    (message,) = feed(exporter, frame)
    buffer, start = take_payload(message, WRITE_DATA_OFFSET, size, pool, pool.account)
    feed(exporter, initiator.pack(Command.ECHO, b"\4\0\0\0", session_id=SESSION, sign=mine))
    assert buffer.view[start : start + size] == data
    assert start == HEADROOM_BYTES
    buffer.release()
    exporter.close()
    assert pool.used_bytes == 0
