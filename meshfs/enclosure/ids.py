"""The ids of SES devices. Pure.

    claimed_id      the id that a SES device claims by what it says of itself
    distinct_ids    an own id for each, also if several claim the same one

Theory. The id of an enclosure is the logical id of its primary subenclosure, which is a NAA identifier. But a shelf
with two expanders has two SES devices that both have the shelf's logical id. Each of them lists all slots, with the
addresses that its own ports reach. Also, one SES device appears twice if the machine has two paths to it. Such devices
are never merged, because they may fail one by one. The first one keeps the plain id, and the others get an addition.
If a device is served already, it keeps its id while it is there.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from meshfs.enclosure.found import SesFound


@dataclass(frozen=True, slots=True)
class SesIdentity:
    """Holds the id of a SES device. ``note`` names the other devices that claim the same id, for people, or is ""."""

    id: str
    note: str = ""


def claimed_id(found: SesFound, logical_id: int | None, node: str) -> str:
    """Return the id that a SES device claims: that of its enclosure, or if the enclosure has none, the device's own.

    The last resort is the device's address on the node, which may be another one after a reboot.
    """
    if logical_id:
        return f"enc-{logical_id:#018x}"
    own = _wwid(found)
    return f"enc-{own}" if own else f"enc-{node}-{_address(found)}"


def distinct_ids(claims: Sequence[tuple[SesFound, str]], held: Mapping[str, str]) -> dict[str, SesIdentity]:
    """Return an own id for each SES device, by its address. ``claims`` has each device with the id that it claims.

    ``held`` has the ids of devices that are served already, by address.
    """
    groups: dict[str, list[SesFound]] = {}
    for found, claim in sorted(claims, key=lambda each: (each[0].wwid, _numbers(each[0]))):
        groups.setdefault(claim, []).append(found)
    identities: dict[str, SesIdentity] = {}
    for claim, group in groups.items():
        ids: dict[str, str] = {}
        for each in group:
            known = held.get(each.address, "")
            if (known == claim or known.startswith(f"{claim}-")) and known not in ids.values():
                ids[each.address] = known
        for each in group:
            if each.address not in ids:
                ids[each.address] = next(name for name in _names(claim, each, group) if name not in ids.values())
        for each in group:
            identities[each.address] = SesIdentity(ids[each.address], _note(each, group, ids))
    return identities


def _names(claim: str, found: SesFound, group: Sequence[SesFound]) -> Iterator[str]:
    """Yield the ids that a device may get, the best one first."""
    yield claim
    own = _wwid(found)
    if own and all(_wwid(each) != own for each in group if each is not found):
        yield f"{claim}-{own}"
    for number in itertools.count(1):
        yield f"{claim}-{_address(found)}" if number == 1 else f"{claim}-{_address(found)}-{number}"


def _note(found: SesFound, group: Sequence[SesFound], ids: Mapping[str, str]) -> str:
    others = [each for each in group if each is not found]
    if not others:
        return ""
    names = ", ".join(f"{ids[each.address]} ({each.path or each.address})" for each in others)
    same = bool(found.wwid) and all(each.wwid == found.wwid for each in others)
    why = "they are paths to one SES device" if same else "the enclosure has several SES devices"
    return f"{names} has the same logical id: probably {why}"


def _wwid(found: SesFound) -> str:
    """Return the own name of the SES device as a part of a file name, or "" if it has none."""
    kind, _, value = found.wwid.partition(".")
    return f"{kind}-{value.lower()}" if kind in ("naa", "eui") and value.isalnum() and value.isascii() else ""


def _address(found: SesFound) -> str:
    return found.address.replace(":", "-")


def _numbers(found: SesFound) -> list[int]:
    return [int(part) for part in found.address.split(":")]
