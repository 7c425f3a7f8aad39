"""Find the settings that differ between the config in force and the config file, and those that need a restart. Pure.

Each program has a view of a config: the values that it uses, under the names that an administrator knows. Two views are
compared name by name.

    view["", "io_timeout_s"]          a setting of the whole cluster
    view["n2", "addresses"]           a setting of one node
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

from meshfs.cluster.config import Config
from meshfs.cluster.config_nodes import NodeConfig
from meshfs.model import Discipline

#: The value of each setting, by (node or "", name).
View = Mapping[tuple[str, str], object]
Name = tuple[str, str]

_THERE = "(there)"


@dataclass(frozen=True, slots=True)
class Changes:
    """Holds lines for people: the settings that a reload would put in force, and the settings that need a restart."""

    reload: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.reload or self.restart)


def compare(old: View, new: View, restart: Set[Name]) -> Changes:
    """Return the differences of two views. ``restart`` has the names of settings that only a restart puts in force."""
    now: list[str] = []
    later: list[str] = []
    for node in dict.fromkeys(name[0] for name in (*old, *new)):
        before, after = _of_node(old, node), _of_node(new, node)
        if node and not (before and after):
            now.append(f"node {node} is {'new' if after else 'removed'}")
            continue
        for what in dict.fromkeys((*before, *after)):
            if before.get(what) != after.get(what):
                line = f"{what} of node {node}" if node else what
                (later if (node, what) in restart else now).append(line)
    return Changes(tuple(now), tuple(later))


def _of_node(view: View, node: str) -> dict[str, object]:
    return {what: value for (owner, what), value in view.items() if owner == node}


def mount_view(config: Config, node: str, keys: Mapping[str, str]) -> View:
    """Return the settings that a mount of ``node`` uses. ``keys`` are the public keys by node (`Keyring.prints`)."""
    own = config.node(node)
    view: dict[Name, object] = {**_cluster(config), ("", "io_timeout_s"): config.cluster.io_timeout_s}
    view["", "channels"], view["", "dead_after_s"] = config.multichannel.channels, config.multichannel.dead_after_s
    for each in config.nodes:
        view[each.name, _THERE] = True
        view[each.name, "whether it has disks"] = each.may_have_disks
        view[each.name, "key"] = keys.get(each.name, "")
        if each is own:
            view[each.name, "socket"] = each.socket
        if each.may_have_disks or each is own:
            view[each.name, "addresses"] = each.addresses
            view[each.name, "port"] = each.port
    return view


def exporter_view(config: Config, node: str, keys: Mapping[str, str]) -> View:
    """Return the settings that the exporter of ``node`` uses. ``keys`` are the public keys by node."""
    scheduler = replace(config.scheduler, discipline=Discipline.FAIR)
    view: dict[Name, object] = {**_cluster(config), ("", "scheduler"): scheduler}
    view["", "discipline"] = config.scheduler.discipline
    for each in config.nodes:
        view[each.name, _THERE] = True
        view[each.name, "weight"] = each.weight
        view[each.name, "key"] = keys.get(each.name, "")
    own = config.node(node)
    for what in ("addresses", "port", "socket", "metrics", "state", "scratch_size_bytes"):
        view[node, what] = getattr(own, what)
    return view | _disks_and_enclosures(own)


def _cluster(config: Config) -> dict[Name, object]:
    cluster = config.cluster
    return {("", "name of the cluster"): cluster.name, ("", "security"): cluster.security, ("", "keys"): cluster.keys}


def _disks_and_enclosures(node: NodeConfig) -> dict[Name, object]:
    listed: dict[Name, object] = {(node.name, f"disk {disk.name}"): disk for disk in node.disks}
    folders: dict[Name, object] = {(node.name, f"enclosure {each.name}"): each for each in node.directories}
    found: dict[Name, object] = {(node.name, "disks"): node.discovery, (node.name, "enclosures"): node.enclosures}
    return {**listed, **folders, **found}
