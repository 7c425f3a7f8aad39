"""The emulated shelf of the guest: its pages mean what they should, and a control page changes what it selects."""

import pytest

from meshfs.ses.build import unbundle
from meshfs.ses.configuration import ElementPlace
from meshfs.ses.page import PageCode
from meshfs.ses.slots import EnclosurePages, read_slots
from meshfs.ses.status import Lamps, pack_control
from meshlab.shelf.disk import BLOCK_BYTES, MemoryDisk
from meshlab.shelf.enclosure import RECEIVE_DIAGNOSTIC, SEND_DIAGNOSTIC, Enclosure
from meshlab.shelf.unit import CONDITIONS_CHANGED, Answer, Identity, LogicalUnit

IDENTITY = Identity(0x0D, "MESHFS", "Shelf", "1.0", "S1", naa=0x5000C0DE00001000, sas_address=0x5000C0DE00001001)
ADDRESS = 0x5000C0DE00010011


@pytest.fixture
def enclosure() -> Enclosure:
    return Enclosure(IDENTITY, slots=4)


def read(enclosure: Enclosure) -> EnclosurePages:
    codes = (PageCode.CONFIGURATION, PageCode.STATUS, PageCode.ELEMENT_DESCRIPTOR, PageCode.ADDITIONAL_STATUS)
    return EnclosurePages(*(received(enclosure, code) for code in codes))


def received(unit: LogicalUnit, code: int, size: int = 0xFFFF) -> bytes:
    answer = unit.execute(bytes((RECEIVE_DIAGNOSTIC, 1, code)) + size.to_bytes(2, "big") + b"\0", bytes)
    assert answer.status == 0
    return answer.data


def send(enclosure: Enclosure, page: bytes) -> Answer:
    cdb = bytes((SEND_DIAGNOSTIC, 0x10, 0)) + len(page).to_bytes(2, "big") + b"\0"
    return enclosure.execute(cdb, lambda: page)


def test_the_pages_say_what_is_in_which_slot(enclosure: Enclosure) -> None:
    enclosure.slots[2].address = ADDRESS
    view = read_slots(read(enclosure))
    slots = view.slots
    assert view.problems == ()
    assert view.configuration.primary.logical_id == IDENTITY.naa
    assert [slot.name for slot in slots] == ["Slot_01", "Slot_02", "Slot_03", "Slot_04"]
    assert [slot.device.number for slot in slots] == [1, 2, 3, 4]
    assert [slot.device.sas_addresses for slot in slots] == [(), (), (ADDRESS,), ()]
    assert [slot.is_installed for slot in slots] == [False, False, True, False]
    assert received(enclosure, 0)[4:] == bytes((0, 1, 2, 7, 10))
    assert unbundle(received(enclosure, 1, 6)) == {}


def test_a_control_page_changes_only_what_it_selects(enclosure: Enclosure) -> None:
    view = read_slots(read(enclosure))
    lamps = {ElementPlace(0, 1): Lamps(locate=True), ElementPlace(0, 3): Lamps(fault=True)}
    page = pack_control(view.configuration, view.elements, lamps)
    assert send(enclosure, page) == Answer()
    assert [slot.locate for slot in enclosure.slots] == [False, True, False, False]
    assert [slot.fault for slot in enclosure.slots] == [False, False, False, True]
    unselected = page[:8] + bytes(len(page) - 8)
    assert send(enclosure, unselected) == Answer()
    assert enclosure.slots[1].locate
    for wrong in (page[:-4], page[:7] + b"\7" + page[8:], b"\1" + page[1:], page + bytes(4)):
        assert send(enclosure, wrong).sense[2] == 5
    assert enclosure.slots[1].locate


def test_a_unit_attention_is_reported_once(enclosure: Enclosure) -> None:
    enclosure.attentions.append(CONDITIONS_CHANGED)
    answers = [enclosure.execute(bytes(6), bytes) for _ in range(2)]
    assert [(answer.status, answer.sense[2:3], answer.sense[12:14]) for answer in answers] == [
        (2, b"\6", bytes(CONDITIONS_CHANGED)),
        (0, b"", b""),
    ]


def test_a_disk_reads_what_was_written_and_refuses_blocks_that_it_lacks() -> None:
    disk = MemoryDisk(IDENTITY, 8 * BLOCK_BYTES)
    data = bytes(range(256)) * 4
    assert disk.execute(bytes((0x2A, 0, 0, 0, 0, 6, 0, 0, 2, 0)), lambda: data) == Answer()
    assert disk.execute(bytes((0x88, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 2, 0, 0)), bytes) == Answer(data)
    assert disk.execute(bytes((0x28, 0, 0, 0, 0, 7, 0, 0, 2, 0)), bytes).sense[12] == 0x21
    assert disk.execute(bytes((0x25,)) + bytes(9), bytes).data == bytes((0, 0, 0, 7, 0, 0, 2, 0))
