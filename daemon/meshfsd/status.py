"""Make the facts of an exporter's status document."""

from collections.abc import Sequence
from pathlib import Path

from meshfs import bugs
from meshfs.cluster.config_nodes import NodeConfig
from meshfs.disk.discovery.selection import DiskVerdict
from meshfs.enclosure_info import EnclosureInfo
from meshfs.endpoint import format_endpoint
from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.session import Session
from meshfs.model import Security
from meshfs.telemetry.documents import STATUS_VERSION
from meshfs.telemetry.exporter_documents import (
    DiskStatus,
    ExporterEnclosure,
    ExporterFacts,
    MachineDisk,
    NodeUsageDocument,
    ProcessorTime,
    SessionStatus,
)
from meshfs.telemetry.process_facts import process_facts
from meshfsd.disks import Disks
from meshfsd.folders import Folders
from meshfsd.served import ServedDisk


def make_status(
    node: NodeConfig,
    security: Security,
    exporter: Exporter,
    disks: Disks,
    machine: Sequence[DiskVerdict],
    folders: Folders,
    uptime_s: float,
    missing: list[str],
) -> ExporterFacts:
    """Return the facts.

    ``machine`` is the last result of the discovery. ``folders`` has the node's images. ``missing`` are the node's
    addresses that no interface of this machine has.
    """
    return {
        "version": STATUS_VERSION,
        "node": node.name,
        **process_facts(),
        "uptime_s": round(uptime_s, 3),
        "listening": [*(format_endpoint(address, node.port) for address in node.addresses), str(node.socket)],
        "addresses_missing": missing,
        "security": security.value,
        "state_folder": {"path": str(disks.calibration.folder), "error": disks.calibration.error},
        "machine_disks": [*map(_machine_disk, machine), *_images(folders)],
        "connections": len(exporter.peers),
        "sessions": [_session(session) for session in exporter.sessions.values() if session.serving],
        "nodes": _nodes(exporter),
        "memory": {"used_bytes": exporter.pool.used_bytes, "max_bytes": exporter.memory.max_bytes},
        "processor": _processor(exporter),
        "disks": [_disk(disks.served[name]) for name in sorted(disks.served)],
        "enclosures": [_enclosure(offered.info) for offered in exporter.enclosures.all()],
        "counters": dict(sorted(_counters(exporter).items())),
    }


def _machine_disk(verdict: DiskVerdict) -> MachineDisk:
    device = verdict.device
    return {
        "path": str(device.path),
        "id": device.id,
        "size_bytes": device.size_bytes,
        "bus": device.bus,
        "model": device.model,
        "serial": device.serial,
        "offered": verdict.is_offered,
        "why": verdict.why,
    }


def _image(path: Path, image_id: str, size_bytes: int, why: str = "") -> MachineDisk:
    return {
        "path": str(path),
        "id": image_id,
        "size_bytes": size_bytes,
        "bus": "file",
        "model": "",
        "serial": "",
        "offered": not why,
        "why": why,
    }


def _images(folders: Folders) -> list[MachineDisk]:
    """Return the images in the folders of the node, also those that are not offered."""
    offered = [_image(disk.config.path, disk.config.id, disk.size_bytes) for disk in folders.disks]
    refused = [_image(image.path, image.id, image.size_bytes, image.why) for image in folders.refused]
    return sorted([*offered, *refused], key=lambda image: image["path"])


def _enclosure(info: EnclosureInfo) -> ExporterEnclosure:
    return {
        "name": info.name,
        "id": info.id,
        "kind": info.kind.value,
        "state": info.state.value,
        "why": info.why,
        "access": info.access.value,
        "slots": len(info.slots),
        "disks": sum(bool(slot.disk) for slot in info.slots),
    }


def _nodes(exporter: Exporter) -> list[NodeUsageDocument]:
    """Return the use and the limits of each node that has logged in since the start."""
    usage = exporter.usage
    return [
        {
            "node": node.name,
            "connections": node.connections,
            "connections_max": usage.connections_max,
            "sessions": node.sessions,
            "sessions_max": usage.sessions_max,
            "memory_bytes": node.memory.used_bytes,
            "holds": [
                {"what": str(resource), "used": used, "max": most} for resource, used, most in node.holdings.report()
            ],
        }
        for node in usage.all()
    ]


def _processor(exporter: Exporter) -> list[ProcessorTime]:
    """Return the time of the exporter's thread by node and class.

    Before a login the name is "logins from" an address, if the config has the address, and empty for strangers.
    """
    return [
        {"node": flow.key.node, "class": str(flow.key.io_class), "used_s": round(flow.used_s, 6), "turns": flow.turns}
        for flow in exporter.processor.turns.flows()
    ]


def _counters(exporter: Exporter) -> dict[str, int]:
    """Return the exporter's counters. Its internal errors include those that no connection caused."""
    counters = dict(exporter.counters)
    if faults := bugs.count():
        counters["internal_errors"] = counters.get("internal_errors", 0) + faults
    return counters


def _session(session: Session) -> SessionStatus:
    negotiated = session.peer.connection.negotiated
    signs = session.signing_required and not session.encrypt
    return {
        "node": session.user,
        "remote": session.peer.remote,
        "dialect": negotiated.dialect.text if negotiated.dialect is not None else "",
        "signing": negotiated.signing_algorithm.text if signs else "none",
        "cipher": negotiated.cipher.text if session.encrypt else "none",
        "opens": len(session.opens),
        "channels": len(session.channels),
    }


def _disk(served: ServedDisk) -> DiskStatus:
    info, counts = served.offered.info, served.runner.status()
    return {
        "name": info.name,
        "path": served.offered.path,
        "size_bytes": info.size_bytes,
        "access": info.access.value,
        "access_configured": served.config.access.value,
        "cache": info.cache,
        "engine": "" if served.disk is None else served.disk.engine.name,
        "state": info.state,
        "why": info.why,
        "discipline": served.queue.discipline,
        "depth": served.queue.depth,
        "queued": counts.queued,
        "in_flight": counts.in_flight,
        "oldest_request_s": served.runner.oldest_s(),
        "reads": counts.reads,
        "writes": counts.writes,
        "flushes": counts.flushes,
        "zeroes": counts.zeroes,
        "discards": counts.discards,
        "read_bytes": counts.read_bytes,
        "written_bytes": counts.written_bytes,
        "zeroed_bytes": counts.zeroed_bytes,
        "discarded_bytes": counts.discarded_bytes,
        "errors": counts.errors,
    }
