"""What an exporter keeps of a disk over restarts, decided from what it kept before."""

from dataclasses import replace

import pytest

from meshfs.disk.discovery.identity import Identity
from meshfsd.remembered import RememberedDisk, next_record

NOW_NS = 1_000_000
NAMED = Identity("wwid-1", sequence="7")
PLACED = Identity("port 1, device 7 of this boot", "port 1")
KEPT = RememberedDisk("wwid-1", "", "7", "boot-1", "wwid-1", "seed-1", 500, clean=True)
KEPT_PLACED = RememberedDisk(
    PLACED.instance, PLACED.place, PLACED.sequence, "boot-1", "told", "seed-1", 500, clean=True
)


def after(
    old: RememberedDisk | None, device: Identity = NAMED, boot_id: str = "boot-1", image_ns: int | None = None
) -> RememberedDisk:
    return next_record(old, device, boot_id, seed="new seed", now_ns=NOW_NS, image_ns=image_ns)


def test_without_a_record_everything_begins_now() -> None:
    assert after(None) == RememberedDisk("wwid-1", "", "7", "boot-1", "wwid-1", "new seed", NOW_NS)
    assert after(None, image_ns=77).written_ns == 77


def test_the_same_device_keeps_its_seed_over_restarts_and_reboots() -> None:
    for boot_id in ("boot-1", "boot-2"):
        for clean in (True, False):
            record = after(replace(KEPT, clean=clean), boot_id=boot_id)
            assert (record.instance, record.seed, record.boot_id) == ("wwid-1", "seed-1", boot_id)
            assert not record.clean


@pytest.mark.parametrize(
    ("clean", "image_ns", "written_ns"),
    [(True, None, 500), (False, None, NOW_NS), (True, 900, 900), (False, 900, 900), (False, 400, 500)],
    ids=["clean", "unclean", "image", "image-unclean", "never-backwards"],
)
def test_the_time_of_the_last_write_never_goes_back(clean: bool, image_ns: int | None, written_ns: int) -> None:
    assert after(replace(KEPT, clean=clean), image_ns=image_ns).written_ns == written_ns


def test_a_device_that_came_back_while_nobody_served_it_may_have_lost_writes() -> None:
    back = replace(NAMED, sequence="8")
    record = after(KEPT, back)
    assert (record.instance, record.seed, record.sequence) == ("wwid-1", "new seed", "8")
    assert after(record, back).seed == "new seed"
    # A reboot counts devices from 1 again, and the boot id alone shows that.
    assert after(KEPT, back, boot_id="boot-2").seed == "seed-1"


def test_another_device_has_another_seed_and_counts_as_written_now() -> None:
    record = after(KEPT, Identity("wwid-2"), image_ns=3)
    assert (record.instance, record.seed, record.written_ns) == ("wwid-2", "new seed", NOW_NS)
    late = after(replace(KEPT, written_ns=NOW_NS * 2), Identity("wwid-2"))
    assert late.written_ns == NOW_NS * 2 + 1


def test_a_device_without_a_name_is_known_by_its_place_after_a_reboot_only() -> None:
    assert after(KEPT_PLACED, PLACED).instance == "told"
    swapped = Identity("port 1, device 8 of this boot", "port 1")
    assert after(KEPT_PLACED, swapped).instance == swapped.instance
    rebooted = after(KEPT_PLACED, swapped, boot_id="boot-2")
    assert (rebooted.instance, rebooted.seed, rebooted.device) == ("told", "seed-1", swapped.instance)
    # From then on, the disk is that device until the next boot.
    assert after(rebooted, swapped, boot_id="boot-2").instance == "told"
    elsewhere = Identity("port 2, device 8 of this boot", "port 2")
    assert after(KEPT_PLACED, elsewhere, boot_id="boot-2").instance == elsewhere.instance
