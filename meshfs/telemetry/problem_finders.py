"""The searches of the rules in problems.py: each takes a status document and yields findings. Pure.

A finding is a pair: the affected part ("disk n1/disk0"), and a text that says what is wrong and what to do. A field
that is missing from a document yields no finding.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from meshfs import limits
from meshfs.telemetry.fields import Fields

Finding = tuple[str, str]
Finder = Callable[[Fields], Iterator[Finding]]

#: States of a path that should have a channel but has none. A path that the plan keeps in reserve is "idle".
_BROKEN_PATH: Final = ("connecting", "down")
#: The states that have their own rules. Any other state except "ok" is unknown.
DISK_STATES: Final = ("failing", "gone", "missing", "suspended")


# --- disks, in both documents ---------------------------------------------------------------


def disk_in_state(state: str, advice: str) -> Finder:
    """Find disks in that state. ``advice`` says what the state means and what to do."""

    def find(document: Fields) -> Iterator[Finding]:
        for disk in _present_disks(document):
            if disk.text("state") == state:
                yield _disk(document, disk), f"the disk is {state}{_because(disk)}; {advice}"

    return find


def disk_in_unknown_state(document: Fields) -> Iterator[Finding]:
    for disk in _present_disks(document):
        state = disk.text("state")
        if state not in ("ok", *DISK_STATES):
            yield _disk(document, disk), f"the disk is in the state {state or '(none)'}{_because(disk)}"


def disk_absent(document: Fields) -> Iterator[Finding]:
    """Find disks that a mount shows although their exporter no longer offers them.

    If the exporter is away, only the rule for exporters reports it. Otherwise there would be a problem for each disk.
    """
    away = {exporter.text("node") for exporter in document.items("exporters") if exporter.text("state") != "connected"}
    for disk in document.items("disks"):
        if not disk.flag("present") and disk.text("node") not in away:
            yield _disk(document, disk), "the disk is away: no exporter offers it"


def disk_errors(document: Fields) -> Iterator[Finding]:
    counts = document.object("recent").object("disk_errors")
    for disk in document.items("disks"):
        count = counts.integer(disk.text("id") or disk.text("name"))
        if count:
            advice = "see the exporter's log and the kernel's (journalctl -k) for the reason"
            yield _disk(document, disk), f"{count} I/O errors within the last minute; {advice}"


def disk_read_only(document: Fields) -> Iterator[Finding]:
    for disk in document.items("disks"):
        if disk.text("access_configured") == "rw" and disk.text("access") == "ro":
            advice = 'make the device writable, or set access = "ro" in the config'
            yield (
                _disk(document, disk),
                f"the config allows writing, but the device is read-only; {advice}",
            )


def disk_hangs_here(document: Fields) -> Iterator[Finding]:
    """Find disks whose answers a mount no longer waits for."""
    for exporter in document.items("exporters"):
        for item in exporter.items("hung_disks"):
            text = f"it has not answered for {item.number('for_s') or 0.0:.0f} s, so I/O to it fails at once"
            yield f"disk {exporter.text('node')}/{item.text('disk')}", f"{text}; look at the device on that node"


def disk_hangs(document: Fields) -> Iterator[Finding]:
    for disk in document.items("disks"):
        waits_s = disk.number("oldest_request_s") or 0.0
        if waits_s >= limits.PROBLEM_IO_WAIT_S:
            yield _disk(document, disk), f"a request has been waiting for {waits_s:.0f} s; the device may be stuck"


def _present_disks(document: Fields) -> Iterator[Fields]:
    """Yield the disks that are present. In an exporter's document, all disks count as present."""
    for disk in document.items("disks"):
        if disk.raw.get("present", True) is True:
            yield disk


def _disk(document: Fields, disk: Fields) -> str:
    """Return the disk's name, which is equal in the documents of a mount and of the disk's exporter."""
    return f"disk {disk.text('node') or document.text('node')}/{disk.text('name') or disk.text('id')}"


def _because(fields: Fields) -> str:
    why = fields.text("why")
    return f" ({why})" if why else ""


# --- exporters and paths, as a mount sees them ----------------------------------------------


def exporter_away(document: Fields) -> Iterator[Finding]:
    disks = Counter(disk.text("node") for disk in document.items("disks"))
    for exporter in document.items("exporters"):
        state, node = exporter.text("state") or "in an unknown state", exporter.text("node")
        if state == "connected":
            continue
        since_s = exporter.number("away_s") if "away_s" in exporter.names() else exporter.number("since_s")
        since = "" if since_s is None else f" for {since_s:.0f} s"
        waits = sum(1 for _ in exporter.items("waiting"))
        use = "I/O to them fails at once" if exporter.flag("failing_fast") else f"{waits} calls wait for it"
        text = f"it is {state}{since}{_because(exporter)}; {disks[node]} disks are out of reach, {use}"
        yield f"exporter {node}", f"{text}; look at meshfsd on that node and at `meshctl paths`"


def io_waits(document: Fields) -> Iterator[Finding]:
    """Find exporters that are connected but leave I/O unanswered for long."""
    for exporter in document.items("exporters"):
        waiting = [item.number("for_s") or 0.0 for item in exporter.items("waiting")]
        longest_s = max(waiting, default=0.0)
        if exporter.text("state") == "connected" and longest_s >= limits.PROBLEM_IO_WAIT_S:
            advice = "look at its disks with `meshctl status` on that node"
            yield f"exporter {exporter.text('node')}", f"I/O has been waiting for {longest_s:.0f} s; {advice}"


def path_down(document: Fields) -> Iterator[Finding]:
    """Find paths without a channel to exporters that are connected by another path."""
    for exporter, path in _paths(document):
        if path.text("state") in _BROKEN_PATH:
            yield _path(exporter, path), f"it is {path.text('state')}{_because(path)}"


def path_unsteady(document: Fields) -> Iterator[Finding]:
    """Find paths that work now but were lost several times within the last minute."""
    counts = document.object("recent").object("path_losses")
    for exporter, path in _paths(document):
        count = counts.integer(path_key(exporter, path)) or 0
        if count >= limits.PROBLEM_PATH_LOSSES and path.text("state") not in _BROKEN_PATH:
            advice = "look at the link's error counters (ip -s link) and its cable"
            yield _path(exporter, path), f"it was lost {count} times within the last minute; {advice}"


def path_forged(document: Fields) -> Iterator[Finding]:
    """Find paths on which messages are changed.

    A bad cable seldom causes this, because TCP's checksum detects all but one error in 65,536.
    """
    counts = document.object("recent").object("path_forgeries")
    for exporter, path in _paths(document):
        count = counts.integer(path_key(exporter, path)) or 0
        if count >= limits.PROBLEM_FORGERIES:
            text = f"{count} replies with a wrong signature, or a second time, came in within the last minute"
            advice = "something between the nodes changes data, or somebody is in between; the requests were repeated"
            yield _path(exporter, path), f"{text}; {advice}"


def path_single(document: Fields) -> Iterator[Finding]:
    """Find exporters with only one usable path, although several addresses are configured at both ends.

    If other paths are down, `path_down` reports them. The node's own exporter always has one path, its Unix socket.
    """
    own = document.integer("addresses") or 0
    for exporter in document.items("exporters"):
        wanted = min(own, exporter.integer("addresses") or 0)
        states = {
            (path.text("local_address"), path.text("remote_address")): path.text("state")
            for path in exporter.items("channels")
            if path.text("transport") != "unix"
        }
        usable = sum(state in ("connected", "idle") for state in states.values())
        if exporter.text("state") == "connected" and wanted > 1 and usable == 1 and len(states) == 1:
            text = f"one path is left where the config has {wanted} addresses at each end; look at `ip address`"
            yield f"exporter {exporter.text('node')}", text


def path_key(exporter: Fields, path: Fields) -> str:
    """Return the path's key in "recent", which stays the same when the path is lost and connected again."""
    names = ("interface", "local_address", "remote_address")
    return " ".join([exporter.text("node"), *(path.text(name) for name in names), str(path.integer("number") or 0)])


def _paths(document: Fields) -> Iterator[tuple[Fields, Fields]]:
    for exporter in document.items("exporters"):
        if exporter.text("state") == "connected":
            for path in exporter.items("channels"):
                yield exporter, path


def _path(exporter: Fields, path: Fields) -> str:
    return f"path to {path.text('remote')} of exporter {exporter.text('node')}"


def disk_refused(document: Fields) -> Iterator[Finding]:
    for line in document.texts("refused"):
        yield line, "the mount does not show it; give the disk another name in that node's config"


# --- the process, its config and its keys ---------------------------------------------------


def config_broken(document: Fields) -> Iterator[Finding]:
    error = document.object("config_state").text("error")
    if error:
        text = f"{error}; the process keeps the config that it read before: correct the file, then reload"
        yield _config(document), text


def config_unloaded(document: Fields) -> Iterator[Finding]:
    changes = document.object("config_state").texts("reload")
    if changes:
        yield _config(document), f"the file differs from the config in force ({'; '.join(changes)}): reload to apply it"


def config_needs_restart(document: Fields) -> Iterator[Finding]:
    changes = document.object("config_state").texts("restart")
    if changes:
        yield _config(document), f"these changes need a restart to be in force: {'; '.join(changes)}"


def config_differs(document: Fields) -> Iterator[Finding]:
    """Find exporters with another config than the mount. An exporter without disks has no digest and is left out."""
    own = document.text("config_digest")
    for exporter in document.items("exporters"):
        its = exporter.text("config_digest")
        if exporter.text("state") == "connected" and own and its and its != own:
            text = "it has another config in force than this mount: copy the same file to both nodes, and reload both"
            yield f"exporter {exporter.text('node')}", text


def key_missing(document: Fields) -> Iterator[Finding]:
    for item in document.items("keys_missing"):
        yield f"node {item.text('node')}", f"it cannot log in: {item.text('why')}"


def log_unwritable(document: Fields) -> Iterator[Finding]:
    log = document.object("log")
    if log.text("error"):
        yield f"log {log.text('path')}", f"it cannot be written: {log.text('error')}"


def state_unwritable(document: Fields) -> Iterator[Finding]:
    state = document.object("state_folder")
    if state.text("error"):
        yield f"folder {state.text('path')}", f"no state can be saved there: {state.text('error')}"


def descriptors_short(document: Fields) -> Iterator[Finding]:
    used, most = document.object("descriptors").integer("used"), document.object("descriptors").integer("limit")
    if used is not None and most is not None and used > most * limits.PROBLEM_LIMIT_SHARE:
        yield _process(document), f"{used} of {most} file descriptors are in use; raise LimitNOFILE= (ulimit -n)"


def security_none(document: Fields) -> Iterator[Finding]:
    if document.text("security") == "none":
        yield "config", 'security = "none": anybody with access to the network can change the data read and written'


def counted(what: str, advice: str, least: int, *names: str) -> Finder:
    """Find a process whose named counters grew together by ``least`` or more within the last minute."""

    def find(document: Fields) -> Iterator[Finding]:
        counts = document.object("recent").object("counters")
        total = sum(counts.integer(name) or 0 for name in names)
        if total >= least:
            yield _process(document), f"{total} {what} within the last minute; {advice}"

    return find


def _process(document: Fields) -> str:
    """Return the document's process. It distinguishes a problem of a mount from the same problem of an exporter."""
    point = document.text("mountpoint")
    return f"mount {point}" if point else f"exporter {document.text('node')}"


def _config(document: Fields) -> str:
    return f"config of {_process(document)}"


# --- only in an exporter's document ---------------------------------------------------------


def address_missing(document: Fields) -> Iterator[Finding]:
    for address in document.texts("addresses_missing"):
        yield (
            f"address {address}",
            "no interface of this machine has this address, so no node can reach the exporter there",
        )


def limit_near(document: Fields) -> Iterator[Finding]:
    """Find resources of peers whose number is near its limit."""
    used: dict[str, tuple[int, int]] = {}
    for node in document.items("nodes"):
        for what in ("connections", "sessions"):
            count, most = node.integer(what) or 0, node.integer(f"{what}_max")
            if most is not None:
                used[f"{what} of node {node.text('node')}"] = count, most
        for held in node.items("holds"):
            name = f"{held.text('what')} of node {node.text('node')}"
            used[name] = held.integer("used") or 0, held.integer("max") or 0
    for session in document.items("sessions"):
        opens = f"opens of node {session.text('node')} in one session"
        used[opens] = max(used.get(opens, (0, 0)), (session.integer("opens") or 0, limits.OPENS_PER_SESSION_MAX))
    for what, (count, most) in used.items():
        if count > most * limits.PROBLEM_LIMIT_SHARE:
            yield what, f"{count} of at most {most} are in use; more of them will be refused"
