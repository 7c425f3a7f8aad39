"""Put faults into valid messages, for fuzzing."""

import random
import struct
from typing import Final

#: Numbers at the limits of decoders.
INTERESTING: Final = (
    *(0, 1, 2, 7, 8, 63, 64, 65, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFF8, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1),
)


def mutated(rng: random.Random, valid: bytes) -> bytes:
    """Return a valid input with a few faults (flipped bits, odd numbers, cuts, doublings), or only random bytes."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(2 * len(valid) + 8))
    data = bytearray(valid)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            break
        position = rng.randrange(len(data))
        match rng.randrange(6):
            case 0:
                data[position] ^= 1 << rng.randrange(8)
            case 1 | 2:
                write_number(rng, data, position)
            case 3:
                del data[position:]
            case 4:
                data[position:position] = rng.randbytes(rng.choice((1, 2, 4, 8)))
            case 5:
                start = rng.randrange(len(data))
                data += data[min(start, position) : max(start, position)]
    return bytes(data)


def write_number(rng: random.Random, data: bytearray, position: int) -> None:
    size, form = rng.choice(((1, "<B"), (2, "<H"), (4, "<I"), (8, "<Q")))
    position -= position % size
    if position + size <= len(data):
        value = rng.choice(INTERESTING) + rng.choice((-1, 0, 0, 1))
        struct.pack_into(form, data, position, value % (1 << 8 * size))
