"""A virtual enclosure gives pages that every SES program can read, and keeps its lamps over restarts."""

import errno
from pathlib import Path

import pytest

from meshfs.enclosure.bays import Place
from meshfs.enclosure.virtual import Occupant, VirtualEnclosure, VirtualIdentity
from meshfs.enclosure_info import EnclosureKind, SlotInfo
from meshfs.ses.build import unbundle
from meshfs.ses.configuration import ElementPlace, parse_configuration
from meshfs.ses.page import PageCode
from meshfs.ses.slots import EnclosurePages, read_slots
from meshfs.ses.status import Lamps, pack_control, parse_status

IDENTITY = VirtualIdentity("enc-n1-shelf", "shelf", EnclosureKind.DIRECTORY, "Folder", "slot")


def made(tmp_path: Path, slots: int = 3) -> VirtualEnclosure:
    enclosure = VirtualEnclosure(IDENTITY, tmp_path / "state/shelf.enclosure.json", slots)
    enclosure.load()
    return enclosure


def pages_of(enclosure: VirtualEnclosure) -> EnclosurePages:
    pages = unbundle(enclosure.read().content)
    return EnclosurePages(
        pages[PageCode.CONFIGURATION],
        pages[PageCode.STATUS],
        pages[PageCode.ELEMENT_DESCRIPTOR],
        pages[PageCode.ADDITIONAL_STATUS],
    )


def control_page(enclosure: VirtualEnclosure, slot: int, lamps: Lamps) -> bytes:
    pages = pages_of(enclosure)
    configuration = parse_configuration(pages.configuration)
    return pack_control(configuration, parse_status(pages.status, configuration), {ElementPlace(0, slot - 1): lamps})


def test_the_pages_say_what_the_info_says(tmp_path: Path) -> None:
    enclosure = made(tmp_path)
    occupants = {"image-a": Occupant("image-a"), "image-b": Occupant("image-b", failing=True, why="EIO")}
    enclosure.arrange(3, {"image-a": Place(1), "image-b": Place(3)}, occupants)
    reading = enclosure.read()
    assert reading.info.size_bytes == len(reading.content)
    assert reading.info.slots == (
        SlotInfo("slot01", "slot01", 1, "ok", disk="image-a"),
        SlotInfo("slot02", "slot02", 2, "not-installed"),
        SlotInfo("slot03", "slot03", 3, "critical", disk="image-b", why="EIO"),
    )
    view = read_slots(pages_of(enclosure))
    configuration, slots = view.configuration, view.slots
    assert configuration.primary.vendor == "MESHFS"
    assert configuration.primary.logical_id >> 60 == 3
    assert [(slot.name, slot.device.number, int(slot.element.code)) for slot in slots] == [
        ("slot01", 1, 1),
        ("slot02", 2, 5),
        ("slot03", 3, 2),
    ]


def test_a_control_page_changes_only_the_selected_slot_and_lasts_over_a_restart(tmp_path: Path) -> None:
    enclosure = made(tmp_path)
    enclosure.control(control_page(enclosure, 2, Lamps(locate=True)))
    enclosure.control(control_page(enclosure, 3, Lamps(fault=True)))
    expected = [(False, False), (True, False), (False, True)]
    for each in (enclosure, made(tmp_path)):
        assert [(slot.locate, slot.fault) for slot in each.info.slots] == expected
        assert [
            (slot.element.identifies, slot.element.fault_requested) for slot in read_slots(pages_of(each)).slots
        ] == (expected)


def test_places_last_over_a_restart(tmp_path: Path) -> None:
    enclosure = made(tmp_path)
    assert enclosure.arrange(3, {"image-a": Place(2, 2)}, {})
    enclosure.save()
    assert not enclosure.arrange(3, {"image-a": Place(2, 2)}, {"image-a": Occupant("image-a")})
    assert made(tmp_path).places == {"image-a": Place(2, 2)}


def test_a_slot_forgets_its_disk_when_the_disk_is_in_another_slot(tmp_path: Path) -> None:
    enclosure = made(tmp_path)
    enclosure.arrange(3, {"a": Place(1), "b": Place(2)}, {})
    enclosure.arrange(3, {"a": Place(3)}, {})
    assert enclosure.places == {"a": Place(3), "b": Place(2)}


def test_pages_of_another_generation_wrong_length_or_code_change_nothing(tmp_path: Path) -> None:
    enclosure = made(tmp_path)
    page = control_page(enclosure, 1, Lamps(locate=True))
    wrong = {
        page[:-1]: errno.EINVAL,
        page + b"\0": errno.EINVAL,
        b"\x05" + page[1:]: errno.EINVAL,
        b"": errno.EINVAL,
        page[:8]: errno.EINVAL,
        page[:4] + bytes(4) + page[8:]: errno.ESTALE,
    }
    for bad, expected in wrong.items():
        with pytest.raises(OSError) as error:  # noqa: PT011 - the errno is compared below
            enclosure.control(bad)
        assert error.value.errno == expected
    assert not any(slot.locate for slot in enclosure.info.slots)
    enclosure.arrange(4, {}, {})
    with pytest.raises(OSError, match="the slots of the enclosure have changed") as error:
        enclosure.control(page)
    assert error.value.errno == errno.ESTALE


def test_the_generation_changes_with_the_slots_and_only_with_them(tmp_path: Path) -> None:
    def generation(enclosure: VirtualEnclosure) -> int:
        return parse_configuration(pages_of(enclosure).configuration).generation

    enclosure = made(tmp_path)
    first = generation(enclosure)
    enclosure.arrange(3, {"a": Place(1)}, {"a": Occupant("a")})
    assert generation(enclosure) == first
    enclosure.arrange(4, {"a": Place(1)}, {"a": Occupant("a")})
    assert generation(enclosure) != first
    assert generation(made(tmp_path)) == first


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"slots": 3}', '{"slots": {"x": {}}}', '{"slots": {"1": {"disk": 1}}}']
)
def test_an_invalid_record_is_ignored(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state/shelf.enclosure.json"
    path.parent.mkdir()
    path.write_text(text)
    enclosure = made(tmp_path)
    assert enclosure.places == {}
    assert "its lamps are off" in caplog.text


def test_lamps_work_although_the_state_folder_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file")
    enclosure = VirtualEnclosure(IDENTITY, tmp_path / "state/shelf.enclosure.json", 3)
    for _ in range(2):
        enclosure.control(control_page(enclosure, 1, Lamps(locate=True)))
    assert enclosure.info.slots[0].locate
    assert caplog.text.count("its lamps are lost at the end of meshfsd") == 1


def test_an_enclosure_of_more_than_255_bays(tmp_path: Path) -> None:
    enclosure = made(tmp_path, 512)
    enclosure.control(control_page(enclosure, 7, Lamps(locate=True)))
    slots = read_slots(pages_of(enclosure)).slots
    assert [slot.name for slot in slots] == [slot.name for slot in enclosure.info.slots]
    assert [slot.name for slot in slots if slot.element.identifies] == ["slot07"]
