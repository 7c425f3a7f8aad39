"""The searches of the rules in problems.py that concern enclosures and their slots. Pure.

problem_finders.py says what a finding is.
"""

from collections.abc import Callable, Iterator
from typing import Final

from meshfs.telemetry.exporter_records import ExporterRecord
from meshfs.telemetry.mount_records import MountEnclosureRecord, MountRecord
from meshfs.telemetry.problem_finders import Finding

#: The states that have their own rules. Any other state except "ok" is unknown. An absent enclosure is no problem of
#: its own, because the rule for exporters reports that its exporter is away.
_STATES: Final = ("ok", "fault", "refused", "gone")


def enclosure_in_state(state: str, text: str) -> Callable[[MountRecord], Iterator[Finding]]:
    """Find enclosures in that state. ``text`` says what the state means and what to do.

    In ``text``, {why} stands for the reason that the exporter gives, and {path} for the path of the enclosure's file.
    """

    def find(document: MountRecord) -> Iterator[Finding]:
        for enclosure in document.enclosures:
            if enclosure.present and enclosure.state == state:
                path = f"{document.mountpoint}/enclosure/by-id/{enclosure.id}"
                yield _subject(enclosure), text.format(why=_because(enclosure), path=path)

    return find


def own_enclosure_in_state(state: str, text: str) -> Callable[[ExporterRecord], Iterator[Finding]]:
    """Find enclosures of an exporter in that state. In ``text``, {why} stands for the reason."""

    def find(document: ExporterRecord) -> Iterator[Finding]:
        for enclosure in document.enclosures:
            if enclosure.state == state:
                why = f" ({enclosure.why})" if enclosure.why else ""
                yield f"enclosure {document.node}/{enclosure.name}", text.format(why=why)

    return find


def enclosure_in_unknown_state(document: MountRecord) -> Iterator[Finding]:
    for enclosure in document.enclosures:
        if enclosure.present and enclosure.state not in _STATES:
            yield (
                _subject(enclosure),
                f"the enclosure is in the state {enclosure.state or '(none)'}{_because(enclosure)}",
            )


def enclosure_refused(document: MountRecord) -> Iterator[Finding]:
    for line in document.refused_enclosures:
        advice = 'if two nodes reach the same enclosure, set enclosures = "none" at one of them'
        yield line, f"the mount does not show it; {advice}"


def slot_claimed(document: MountRecord) -> Iterator[Finding]:
    for line in document.slot_problems:
        yield line, "look which disk is in the slot: the owner of another disk is wrong about the disk's slot"


def _subject(enclosure: MountEnclosureRecord) -> str:
    return f"enclosure {enclosure.path}"


def _because(enclosure: MountEnclosureRecord) -> str:
    return f" ({enclosure.why})" if enclosure.why else ""
