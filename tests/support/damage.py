"""Damages the bytes of a message or page, as a broken device would."""

import random


def damage(rng: random.Random, page: bytearray) -> None:
    """Cut, lengthen or change ``page`` in one place. In half of the cases its 16-bit length at byte 2 fits again."""
    where = rng.randrange(len(page) + 1)
    match rng.randrange(4):
        case 0:
            del page[where:]
        case 1:
            page[where:where] = rng.randbytes(rng.randrange(1, 5))
        case 2 if where < len(page):
            page[where] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        case _ if where < len(page):
            page[where] ^= 1 << rng.randrange(8)
    if not page:
        page += b"\0"
    if rng.random() < 0.5 and len(page) >= 4:
        page[2:4] = ((len(page) - 4) & 0xFFFF).to_bytes(2, "big")
