"""The searches of the rules in problems.py: each takes the record of a status document and yields findings. Pure.

A finding is a pair: the affected part ("disk n1/disk0"), and a text that says what is wrong and what to do. A field
that is missing from a document yields no finding.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from meshfs import limits
from meshfs.telemetry.exporter_records import ExporterRecord
from meshfs.telemetry.mount_records import MountExporterRecord, MountRecord, PathRecord
from meshfs.telemetry.records import DiskRecord, FindingsRecord

Finding = tuple[str, str]
Finder = Callable[[FindingsRecord], Iterator[Finding]]

#: States of a path that should have a channel but has none. A path that the plan keeps in reserve is "idle".
_BROKEN_PATH: Final = ("connecting", "down")
#: The states that have their own rules. Any other state except "ok" is unknown.
DISK_STATES: Final = ("failing", "gone", "missing", "suspended", "drained")


# --- disks, in both documents ---------------------------------------------------------------


def disk_in_state(state: str, advice: str) -> Finder:
    """Find disks in that state. ``advice`` says what the state means and what to do."""

    def find(document: FindingsRecord) -> Iterator[Finding]:
        for disk in _offered_disks(document):
            if disk.state == state:
                yield _disk(document, disk), f"the disk is {state}{_because(disk.why)}; {advice}"

    return find


def disk_in_unknown_state(document: FindingsRecord) -> Iterator[Finding]:
    for disk in _offered_disks(document):
        if disk.state not in ("ok", *DISK_STATES):
            yield _disk(document, disk), f"the disk is in the state {disk.state or '(none)'}{_because(disk.why)}"


def disk_errors(document: FindingsRecord) -> Iterator[Finding]:
    counts = document.recent.disk_errors
    for disk in document.disks:
        count = counts.get(disk.counter)
        if count:
            advice = "see the exporter's log and the kernel's (journalctl -k) for the reason"
            yield _disk(document, disk), f"{count} I/O errors within the last minute; {advice}"


def _offered_disks(document: FindingsRecord) -> Iterator[DiskRecord]:
    return (disk for disk in document.disks if disk.is_offered)


def _disk(document: FindingsRecord, disk: DiskRecord) -> str:
    return f"disk {disk.path(document.node)}"


def _because(why: str) -> str:
    return f" ({why})" if why else ""


# --- disks, as a mount or an exporter sees them ---------------------------------------------


def disk_absent(document: MountRecord) -> Iterator[Finding]:
    """Find disks that a mount shows although their exporter no longer offers them.

    If the exporter is away, only the rule for exporters reports it. Otherwise there would be a problem for each disk.
    """
    away = {exporter.node for exporter in document.exporters if exporter.state != "connected"}
    for disk in document.disks:
        if not disk.present and disk.node not in away:
            yield _disk(document, disk), "the disk is away: no exporter offers it"


def disk_hangs_here(document: MountRecord) -> Iterator[Finding]:
    """Find disks whose answers a mount no longer waits for."""
    for exporter in document.exporters:
        for hung in exporter.hung_disks:
            text = f"it has not answered for {hung.for_s or 0.0:.0f} s, so I/O to it fails at once"
            yield f"disk {exporter.node}/{hung.disk}", f"{text}; look at the device on that node"


def disk_hangs(document: ExporterRecord) -> Iterator[Finding]:
    for disk in document.disks:
        waits_s = disk.oldest_request_s or 0.0
        if waits_s >= limits.PROBLEM_IO_WAIT_S:
            yield _disk(document, disk), f"a request has been waiting for {waits_s:.0f} s; the device may be stuck"


def disk_read_only(document: ExporterRecord) -> Iterator[Finding]:
    for disk in document.disks:
        if disk.access_configured == "rw" and disk.access == "ro":
            advice = 'make the device writable, or set access = "ro" in the config'
            yield _disk(document, disk), f"the config allows writing, but the device is read-only; {advice}"


def disk_refused(document: MountRecord) -> Iterator[Finding]:
    for line in document.refused:
        yield line, "the mount does not show it; give the disk another name in that node's config"


# --- exporters and paths, as a mount sees them ----------------------------------------------


def exporter_away(document: MountRecord) -> Iterator[Finding]:
    disks = Counter(disk.node for disk in document.disks)
    for exporter in document.exporters:
        state, away_s = exporter.state or "in an unknown state", exporter.out_of_reach_s
        if state in ("connected", "drained"):
            continue
        since = "" if away_s is None else f" for {away_s:.0f} s"
        waits = len(exporter.waiting)
        use = "I/O to them fails at once" if exporter.failing_fast else f"{waits} calls wait for it"
        reach = f"{disks[exporter.node]} disks are out of reach, {use}"
        text = f"it is {state}{since}{_because(exporter.why)}; {reach}"
        yield f"exporter {exporter.node}", f"{text}; look at meshfsd on that node and at `meshctl paths`"


def exporter_drained(document: MountRecord) -> Iterator[Finding]:
    """Find exporters that were stopped on purpose, after their disks were drained."""
    disks = Counter(disk.node for disk in document.disks)
    for exporter in document.exporters:
        if exporter.state == "drained":
            since = "" if exporter.out_of_reach_s is None else f" for {exporter.out_of_reach_s:.0f} s"
            use = "I/O to them fails at once" if exporter.failing_fast else f"{len(exporter.waiting)} calls wait for it"
            text = f"it was drained, and has been stopped{since}; {disks[exporter.node]} disks are out of reach, {use}"
            yield f"exporter {exporter.node}", f"{text}; start meshfsd on that node when its work there is done"


def io_waits(document: MountRecord) -> Iterator[Finding]:
    """Find exporters that are connected but leave I/O unanswered for long."""
    for exporter in document.exporters:
        longest_s = max((call.for_s or 0.0 for call in exporter.waiting), default=0.0)
        if exporter.state == "connected" and longest_s >= limits.PROBLEM_IO_WAIT_S:
            advice = "look at its disks with `meshctl status` on that node"
            yield f"exporter {exporter.node}", f"I/O has been waiting for {longest_s:.0f} s; {advice}"


def path_down(document: MountRecord) -> Iterator[Finding]:
    """Find paths without a channel to exporters that are connected by another path."""
    for exporter, path in _paths(document):
        if path.state in _BROKEN_PATH:
            yield _path(exporter, path), f"it is {path.state}{_because(path.why)}"


def path_unsteady(document: MountRecord) -> Iterator[Finding]:
    """Find paths that work now but were lost several times within the last minute."""
    counts = document.recent.path_losses
    for exporter, path in _paths(document):
        count = _count(counts, exporter, path)
        if count >= limits.PROBLEM_PATH_LOSSES and path.state not in _BROKEN_PATH:
            advice = "look at the link's error counters (ip -s link) and its cable"
            yield _path(exporter, path), f"it was lost {count} times within the last minute; {advice}"


def path_forged(document: MountRecord) -> Iterator[Finding]:
    """Find paths on which messages are changed.

    A bad cable seldom causes this, because TCP's checksum detects all but one error in 65,536.
    """
    counts = document.recent.path_forgeries
    for exporter, path in _paths(document):
        count = _count(counts, exporter, path)
        if count >= limits.PROBLEM_FORGERIES:
            text = f"{count} replies with a wrong signature, or a second time, came in within the last minute"
            advice = "something between the nodes changes data, or somebody is in between; the requests were repeated"
            yield _path(exporter, path), f"{text}; {advice}"


def path_single(document: MountRecord) -> Iterator[Finding]:
    """Find exporters with only one usable path, although several addresses are configured at both ends.

    If other paths are down, `path_down` reports them. The node's own exporter always has one path, its Unix socket.
    """
    own = document.addresses or 0
    for exporter in document.exporters:
        wanted = min(own, exporter.addresses or 0)
        states = {
            (path.local_address, path.remote_address): path.state
            for path in exporter.channels
            if path.transport != "unix"
        }
        usable = sum(state in ("connected", "idle") for state in states.values())
        if exporter.state == "connected" and wanted > 1 and usable == 1 and len(states) == 1:
            text = f"one path is left where the config has {wanted} addresses at each end; look at `ip address`"
            yield f"exporter {exporter.node}", text


def path_key(exporter: MountExporterRecord, path: PathRecord) -> str:
    """Return the path's key in "recent", which stays the same when the path is lost and connected again."""
    ends = (path.interface, path.local_address, path.remote_address)
    return " ".join([exporter.node, *ends, str(path.path_number or 0)])


def _count(counts: Mapping[str, int], exporter: MountExporterRecord, path: PathRecord) -> int:
    return counts.get(path_key(exporter, path), 0)


def _paths(document: MountRecord) -> Iterator[tuple[MountExporterRecord, PathRecord]]:
    for exporter in document.exporters:
        if exporter.state == "connected":
            for path in exporter.channels:
                yield exporter, path


def _path(exporter: MountExporterRecord, path: PathRecord) -> str:
    return f"path to {path.remote} of exporter {exporter.node}"


# --- the process, its config and its keys ---------------------------------------------------


def config_broken(document: FindingsRecord) -> Iterator[Finding]:
    error = document.config_state.error
    if error:
        text = f"{error}; the process keeps the config that it read before: correct the file, then reload"
        yield _config(document), text


def config_unloaded(document: FindingsRecord) -> Iterator[Finding]:
    changes = document.config_state.reload
    if changes:
        yield _config(document), f"the file differs from the config in force ({'; '.join(changes)}): reload to apply it"


def config_needs_restart(document: FindingsRecord) -> Iterator[Finding]:
    changes = document.config_state.restart
    if changes:
        yield _config(document), f"these changes need a restart to be in force: {'; '.join(changes)}"


def config_differs(document: MountRecord) -> Iterator[Finding]:
    """Find exporters with another config than the mount. An exporter without disks has no digest and is left out."""
    own = document.config_digest
    for exporter in document.exporters:
        its = exporter.config_digest
        if exporter.state == "connected" and own and its and its != own:
            text = "it has another config in force than this mount: copy the same file to both nodes, and reload both"
            yield f"exporter {exporter.node}", text


def key_missing(document: ExporterRecord) -> Iterator[Finding]:
    for key in document.keys_missing:
        yield f"node {key.node}", f"it cannot log in: {key.why}"


def log_unwritable(document: MountRecord) -> Iterator[Finding]:
    log = document.log
    if log.error:
        yield f"log {log.path}", f"it cannot be written: {log.error}"


def state_unwritable(document: ExporterRecord) -> Iterator[Finding]:
    state = document.state_folder
    if state.error:
        yield f"folder {state.path}", f"no state can be saved there: {state.error}"


def descriptors_short(document: FindingsRecord) -> Iterator[Finding]:
    used, most = document.descriptors.used, document.descriptors.limit
    if used is not None and most is not None and used > most * limits.PROBLEM_LIMIT_SHARE:
        yield document.process, f"{used} of {most} file descriptors are in use; raise LimitNOFILE= (ulimit -n)"


def security_none(document: FindingsRecord) -> Iterator[Finding]:
    if document.security == "none":
        yield "config", 'security = "none": anybody with access to the network can change the data read and written'


def counted(what: str, advice: str, least: int, *names: str) -> Finder:
    """Find a process whose named counters grew together by ``least`` or more within the last minute."""

    def find(document: FindingsRecord) -> Iterator[Finding]:
        counts = document.recent.counters
        total = sum(counts.get(name, 0) for name in names)
        if total >= least:
            yield document.process, f"{total} {what} within the last minute; {advice}"

    return find


def _config(document: FindingsRecord) -> str:
    return f"config of {document.process}"


# --- only in an exporter's document ---------------------------------------------------------


def address_missing(document: ExporterRecord) -> Iterator[Finding]:
    for address in document.addresses_missing:
        yield (
            f"address {address}",
            "no interface of this machine has this address, so no node can reach the exporter there",
        )


def limit_near(document: ExporterRecord) -> Iterator[Finding]:
    """Find resources of peers whose number is near its limit."""
    used: dict[str, tuple[int, int]] = {}
    for node in document.nodes:
        if node.connections_max is not None:
            used[f"connections of node {node.node}"] = node.connections or 0, node.connections_max
        if node.sessions_max is not None:
            used[f"sessions of node {node.node}"] = node.sessions or 0, node.sessions_max
        for held in node.holds:
            used[f"{held.what} of node {node.node}"] = held.used or 0, held.most or 0
    for session in document.sessions:
        opens = f"opens of node {session.node} in one session"
        used[opens] = max(used.get(opens, (0, 0)), (session.opens or 0, limits.OPENS_PER_SESSION_MAX))
    for what, (count, most) in used.items():
        if count > most * limits.PROBLEM_LIMIT_SHARE:
            yield what, f"{count} of at most {most} are in use; more of them will be refused"
