"""Keep the learnt cost models of disks across restarts: one JSON file per disk in the node's state folder.

    STATE/DISK.cost.json    {"disk": identity of the disk, "cost": CostModel.state()}

A kept model only saves some seconds of learning, so no error here is fatal. If a file belongs to another
disk, is invalid or cannot be read, the exporter logs that and learns the costs again.
"""

import errno
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshfs.scheduler.learn.cost import CostModel

logger = logging.getLogger(__name__)

# A valid file has some hundred bytes.
_FILE_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class Learnt:
    """Holds the cost model of a disk. ``identity`` distinguishes the disk from others with the same name."""

    disk: str
    identity: str
    cost: Mapping[str, object]


class Calibration:
    """Keeps the cost models of one node's disks in the state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: The costs that were last saved, by the name of the disk.
        self._kept: dict[str, object] = {}
        #: The reason why the last `save` or `probe` failed. It is empty if that succeeded.
        self.error = ""

    def load(self, disk: str, identity: str) -> CostModel:
        """Return the kept model of the disk, or a new one if there is no valid file of this disk."""
        path = self._path(disk)
        try:
            with path.open("rb") as file:
                kept = json.loads(file.read(_FILE_MAX_BYTES))
            if kept["disk"] != identity:
                logger.info("disk %s: its costs are learnt again, because %s belongs to another disk", disk, path)
                return CostModel()
            return CostModel(kept["cost"])
        except FileNotFoundError:
            return CostModel()
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            logger.warning("disk %s: its costs are learnt again, because %s cannot be used: %s", disk, path, error)
            return CostModel()

    def probe(self) -> None:
        """Make the folder, and set ``error`` if it cannot be written. The first `save` may come much later."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.error = "" if os.access(self.folder, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)
        except OSError as error:
            self.error = error.strerror or str(error)

    def save(self, learnt: Sequence[Learnt]) -> None:
        """Write the models that have changed. This call blocks. A crash leaves either the old or the new file."""
        for each in learnt:
            if self._kept.get(each.disk) != each.cost:
                self._write(each)

    def _write(self, learnt: Learnt) -> None:
        path = self._path(learnt.disk)
        new = path.with_name(path.name + ".new")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with new.open("w") as file:
                json.dump({"disk": learnt.identity, "cost": learnt.cost}, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError as error:
            if not self.error:
                logger.warning("the learnt costs of the disks cannot be saved: %s: %s", new, error.strerror)
            self.error = error.strerror or str(error)
        else:
            self._kept[learnt.disk] = learnt.cost
            self.error = ""

    def _path(self, disk: str) -> Path:
        return self.folder / f"{disk}.cost.json"


def state_folder(configured: Path) -> Path:
    """Return the first state folder made by systemd (StateDirectory=, systemd.exec(5)), or else ``configured``."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(given) if given else configured
