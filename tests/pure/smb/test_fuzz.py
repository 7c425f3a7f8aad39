"""Seeded fuzzing of the protocol core: whatever arrives, only RemoteProtocolError is raised.

The cases of a run (``--fuzz-cases``, 100,000 by default) are divided among the targets below. Case number n of a target
always is the same bytes, and therefore a failure names a seed that replays it.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.errors import RemoteProtocolError
from meshfs.smb import info
from meshfs.smb import messages as m
from meshfs.smb.connection import Message, Role
from meshfs.smb.constants import Cipher, Command, Dialect, Flags, NtStatus, SigningAlgorithm
from meshfs.smb.credits import CreditWindow
from meshfs.smb.security import ChannelSecurity, channel_security
from meshfs.smb.wire import pack_header
from meshlab.smb.byte_connection import ByteConnection
from meshlab.smb.mutations import mutated
from meshlab.smb.samples import CREATE_CONTEXTS, INTERFACES, MESSAGES

pytestmark = pytest.mark.free_nonces
SESSION = 0x1122334455667788


def cases(count: int, name: str) -> Iterator[random.Random]:
    for number in range(count):
        yield random.Random(f"{name} {number}")


def survives(call: Callable[[], object]) -> bool:
    """Return whether the input was accepted. Any error but RemoteProtocolError propagates and fails the test."""
    try:
        call()
    except RemoteProtocolError:
        return False
    return True


def share(fuzz_cases: int, part: float) -> int:
    return max(int(fuzz_cases * part), 1)


# --- decoders --------------------------------------------------------------------------

_LINES = (Path(__file__).parent / "captured_messages.txt").read_text().splitlines()
CAPTURED = [line.split() for line in _LINES if not line.startswith("#")]
DECODERS: tuple[tuple[Callable[[bytes], object], bytes], ...] = (
    *((type(message).unpack, message.pack()) for message in MESSAGES),
    *((getattr(m, kind).unpack, bytes.fromhex(body)) for who, kind, body in CAPTURED),
    (m.unpack_create_contexts, m.pack_create_contexts(CREATE_CONTEXTS)),
    (m.unpack_notifications, m.pack_notifications(((1, "disk0"), (2, "disk-1"), (3, "d")))),
    (m.unpack_interfaces, m.pack_interfaces(INTERFACES)),
    (m.unpack_break_acknowledgment, m.LeaseBreak(bytes(16), 1).pack()),
    (m.Smb1Negotiate.unpack, m.Smb1Negotiate((b"NT LM 0.12", m.Smb1Negotiate.SMB_2_WILDCARD)).pack()),
    (m.ValidateNegotiateRequest.unpack, m.ValidateNegotiateRequest(1, bytes(16), 1, (0x300, 0x311)).pack()),
    (m.TrimRanges.unpack, m.TrimRanges(((0, 4096), (1 << 40, 1 << 20))).pack()),
    (m.TrimOutput.unpack, m.TrimOutput(2).pack()),
    (m.ValidateNegotiateResponse.unpack, m.ValidateNegotiateResponse(1, bytes(16), 1, 0x300).pack()),
)


def test_an_accepted_message_packs_to_the_same(fuzz_cases: int) -> None:
    """An accepted message can be packed again, and is then the same, because no field has a default of its own."""
    taken = 0
    for rng in cases(share(fuzz_cases, 0.6), "messages"):
        unpack, valid = rng.choice(DECODERS)
        body = mutated(rng, valid)
        try:
            value: Any = unpack(rng.choice((bytes, bytearray, memoryview))(body))
        except RemoteProtocolError:
            continue
        taken += 1
        if hasattr(value, "pack"):
            assert type(value).unpack(value.pack()) == value, body.hex()
        if isinstance(value, m.TreeConnectRequest):
            survives(value.share)
    assert taken


def test_any_set_info_buffer_or_pattern_has_an_answer(fuzz_cases: int) -> None:
    """SET_INFO buffers and search patterns give a change, a status or an answer, and never an exception."""
    file = info.FileFacts("disk-ß.img", 1 << 30, 1 << 30, 7)
    opened = info.OpenFacts(0x1F01FF)
    alphabet = 'dDiIsSkKß-.img*?<>"\ud800'
    for rng in cases(share(fuzz_cases, 0.1), "info"):
        change = info.parse_change(rng.randrange(70), mutated(rng, bytes(40)))
        assert isinstance(change, NtStatus | info.Change)
        pattern = "".join(rng.choices(alphabet, k=rng.randrange(20)))
        assert info.name_matches(pattern, file.name) in (True, False)
        size = rng.randrange(300)
        assert len(info.query_file(rng.randrange(80), file, size, opened).data) <= size
        info_class = rng.randrange(80)
        if info.is_directory_class(info_class):
            packer = info.DirectoryPacker(info_class, size)
            added = sum(packer.add(file) for _ in range(3))
            assert packer.packed == added
            assert len(packer.data) <= size


def test_no_message_id_is_taken_twice(fuzz_cases: int) -> None:
    """However a peer chooses its ids, none is taken twice, and the bounds hold."""
    window, used, open_charges = CreditWindow(32), set[int](), list[int]()
    for rng in cases(share(fuzz_cases, 0.1), "credits"):
        if rng.random() < 0.001:
            window, used, open_charges = CreditWindow(32), set(), []
        message_id, charge = max(used, default=-1) + rng.randrange(-3, 6), rng.choice((0, 1, 1, 1, 2, 5, 0xFFFF))
        ids = set(range(message_id, message_id + (charge or 1)))
        if message_id >= 0 and window.take(message_id, charge):
            assert not used & ids
            used |= ids
            open_charges.append(charge)
        while open_charges and (rng.random() < 0.5 or not window.held):
            window.grant(rng.choice((0, 1, 10, 0xFFFF)), open_charges.pop(rng.randrange(len(open_charges))))
        assert window.held or window.in_flight
        assert window.held + window.in_flight <= window.limit


# --- the connection --------------------------------------------------------------------

COMMANDS = {
    "Negotiate": Command.NEGOTIATE,
    "SessionSetup": Command.SESSION_SETUP,
    "Create": Command.CREATE,
    "Ioctl": Command.IOCTL,
    "QueryInfo": Command.QUERY_INFO,
}
CIPHERS = (Cipher.AES_128_GCM, Cipher.AES_128_CCM, Cipher.AES_256_GCM)


def keys(cipher: Cipher, algorithm: SigningAlgorithm, *, exporter: bool) -> ChannelSecurity:
    return channel_security(Dialect.SMB_3_1_1, algorithm, cipher, b"k" * 16, bytes(64), SESSION, exporter=exporter)


def ends(rng: random.Random, pool: BufferPool) -> tuple[ByteConnection, ChannelSecurity, ByteConnection]:
    """Return a sender with its keys and a receiver with the other end's, of either role."""
    role = rng.choice((Role.EXPORTER, Role.INITIATOR))
    other = Role.INITIATOR if role is Role.EXPORTER else Role.EXPORTER
    cipher, algorithm = rng.choice(CIPHERS), rng.choice(list(SigningAlgorithm))
    frame_max = rng.choice((limits.FRAME_MAX_UNAUTHENTICATED_BYTES, limits.FRAME_MAX_BYTES))
    sender, receiver = ByteConnection(other, pool), ByteConnection(role, pool, frame_max)
    receiver.security[SESSION] = keys(cipher, algorithm, exporter=role is Role.EXPORTER)
    return sender, keys(cipher, algorithm, exporter=other is Role.EXPORTER), receiver


def some_message(rng: random.Random, sender: ByteConnection, *, signed: bool) -> bytearray:
    message = rng.choice(MESSAGES)
    kind = type(message).__name__
    command = next((value for name, value in COMMANDS.items() if kind.startswith(name)), Command.ECHO)
    flags = Flags.SERVER_TO_REDIR if sender.role is Role.EXPORTER else Flags(0)
    flags |= Flags.SIGNED if signed else Flags(0)
    header = pack_header(command, flags=flags, message_id=rng.randrange(9), session_id=SESSION, credits=1)
    padding = rng.randbytes(rng.choice((0, 0, 0, 0, 20_000, 40_000)))
    return bytearray(header + message.pack() + padding)


def feed(rng: random.Random, receiver: ByteConnection, stream: bytes) -> Iterator[Message]:
    """Feed the bytes whole, in pieces, or byte by byte for a while."""
    while stream:
        room = receiver.get_buffer()
        assert len(room)
        count = min(len(room), len(stream), rng.choice((1, 3, 70, 1000, 1 << 20)))
        room[:count] = stream[:count]
        stream = stream[count:]
        yield from receiver.received(count)


def parsed(message: Message | None) -> int:
    """Run all decoders that fit a received message, because a peer may send any bytes as the body of any command."""
    count = 0
    while message is not None:
        assert len(message.view) >= 64
        unpack, _ = DECODERS[message.message_id % len(DECODERS)]
        survives(lambda body=message.body, unpack=unpack: unpack(body))
        message, count = message.next, count + 1
    return count


@pytest.mark.parametrize("protection", ["plain", "signed", "sealed"])
def test_faulty_frames_raise_only_protocol_errors(fuzz_cases: int, protection: str) -> None:
    """Frames with faults inside and outside of signature and encryption are fed to either role."""
    pool, received = BufferPool(), 0
    for rng in cases(share(fuzz_cases, 0.2 / 3), f"connection {protection}"):
        sender, security, receiver = ends(rng, pool)
        inner = [some_message(rng, sender, signed=protection == "signed") for _ in range(rng.choice((1, 1, 2, 4)))]
        if rng.random() < 0.3:
            # A peer that has the keys can make these faults.
            inner = [bytearray(mutated(rng, bytes(inner[0]))), *inner[1:]]
            inner[0] += bytes(max(64 - len(inner[0]), 0))
        frame = bytes(
            sender.protect(
                inner,
                security if protection == "signed" else None,
                security if protection == "sealed" else None,
            )
        )
        stream = frame + (mutated(rng, frame) if rng.random() < 0.8 else frame)
        try:
            for message in feed(rng, receiver, stream):
                received += parsed(message)
        except RemoteProtocolError:
            pass
        receiver.close()
        assert pool.used_bytes == 0
    assert received


def test_a_random_stream_raises_only_protocol_errors(fuzz_cases: int) -> None:
    """The bytes are not even a frame: the length prefix and all that follows are random."""
    pool = BufferPool()
    for rng in cases(share(fuzz_cases, 0.05), "stream"):
        _, _, receiver = ends(rng, pool)
        magic = rng.choice((b"", b"\xfeSMB", b"\xfdSMB", b"\xfcSMB", b"\xffSMB"))
        body = magic + rng.randbytes(rng.randrange(200))
        prefix = len(body).to_bytes(4, "big") if rng.random() < 0.8 else rng.randbytes(4)
        try:
            for message in feed(rng, receiver, prefix + body):
                parsed(message)
        except RemoteProtocolError:
            pass
        receiver.close()
        assert pool.used_bytes == 0
