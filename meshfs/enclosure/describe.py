"""Describes what the pages of an enclosure mean: its state, and each slot with its lamps. Pure."""

from collections.abc import Sequence
from typing import Final

from meshfs import limits
from meshfs.enclosure_info import EnclosureInfo, EnclosureKind, EnclosureState, SlotInfo
from meshfs.model import Access
from meshfs.ses.configuration import Configuration, ElementPlace
from meshfs.ses.slots import EnclosureSlot, EnclosureView
from meshfs.ses.status import ElementCode

_STATUS_WORDS: Final = {
    ElementCode.UNSUPPORTED: "unsupported",
    ElementCode.OK: "ok",
    ElementCode.CRITICAL: "critical",
    ElementCode.NONCRITICAL: "non-critical",
    ElementCode.UNRECOVERABLE: "unrecoverable",
    ElementCode.NOT_INSTALLED: "not-installed",
    ElementCode.UNKNOWN: "unknown",
    ElementCode.NOT_AVAILABLE: "not-available",
    ElementCode.NO_ACCESS: "no-access",
}
_FAULTS: Final = frozenset((ElementCode.CRITICAL, ElementCode.UNRECOVERABLE))
_UNRECOVERABLE_FLAG: Final = 0x01
_CRITICAL_FLAG: Final = 0x02
#: A text that lists more faults than this is too long for a line of a table.
_FAULTS_SHOWN_MAX: Final = 4
#: The texts of an enclosure come from its firmware, and may have 64 KiB. An announcement has only the beginning.
_TEXT_MAX: Final = 255
_WHY_MAX: Final = 1024


def describe(
    enclosure_id: str,
    name: str,
    kind: EnclosureKind,
    view: EnclosureView,
    size_bytes: int,
    problems: Sequence[str] = (),
    note: str = "",
) -> EnclosureInfo:
    """Return what an exporter advertises of an enclosure whose slots are known.

    ``problems`` has a sentence for each page that could not be read; the malformed pages of ``view`` are added to them.
    With any of them the state is REFUSED. Otherwise it is FAULT if the enclosure reports one. ``note`` is a remark that
    does not change the state.
    """
    problems = [*problems, *view.problems]
    slots = view.slots[: limits.SLOTS_PER_ENCLOSURE_MAX]
    if len(slots) < len(view.slots):
        problems.append(f"it has {len(view.slots)} slots, of which only the first {len(slots)} are shown")
    faults = faults_of(view)
    state = EnclosureState.REFUSED if problems else EnclosureState.FAULT if faults else EnclosureState.OK
    primary = view.configuration.primary
    return EnclosureInfo(
        id=enclosure_id,
        node="",
        name=name,
        kind=kind,
        access=Access.READ_WRITE,
        state=state,
        why=_why([*problems, *faults, note]),
        vendor=primary.vendor,
        product=primary.product,
        revision=primary.revision,
        size_bytes=size_bytes,
        slots=tuple(slot_info(slot) for slot in slots),
    )


def refused(
    enclosure_id: str, name: str, kind: EnclosureKind, configuration: Configuration | None, size_bytes: int, why: str
) -> EnclosureInfo:
    """Return what an exporter advertises of an enclosure whose slots are not known, because of ``why``."""
    primary = None if configuration is None else configuration.primary
    return EnclosureInfo(
        id=enclosure_id,
        node="",
        name=name,
        kind=kind,
        access=Access.READ_WRITE,
        state=EnclosureState.REFUSED,
        why=_why([why]),
        vendor="" if primary is None else primary.vendor,
        product="" if primary is None else primary.product,
        revision="" if primary is None else primary.revision,
        size_bytes=size_bytes,
    )


def _why(reasons: Sequence[str]) -> str:
    """Return all reasons as one text, which is cut if it is too long for an announcement."""
    text = "; ".join(each for each in reasons if each)
    return text if len(text) <= _WHY_MAX else f"{text[: _WHY_MAX - 3]}..."


def slot_info(slot: EnclosureSlot) -> SlotInfo:
    """Return what an exporter advertises of a slot, without the disk in it."""
    return SlotInfo(
        name=slot.name,
        text=slot.text[:_TEXT_MAX],
        number=-1 if slot.device.number is None else slot.device.number,
        status=status_word(slot.element.code),
        locate=slot.element.identifies,
        fault=slot.element.fault_requested or slot.element.fault_sensed,
    )


def status_word(code: int) -> str:
    """Return a status code of SES-3 table 72 in words."""
    return _STATUS_WORDS[ElementCode(code)] if code in _STATUS_WORDS else f"reserved-{code}"


def faults_of(view: EnclosureView) -> list[str]:
    """Return a sentence for each critical or unrecoverable condition that the enclosure reports, and for no other.

    An overall element counts only if none of its elements has the fault, because it sums them up.
    """
    slot_names = {slot.place: slot.name for slot in view.slots}
    single = [place for place, element in view.elements.items() if not place.is_overall and element.code in _FAULTS]
    headers = {place.header for place in single}
    overall = [
        place
        for place, element in view.elements.items()
        if place.is_overall and element.code in _FAULTS and place.header not in headers
    ]
    faults = [
        f"{_element_name(view, place, slot_names)} is {status_word(view.elements[place].code)}"
        for place in [*single, *overall]
    ]
    if len(faults) > _FAULTS_SHOWN_MAX:
        faults = [*faults[: _FAULTS_SHOWN_MAX - 1], f"{len(faults) - _FAULTS_SHOWN_MAX + 1} more elements have faults"]
    if not faults and view.flags & (_CRITICAL_FLAG | _UNRECOVERABLE_FLAG):
        word = "an unrecoverable" if view.flags & _UNRECOVERABLE_FLAG else "a critical"
        faults = [f"the enclosure reports {word} condition"]
    return faults


def _element_name(view: EnclosureView, place: ElementPlace, slot_names: dict[ElementPlace, str]) -> str:
    if place in slot_names:
        return f"slot {slot_names[place]}"
    header = view.configuration.types[place.header]
    kind = f"type {header.kind:02x}" + (f" ({header.text})" if header.text else "")
    if place.is_overall:
        return f"an element of {kind}"
    text = view.texts.get(place, "")
    return f"element {place.number} of {kind}" + (f", {text[:_TEXT_MAX]}," if text else "")
