"""The answer to FUSE_INIT, as the mount amends it."""

import struct

from meshfs import limits
from meshfs.fuse.pyfuse3_front.handshake import amended

AUTO_INVAL_DATA = 1 << 12
ATOMIC_O_TRUNC = 1 << 3
KILLPRIV_V2 = 1 << 28


def request(flags: int, opcode: int = 26) -> bytes:
    return struct.pack("<IIQQIIIHHIIII", 104, opcode, 2, 0, 0, 0, 0, 0, 0, 7, 45, 131072, flags) + bytes(48)


def answer(flags: int, error: int = 0) -> bytes:
    return struct.pack("<IiQIIIIHH", 80, error, 2, 7, 31, 131072, flags, 0, 0) + bytes(range(44))


def test_flags_and_background_are_set() -> None:
    offered = KILLPRIV_V2 | AUTO_INVAL_DATA | ATOMIC_O_TRUNC | 1
    amended_answer = amended(request(offered), answer(AUTO_INVAL_DATA | ATOMIC_O_TRUNC | 1))
    fields = struct.unpack_from("<IiQIIIIHH", amended_answer)
    assert fields[:6] == (80, 0, 2, 7, 31, 131072)
    assert fields[6] == KILLPRIV_V2 | 1
    assert fields[7:] == (limits.FUSE_BACKGROUND_MAX, limits.FUSE_BACKGROUND_MAX * 3 // 4)
    assert amended_answer[36:] == answer(0)[36:]


def test_what_the_kernel_does_not_offer_is_not_claimed() -> None:
    assert struct.unpack_from("<I", amended(request(1), answer(1)), 28)[0] == 1


def test_anything_else_stays_as_it_is() -> None:
    for before, after in (
        (request(1, opcode=3), answer(1)),
        (request(1), answer(1, error=-71)),
        (request(1)[:20], answer(1)),
        (request(1), answer(1)[:16]),
    ):
        assert amended(before, after) == after
