"""FrameReceiver: every way a stream can be cut yields the same frames."""

import random

import pytest

from meshfs import limits
from meshfs.buffers import HEADROOM_BYTES, BufferPool
from meshfs.errors import RemoteProtocolError
from meshfs.transport.framing import SMALL_FRAME_MAX_BYTES, FrameReceiver

PAYLOAD_OFFSET = 112


def receiver(pool: BufferPool | None = None, frame_max_bytes: int = limits.FRAME_MAX_BYTES) -> FrameReceiver:
    return FrameReceiver(pool or BufferPool(), PAYLOAD_OFFSET, frame_max_bytes)


def stream_of(payloads: list[bytes]) -> bytes:
    return b"".join(len(payload).to_bytes(4, "big") + payload for payload in payloads)


def feed(frames: FrameReceiver, stream: bytes, cut: "random.Random | int | None") -> list[bytes]:
    """Return all frames of ``stream``, fed in pieces of random, fixed, or the largest possible size."""
    got: list[bytes] = []
    position = 0
    while position < len(stream):
        room = frames.get_buffer()
        assert len(room) > 0
        wanted = cut.randint(1, 70_000) if isinstance(cut, random.Random) else cut or len(room)
        piece = stream[position : position + min(len(room), wanted)]
        room[: len(piece)] = piece
        position += len(piece)
        got += [bytes(frame.view) for frame in frames.received(len(piece))]
    return got


@pytest.mark.parametrize("seed", range(20))
def test_any_cut_yields_the_same_frames(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [
        rng.choice((52, 64, 117, 4208, SMALL_FRAME_MAX_BYTES, SMALL_FRAME_MAX_BYTES + 1, 1 << 20)) for _ in range(12)
    ]
    payloads = [rng.randbytes(size) for size in sizes]
    pool = BufferPool()
    for cut in (rng, None):
        frames = receiver(pool)
        assert feed(frames, stream_of(payloads), cut) == payloads
        frames.close()
    assert pool.used_bytes == 0


def test_byte_by_byte() -> None:
    payloads = [bytes(64), b"x" * 99, bytes(range(256))]
    assert feed(receiver(), stream_of(payloads), 1) == payloads


def test_a_large_frames_payload_is_page_aligned_and_can_be_kept() -> None:
    pool = BufferPool()
    frames = receiver(pool)
    payload = random.Random(1).randbytes(PAYLOAD_OFFSET + (1 << 20))
    stream = stream_of([payload])
    kept = None
    while stream:
        room = frames.get_buffer()
        piece, stream = stream[: len(room)], stream[len(room) :]
        room[: len(piece)] = piece
        for frame in frames.received(len(piece)):
            assert frame.start + PAYLOAD_OFFSET == HEADROOM_BYTES
            kept = frame.take()
    assert kept is not None
    assert (kept.address + HEADROOM_BYTES) % 4096 == 0
    frames.get_buffer()
    assert pool.used_bytes == kept.held_bytes
    assert kept.view[HEADROOM_BYTES : HEADROOM_BYTES + (1 << 20)] == payload[PAYLOAD_OFFSET:]
    kept.release()
    assert pool.used_bytes == 0


@pytest.mark.parametrize("prefix", [0, 1, 51, 4097, 0x00FFFFFF, 0x01000040, 0x85000000, 0xFFFFFFFF])
def test_an_unacceptable_prefix_is_refused_and_takes_no_memory(prefix: int) -> None:
    pool = BufferPool()
    frames = receiver(pool, frame_max_bytes=4096)
    frames.get_buffer()[:4] = prefix.to_bytes(4, "big")
    with pytest.raises(RemoteProtocolError, match="announced"):
        frames.received(4)
    assert pool.used_bytes == 0


def test_close_in_the_middle_of_a_large_frame_gives_its_memory_back() -> None:
    pool = BufferPool()
    frames = receiver(pool)
    frames.get_buffer()[:100] = (1 << 20).to_bytes(4, "big") + bytes(96)
    frames.received(100)
    frames.get_buffer()[:1] = b"\0"
    frames.received(1)
    assert pool.used_bytes > 0
    frames.close()
    assert pool.used_bytes == 0
