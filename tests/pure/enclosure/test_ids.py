"""Each SES device has an id of its own, also if several claim the logical id of one enclosure."""

from pathlib import Path

import pytest

from meshfs.enclosure.found import SesFound
from meshfs.enclosure.ids import SesIdentity, claimed_id, distinct_ids

SHELF = "enc-0x500e004aaaaaaa1e"


def found(address: str, wwid: str = "") -> SesFound:
    return SesFound(address, Path(f"/dev/sg{address.split(':')[2]}"), wwid=wwid)


@pytest.mark.parametrize(
    ("logical_id", "wwid", "claim"),
    [
        (0x500E_004A_AAAA_AA1E, "naa.5000", SHELF),
        (1, "", "enc-0x0000000000000001"),
        (0, "naa.500E004AAAAAAA3D", "enc-naa-500e004aaaaaaa3d"),
        (None, "eui.0011", "enc-eui-0011"),
        (None, "", "enc-n1-6-0-24-0"),
        (None, "t10.ACME  BOX/1", "enc-n1-6-0-24-0"),
        (None, "naa.", "enc-n1-6-0-24-0"),
        (None, "naa.12\u00b2", "enc-n1-6-0-24-0"),
        (None, "naa.../x", "enc-n1-6-0-24-0"),
    ],
)
def test_an_id_is_made_of_the_best_name_that_there_is(logical_id: int | None, wwid: str, claim: str) -> None:
    assert claimed_id(found("6:0:24:0", wwid), logical_id, "n1") == claim


def test_different_claims_are_the_ids() -> None:
    claims = [(found("6:0:1:0"), "enc-0x1"), (found("6:0:2:0"), "enc-0x2")]
    assert distinct_ids(claims, {}) == {"6:0:1:0": SesIdentity("enc-0x1"), "6:0:2:0": SesIdentity("enc-0x2")}


def test_two_expanders_of_one_shelf_are_told_apart_by_their_own_names() -> None:
    claims = [(found("6:0:24:0", "naa.5b"), SHELF), (found("7:0:9:0", "naa.5a"), SHELF)]
    identities = distinct_ids(claims, {})
    assert {address: each.id for address, each in identities.items()} == {
        "7:0:9:0": SHELF,
        "6:0:24:0": f"{SHELF}-naa-5b",
    }
    assert identities["7:0:9:0"].note == (
        f"{SHELF}-naa-5b (/dev/sg24) has the same logical id: probably the enclosure has several SES devices"
    )
    assert identities["6:0:24:0"].note.startswith(f"{SHELF} (/dev/sg9) has the same logical id")
    assert distinct_ids(claims[::-1], {}) == identities


def test_two_paths_to_one_device_are_told_apart_by_their_addresses() -> None:
    identities = distinct_ids([(found("6:0:24:0", "naa.5a"), SHELF), (found("7:0:24:0", "naa.5a"), SHELF)], {})
    assert [each.id for each in identities.values()] == [SHELF, f"{SHELF}-7-0-24-0"]
    assert all("probably they are paths to one SES device" in each.note for each in identities.values())


def test_devices_without_names_are_told_apart_by_their_addresses() -> None:
    identities = distinct_ids([(found(f"6:0:{number}:0"), SHELF) for number in (3, 20)], {})
    assert [each.id for each in identities.values()] == [SHELF, f"{SHELF}-6-0-20-0"]


def test_a_device_that_is_served_keeps_its_id() -> None:
    first, second = found("6:0:1:0", "naa.5a"), found("7:0:1:0", "naa.5b")
    held = {"7:0:1:0": SHELF}
    assert {address: each.id for address, each in distinct_ids([(first, SHELF), (second, SHELF)], held).items()} == {
        "6:0:1:0": f"{SHELF}-naa-5a",
        "7:0:1:0": SHELF,
    }
    assert distinct_ids([(first, SHELF)], {"6:0:1:0": f"{SHELF}-naa-5a"}) == {"6:0:1:0": SesIdentity(f"{SHELF}-naa-5a")}


def test_another_device_at_the_same_address_does_not_keep_the_id() -> None:
    assert distinct_ids([(found("6:0:1:0"), SHELF)], {"6:0:1:0": "enc-0x1"}) == {"6:0:1:0": SesIdentity(SHELF)}


def test_no_two_devices_ever_have_one_id() -> None:
    claims = [(found(f"6:0:{number}:0", f"naa.{number % 3}"), SHELF) for number in range(9)]
    held = {"6:0:5:0": SHELF, "6:0:7:0": f"{SHELF}-6-0-2-0", "6:0:8:0": SHELF}
    assert len({each.id for each in distinct_ids(claims, held).values()}) == 9
