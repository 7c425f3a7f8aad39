"""Select the part of a mount's status document that a user may see. Pure.

Root and the user of the mount's process see everything. All other users see whether all is well: the disks, the
enclosures, the paths to their exporters, and the problems. They do not see what others read, write and wait for.
"""

from collections.abc import Mapping
from typing import Final

from meshfs.telemetry.documents import MountStatus

_WHOLE: Final = (
    *("version", "program", "mountpoint", "config", "node", "pid", "uptime_s", "io_timeout_s", "security"),
    *(
        "addresses",
        "refused",
        "refused_enclosures",
        "slot_problems",
        "enclosures",
        "config_state",
        "config_digest",
        "problems",
    ),
)
_EXPORTER: Final = (
    *("node", "state", "why", "since_s", "retry_in_s", "away_s", "failing_fast", "hung_disks", "addresses"),
    *("failures", "config_digest"),
)
_PATH: Final = (
    *("transport", "interface", "local", "remote", "local_address", "remote_address", "number", "speed_bits_s"),
    *("rdma", "state", "selected", "why", "retry_in_s", "failures", "losses", "bad_signatures"),
    *("dialect", "signing", "cipher"),
)
#: Other users see all fields of a disk except these.
_DISK_HIDDEN: Final = ("io", "opens")


def for_others(document: MountStatus) -> dict[str, object]:
    """Return the document without the fields that reveal somebody's I/O."""
    return {
        **_only(document, _WHOLE),
        "whole": False,
        "exporters": [
            {**_only(exporter, _EXPORTER), "channels": [_only(path, _PATH) for path in exporter["channels"]]}
            for exporter in document["exporters"]
        ],
        "disks": [
            {name: value for name, value in disk.items() if name not in _DISK_HIDDEN} for disk in document["disks"]
        ],
    }


def _only(document: Mapping[str, object], names: tuple[str, ...]) -> dict[str, object]:
    return {name: document[name] for name in names if name in document}
