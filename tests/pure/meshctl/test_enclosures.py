"""meshctl enclosures, disks --tree, locate and fault, with documents and files that are made up."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshctl import enclosures, lamps
from meshctl.lamps import LampError, SlotPath, control_page, find_slot, follows, slot_path, switch
from meshctl.sources import Answer
from meshfs.errors import OutdatedPageError
from meshfs.ses.build import Bay, bundle, supported_pages, unbundle, virtual_pages
from meshfs.ses.configuration import Subenclosure, parse_configuration
from meshfs.ses.page import PageCode
from meshfs.ses.status import Lamps, parse_control
from meshfs.telemetry.fields import Fields
from meshfs.telemetry.mount_records import MountEnclosureRecord, MountRecord

IDENTITY = Subenclosure(0, 0x500E004AAAAAAA1E, "meshfs", "shelf", "1")


def slot(name: str, **changed: Any) -> dict[str, Any]:
    return {"name": name, "text": name, "number": int(name[-1]), "status": "ok", "locate": False, "fault": False,
            "disk": "", "why": "", **changed}  # fmt: skip


def enclosure(**changed: Any) -> dict[str, Any]:
    return {"id": "enc-n1-shelf", "node": "n1", "name": "shelf", "kind": "directory", "access": "rw", "state": "ok",
            "why": "", "vendor": "meshfs", "product": "folder", "revision": "", "size_bytes": 400, "changed_ns": 0,
            "present": True, "slots": [slot("slot1", disk="image-1"), slot("slot2", locate=True, fault=True)],
            **changed}  # fmt: skip


def disk(name: str, **changed: Any) -> dict[str, Any]:
    return {"id": name, "node": "n1", "name": name, "size_bytes": 1 << 20, "state": "ok", "present": True, **changed}


def mount(**changed: Any) -> MountRecord:
    return MountRecord({"mountpoint": "/mesh", "enclosures": [enclosure()], "disks": [disk("image-1")], **changed})


def test_the_table_shows_slots_disks_lamps_and_why_a_page_was_refused() -> None:
    row = enclosures.row(MountEnclosureRecord(enclosure(state="refused", why="page 07 of the enclosure is malformed")))
    assert row[:6] == ["enc-n1-shelf", "n1", "shelf", "directory", "refused", "rw"]
    assert row[6:9] == ["2", "1", "slot2=locate+fault"]
    assert row[-1] == "page 07 of the enclosure is malformed"
    assert enclosures.row(MountEnclosureRecord(enclosure(present=False)))[4] == "away"


def test_the_tree_of_an_enclosure_has_a_line_for_each_slot() -> None:
    record = mount()
    lines = list(enclosures.enclosure_lines(record.enclosures[0], {each.id: each for each in record.disks}))
    assert lines == [
        "n1/shelf (enc-n1-shelf), directory, ok, meshfs folder",
        "|- slot1  ok  n1/image-1 (image-1), 1M, ok",
        "`- slot2  ok  [locate fault]",
    ]


def test_a_text_of_a_firmware_is_one_line_and_no_command() -> None:
    record = mount(enclosures=[enclosure(product="\x1b[2J\nshelf", slots=[slot("slot1", why="\x1b]0;x\x07\nodd")])])
    for line in [*enclosures.enclosure_lines(record.enclosures[0], {}), *enclosures.mesh_lines(record)]:
        assert line.isprintable(), line


def test_the_tree_of_disks_has_nodes_enclosures_slots_and_the_disks_in_no_slot() -> None:
    record = mount(disks=[disk("image-1"), disk("loose"), disk("far", node="n2", present=False)])
    assert list(enclosures.mesh_lines(record)) == [
        "n1",
        "|- n1/shelf (enc-n1-shelf), directory, ok, meshfs folder",
        "|  `- slot1  ok  n1/image-1 (image-1), 1M, ok",
        "`- n1/loose (loose), 1M, ok",
        "n2",
        "`- n2/far (far), 1M, away",
    ]


@pytest.mark.parametrize(
    "wanted", ["image-1", "n1/image-1", "enc-n1-shelf/slot1", "n1/shelf/slot1", "n1/shelf/1", "enc-n1-shelf/01"]
)
def test_a_slot_has_many_names(wanted: str) -> None:
    found, in_it = find_slot(mount(), wanted)
    assert (found.id, in_it.name) == ("enc-n1-shelf", "slot1")


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ("odd", "there is no disk and no enclosure of that name"),
        ("n1/shelf/9", "has no slot '9'; its slots begin with: slot1, slot2"),
        ("loose", "is in no slot"),
        ("n1/shelf", "there is no disk and no enclosure"),
        ("", "there is no disk"),
        ("twice", "may be several slots; name one of them: enc-n1-shelf/slot1, enc-b/slot1"),
        ("n1/broken/1", "has no slot '1'; its slots begin with: page 01 is malformed"),
    ],
)
def test_what_is_no_slot_or_several_is_refused(wanted: str, error: str) -> None:
    record = mount(
        disks=[disk("loose"), disk("twice")],
        enclosures=[
            enclosure(slots=[slot("slot1", disk="twice"), slot("slot2")]),
            enclosure(id="enc-b", name="b", slots=[slot("slot1", disk="twice")]),
            enclosure(id="enc-c", name="broken", slots=[], why="page 01 is malformed"),
        ],
    )
    with pytest.raises(LampError, match=error):
        find_slot(record, wanted)


def answer(**changed: Any) -> Answer:
    return Answer("/mesh", Fields(mount(**changed).raw))


def test_the_slot_is_looked_for_in_every_mount() -> None:
    silent = Answer("/a", Fields(None), "no answer within 5 s", "mount-stuck")
    path = slot_path([silent, answer(enclosures=[]), answer(io_timeout_s=7.0)], "image-1")
    assert path == SlotPath("enc-n1-shelf", "slot1", Path("/mesh/enclosure/by-id/enc-n1-shelf"), 12.0)
    with pytest.raises(LampError, match="no answer within 5 s"):
        slot_path([silent], "image-1")
    with pytest.raises(LampError, match="n1/shelf is away"):
        slot_path([answer(enclosures=[enclosure(present=False)])], "n1/shelf/1")


# --- pages


class Shelf:
    """Is an enclosure with two bays, whose file a test reads and writes."""

    def __init__(self) -> None:
        self.bays = [Bay("slot1", 1, True), Bay("slot2", 2, False, fault=True)]
        self.generation = 7
        self.written: list[bytes] = []
        self.deaf = False
        self.on_read: Callable[[], None] = lambda: None

    def read(self, _: Path) -> bytes:
        content = bundle(supported_pages(), virtual_pages(IDENTITY, self.generation, self.bays))
        self.on_read()
        return content

    def write(self, page: bytes, _: Path) -> bytes:
        self.written.append(page)
        configuration = parse_configuration(virtual_pages(IDENTITY, self.generation, self.bays).configuration)
        try:
            changes = list(parse_control(page, configuration))
        except OutdatedPageError as error:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from error
        for place, asked in changes:
            if not self.deaf:
                bay = self.bays[place.number]
                self.bays[place.number] = replace(bay, locate=bool(asked.locate), fault=bool(asked.fault))
        return b""


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    shelf = Shelf()
    monkeypatch.setattr(lamps, "_read", shelf.read)
    monkeypatch.setattr(lamps, "_write", shelf.write)
    monkeypatch.setattr(lamps, "_LOOKS_S", (0.0, 0.0))
    return shelf


def path_of(name: str) -> SlotPath:
    return SlotPath("enc-n1-shelf", name, Path("/mesh/x"), 5.0)


def test_a_lamp_is_switched_and_all_others_stay(shelf: Shelf) -> None:
    switch(path_of("slot2"), Lamps(locate=True))
    assert [(bay.locate, bay.fault) for bay in shelf.bays] == [(False, False), (True, True)]
    switch(path_of("slot2"), Lamps(fault=False))
    assert [(bay.locate, bay.fault) for bay in shelf.bays] == [(False, False), (True, False)]
    switch(path_of("slot1"), Lamps(fault=True))
    assert [(bay.locate, bay.fault) for bay in shelf.bays] == [(False, True), (True, False)]


def test_an_enclosure_that_changes_meanwhile_is_read_again(shelf: Shelf) -> None:
    def change() -> None:
        if len(shelf.written) < 2:
            shelf.generation += 1

    shelf.on_read = change
    switch(path_of("slot1"), Lamps(locate=True))
    assert len(shelf.written) == 3
    assert shelf.bays[0].locate


def test_an_enclosure_that_always_changes_is_given_up(shelf: Shelf) -> None:
    def change() -> None:
        shelf.generation += 1

    shelf.on_read = change
    with pytest.raises(LampError, match="changes again and again"):
        switch(path_of("slot1"), Lamps(locate=True))
    assert not shelf.bays[0].locate


def test_an_enclosure_whose_lamp_does_not_follow_is_named(shelf: Shelf) -> None:
    shelf.deaf = True
    with pytest.raises(LampError, match="its lamp did not follow"):
        switch(path_of("slot1"), Lamps(locate=True))


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.EACCES, "access rw"), (errno.EROFS, "access rw"), (errno.ENODEV, "No such device"), (errno.EIO, "Input")],
)
def test_a_refused_control_page_has_its_reason(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, number: int, error: str
) -> None:
    def refuse(page: bytes, _: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lamps, "_write", refuse)
    with pytest.raises(LampError, match=error):
        switch(path_of("slot1"), Lamps(locate=True))


def test_malformed_pages_and_a_slot_that_is_not_there_are_refused(shelf: Shelf) -> None:
    content = shelf.read(Path())
    for length in range(len(unbundle(content)[PageCode.SUPPORTED]) + 60):
        with pytest.raises(LampError):
            control_page(content[:length], "slot1", Lamps(locate=True))
    with pytest.raises(LampError, match="has no slot slot3 any more"):
        follows(content, "slot3", Lamps(locate=True))
