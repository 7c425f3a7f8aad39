"""The list of enclosures on the wire."""

import json
from dataclasses import replace

import pytest

from meshfs.enclosure_info import (
    EnclosureInfo,
    EnclosureKind,
    EnclosureState,
    SlotInfo,
    decode_enclosures,
    encode_enclosures,
)
from meshfs.model import Access

SLOTS = (
    SlotInfo("slot0", "SLOT 0", 0, "ok", locate=True, disk="wwn-0x5000c500a1b2c3d4"),
    SlotInfo("slot1", why="its device is in use"),
)
INFO = EnclosureInfo(
    "enc-0x500e004aaaaaaa1e",
    "n1",
    "shelf",
    EnclosureKind.SES,
    Access.READ_WRITE,
    EnclosureState.FAULT,
    "the slot slot1 reports a fault",
    "ARECA",
    "ARC-8018-.01.11.",
    "0111",
    1234,
    1_700_000_000_000_000_000,
    SLOTS,
)


def test_a_list_is_decoded_as_it_was_encoded() -> None:
    other = replace(INFO, id="b", slots=())
    assert decode_enclosures(encode_enclosures([INFO, other]), 8, 8) == [INFO, other]


def test_more_enclosures_or_slots_than_asked_for_are_left_out() -> None:
    assert decode_enclosures(encode_enclosures([INFO, INFO]), 1, 1) == [replace(INFO, slots=SLOTS[:1])]


def test_unknown_keys_are_ignored_and_an_unknown_state_is_a_fault() -> None:
    item = json.loads(encode_enclosures([INFO]))[0] | {"colour": "black", "state": "melted"}
    (found,) = decode_enclosures(json.dumps([item]).encode(), 8, 8)
    assert found.state is EnclosureState.FAULT
    assert "'melted'" in found.why


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", 1),
        ("name", None),
        ("kind", "box"),
        ("access", "all"),
        ("size_bytes", -1),
        ("size_bytes", True),
        ("changed_ns", 1 << 63),
        ("slots", {}),
        ("slots", [1]),
        ("slots", [{}]),
        ("slots", [{"name": "a", "locate": 1}]),
        ("slots", [{"name": "a", "number": -2}]),
    ],
)
def test_a_field_of_a_wrong_type_or_range_is_refused(key: str, value: object) -> None:
    item = json.loads(encode_enclosures([INFO]))[0] | {key: value}
    with pytest.raises(ValueError, match=r"."):
        decode_enclosures(json.dumps([item]).encode(), 8, 8)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b"[" * 100_000, b'[{"id": "a"}]'])
def test_a_malformed_list_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_enclosures(data, 8, 8)
