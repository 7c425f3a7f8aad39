"""Which disks do not answer on purpose, by the announcements of their exporter."""

from dataclasses import replace

import pytest

from meshfs.initiator.remote.on_purpose import OnPurpose
from meshfs.model import Access, DiskInfo, DiskState

DISK = DiskInfo("meshfs-n1-a", "n1", "a", 4096, Access.READ_WRITE, "v")


def disk(name: str, state: DiskState = DiskState.OK) -> DiskInfo:
    return replace(DISK, id=f"meshfs-n1-{name}", name=name, state=state)


def test_a_disk_is_drained_since_its_first_announcement_as_drained() -> None:
    notes = OnPurpose()
    assert not notes.take([disk("a"), disk("b")], 1.0)
    assert notes.take([disk("a", DiskState.DRAINED), disk("b")], 2.0)
    assert not notes.take([disk("a", DiskState.DRAINED), disk("b", DiskState.GONE)], 3.0)
    assert notes.drained_since_s == {"a": 2.0}
    assert (notes.is_silent("a"), notes.is_silent("b"), notes.is_leaving) == (True, False, False)
    assert notes.take([disk("a"), disk("b")], 4.0)
    assert not notes.is_silent("a")


def test_an_exporter_leaves_if_all_its_disks_are_drained() -> None:
    notes = OnPurpose()
    notes.take([], 0.0)
    assert not notes.is_leaving, "an exporter without disks says nothing"
    notes.take([disk("a", DiskState.DRAINED), disk("b", DiskState.DRAINED)], 1.0)
    assert notes.is_leaving
    notes.take([disk("a"), disk("b")], 2.0)
    assert not notes.is_leaving


@pytest.mark.parametrize("state", [DiskState.SUSPENDED, DiskState.DRAINED])
def test_the_silence_of_a_disk_counts_from_its_resumption(state: DiskState) -> None:
    notes = OnPurpose()
    assert notes.take([disk("a", state)], 1.0) == (state is DiskState.DRAINED), "only drained disks count"
    assert notes.is_silent("a")
    notes.take([disk("a")], 5.0)
    assert not notes.is_silent("a")
    notes.take([disk("a")], 6.0)
    assert notes.resumed_s == {"a": 5.0}
    notes.take([], 7.0)
    assert notes.resumed_s == {}, "what is no longer offered is forgotten"
