"""Find all problems in the status documents of mounts and exporters. Pure.

    document of a mount     --MOUNT_RULES-->     problems  -->  `meshctl status`, exit status, --json
    document of an exporter --EXPORTER_RULES-->  problems  -->  metrics (problems by code), log (begin and end)

One table of rules serves all readers, so a state cannot be a problem in one place and fine in another. The severities:

    error     data cannot be reached or is at risk
    warning   a part is degraded, or will fail at the next restart
    note      a choice of the administrator that others should know; it does not change an exit status
"""

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Generic, TypeVar

from meshfs import limits
from meshfs.telemetry import enclosure_finders
from meshfs.telemetry import problem_finders as find
from meshfs.telemetry.documents import ProblemItem
from meshfs.telemetry.exporter_records import ExporterRecord
from meshfs.telemetry.fields import printable
from meshfs.telemetry.mount_records import MountRecord
from meshfs.telemetry.records import FindingsRecord

R_contra = TypeVar("R_contra", bound=FindingsRecord, contravariant=True)


class Severity(enum.StrEnum):
    """Says how bad a problem is; the header of this module explains each severity."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Problem:
    """Describes one problem. ``code`` is the rule's name for programs, and ``subject`` is the affected part.

    ``text`` says what is wrong and what to do.
    """

    code: str
    severity: Severity
    subject: str
    text: str

    @property
    def line(self) -> str:
        """Return the problem as one line for a log or a terminal. It is made printable, as it has text of others."""
        return printable(f"{self.subject}: {self.text}")

    @property
    def counts(self) -> bool:
        """Return whether the problem counts as a fault, and not only as a note."""
        return self.severity is not Severity.NOTE

    def as_json(self) -> ProblemItem:
        return {"code": self.code, "severity": self.severity.value, "subject": self.subject, "text": self.text}


@dataclass(frozen=True, slots=True)
class Rule(Generic[R_contra]):
    """Defines one kind of problem. ``find`` yields the findings of that kind in a document."""

    code: str
    severity: Severity
    find: Callable[[R_contra], Iterator[find.Finding]]


_ERROR, _WARNING, _NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

#: The counter of unexpected errors, which are bugs (bugs.py).
_INTERNAL: Final = "internal_errors"

#: Rules for the documents of both programs. The rules for one program only follow below.
_COMMON: Final[tuple[Rule[FindingsRecord], ...]] = (
    Rule("disk-failing", _ERROR, find.disk_in_state("failing", "replace it, or repair what is below it")),
    Rule("disk-gone", _ERROR, find.disk_in_state("gone", "it is claimed again when the device is back")),
    Rule("disk-missing", _ERROR, find.disk_in_state("missing", "it is claimed as soon as it can be opened")),
    Rule(
        "disk-suspended", _WARNING, find.disk_in_state("suspended", "its I/O waits until `meshctl resume` on its owner")
    ),
    Rule(
        "disk-drained", _WARNING, find.disk_in_state("drained", "it is not served until `meshctl resume` on its owner")
    ),
    Rule("disk-state", _ERROR, find.disk_in_unknown_state),
    Rule("disk-errors", _ERROR, find.disk_errors),
    Rule("config-broken", _WARNING, find.config_broken),
    Rule("config-reload", _WARNING, find.config_unloaded),
    Rule("config-restart", _WARNING, find.config_needs_restart),
    Rule("descriptors-short", _WARNING, find.descriptors_short),
    Rule("internal-errors", _ERROR, find.counted("internal errors", "report the traceback in the log", 1, _INTERNAL)),
    Rule("security-none", _NOTE, find.security_none),
)
# fmt: off
MOUNT_RULES: Final[tuple[Rule[MountRecord], ...]] = (
    Rule("exporter-away", _ERROR, find.exporter_away),
    Rule("exporter-drained", _WARNING, find.exporter_drained),
    Rule("io-waits", _ERROR, find.io_waits),
    Rule("disk-hangs", _ERROR, find.disk_hangs_here),
    Rule("path-down", _WARNING, find.path_down),
    Rule("path-unsteady", _WARNING, find.path_unsteady),
    Rule("path-forged", _WARNING, find.path_forged),
    Rule("path-single", _WARNING, find.path_single),
    Rule("disk-absent", _ERROR, find.disk_absent),
    Rule("disk-refused", _ERROR, find.disk_refused),
    Rule("enclosure-fault", _WARNING, enclosure_finders.enclosure_in_state(
        "fault", "it reports a fault{why}; find the part with `sg_ses --inhex={path} --raw --raw --status --join`")),
    Rule("enclosure-pages", _WARNING, enclosure_finders.enclosure_in_state(
        "refused", "one of its pages is malformed{why}, so its slots are not known; look for newer firmware")),
    Rule("enclosure-gone", _WARNING, enclosure_finders.enclosure_in_state(
        "gone", "its device does not answer, or went away{why}; look at its power and its cable")),
    Rule("enclosure-state", _WARNING, enclosure_finders.enclosure_in_unknown_state),
    Rule("enclosure-refused", _WARNING, enclosure_finders.enclosure_refused),
    Rule("slot-claimed", _WARNING, enclosure_finders.slot_claimed),
    Rule("config-differs", _WARNING, find.config_differs),
    Rule("log-unwritable", _WARNING, find.log_unwritable),
    *_COMMON,
)
EXPORTER_RULES: Final[tuple[Rule[ExporterRecord], ...]] = (
    Rule("disk-hangs", _ERROR, find.disk_hangs),
    Rule("disk-read-only", _WARNING, find.disk_read_only),
    Rule("enclosure-fault", _WARNING, enclosure_finders.own_enclosure_in_state(
        "fault", "it reports a fault{why}; find the part with `meshctl enclosures`")),
    Rule("enclosure-pages", _WARNING, enclosure_finders.own_enclosure_in_state(
        "refused", "one of its pages is malformed{why}, so its slots are not known; look for newer firmware")),
    Rule("enclosure-gone", _WARNING, enclosure_finders.own_enclosure_in_state(
        "gone", "it cannot be read{why}; look at its power and its cable, or at the file system of its folder")),
    Rule("key-missing", _WARNING, find.key_missing),
    Rule("address-missing", _WARNING, find.address_missing),
    Rule("state-unwritable", _WARNING, find.state_unwritable),
    Rule("logins-refused", _WARNING, find.counted(
        "logins were refused", "compare the keys of the two nodes, or see the log for the node that tries",
        limits.PROBLEM_LOGINS_REFUSED, "logins_denied", "binds_denied", "login_timeouts")),
    Rule("frames-broken", _WARNING, find.counted(
        "broken messages came in", "see the log for their sender",
        limits.PROBLEM_FRAMES_BROKEN, "malformed_requests", "protocol_errors")),
    Rule("messages-forged", _WARNING, find.counted(
        "messages with a wrong signature, or a second time, came in",
        "something between the nodes changes data, or somebody is in between; see in the log on which connections",
        limits.PROBLEM_FORGERIES, "bad_signatures", "nonces_repeated")),
    Rule("connections-refused", _WARNING, find.counted(
        "connections were refused", "see in the log who connects, and raise LimitNOFILE= if it names descriptors",
        1, "connections_refused", "accept_failures")),
    Rule("connections-crowded", _WARNING, find.counted(
        "connections without a login were ended for newer ones", "see in the log who connects, and shut them out with "
        "the firewall (nftables), or raise LimitNOFILE= if the log names descriptors", 1, "connections_ended")),
    Rule("node-limit", _WARNING, find.counted(
        "requests were refused because a node has reached a limit (opens, locks, sessions, connections ...)",
        "see the log for the node and the resource, and end the programs there that use it", 1,
        "node_limits_reached")),
    Rule("limit-near", _WARNING, find.limit_near),
    *_COMMON,
)
# fmt: on


def mount_problems(document: Mapping[str, Any]) -> list[Problem]:
    return list(chain.from_iterable(steps(MOUNT_RULES, MountRecord(document))))


def exporter_problems(document: Mapping[str, Any]) -> list[Problem]:
    return list(chain.from_iterable(steps(EXPORTER_RULES, ExporterRecord(document))))


def steps(rules: Iterable[Rule[R_contra]], document: R_contra) -> Iterator[list[Problem]]:
    """Yield the problems that each rule finds, one list per rule, so that a caller may pause between rules."""
    for rule in rules:
        yield [Problem(rule.code, rule.severity, subject, text) for subject, text in rule.find(document)]


def published(document: Mapping[str, Any]) -> list[Problem]:
    """Return the problems that a process has put into its own document.

    The process may be newer and have rules that this program does not have.
    """
    found = []
    for item in FindingsRecord(document).problems:
        known = Severity(item.severity) if item.severity in set(Severity) else Severity.ERROR
        found.append(Problem(item.code, known, item.subject, item.what))
    return found


def merged(*lists: Iterable[Problem]) -> list[Problem]:
    """Return each problem once, by code and subject, with the text that comes first."""
    found: dict[tuple[str, str], Problem] = {}
    for problem in (each for problems in lists for each in problems):
        found.setdefault((problem.code, problem.subject), problem)
    return list(found.values())


def count_by_code(rules: Iterable[Rule[Any]], problems: Iterable[Problem]) -> dict[str, int]:
    """Count the problems by code, for metrics. A rule without problems gets 0, so that graphs and alerts work."""
    counts = Counter(problem.code for problem in problems)
    return {rule.code: 0 for rule in rules} | dict(counts)
