"""Whether the config file and the keys still say what a running process goes by.

A look costs a few stat(2) calls; the file is read again only when one of them changed. A file that
cannot be used is remembered with its mistake, which would otherwise be found at the next restart.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from meshfs import limits
from meshfs.cluster.config import Config, Node, load
from meshfs.cluster.config_changes import Changes
from meshfs.cluster.keys import Keyring
from meshfs.errors import ConfigError, TookTooLong
from meshfs.loop.bounded import Bounded
from meshfs.telemetry.documents import ConfigState

logger = logging.getLogger(__name__)

#: Names, sizes and times of all files that matter.
Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A config with all key files read: ``prints`` and ``missing`` are what `Keyring` says by these names."""

    config: Config
    node: Node
    keyring: Keyring
    prints: Mapping[str, str]
    missing: Mapping[str, str]


def read(path: Path, name: str | None) -> Loaded:
    """What a process of that node, or of the one this host is, needs of its config. Blocks; raises ConfigError."""
    config = load(path)
    node = config.own_node(name)
    keyring = Keyring(config, node.name)
    return Loaded(config, node, keyring, keyring.prints(), keyring.missing())


class ConfigWatch:
    """``compare`` says what a config that was read differs in from what is in force."""

    def __init__(self, path: Path, node: str, compare: Callable[[Loaded], Changes]) -> None:
        self._path = path
        self._node = node
        self._compare = compare
        self._keys = path.parent
        self._files = Bounded(f"the config {path}")
        self._seen: Signature | None = None
        self._error = ""
        self._changes = Changes()

    def state(self) -> ConfigState:
        """Return what status documents have under "config_state"."""
        changes = self._changes
        return {"error": self._error, "reload": list(changes.reload), "restart": list(changes.restart)}

    async def run(self) -> None:
        """Look at the files from time to time, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:
                # A fault of ours in looking must not end the I/O of a node.
                logger.exception("cannot compare the config file with what is in force")
            await trio.sleep(limits.PROBLEMS_LOOK_S)

    async def look(self, *, again: bool = False) -> None:
        """``again``: what is in force changed, so compare even if the files did not."""
        try:
            seen = await self._files.call(self._sign, timeout_s=limits.CONFIG_READ_TIMEOUT_S)
            if seen == self._seen and not again:
                return
            loaded = await self._files.call(read, self._path, self._node, timeout_s=limits.CONFIG_READ_TIMEOUT_S)
        except TookTooLong as error:
            # Whatever comes of it later is looked at anew.
            self._seen, self._error, self._changes = None, f"{self._path}: {error}", Changes()
            return
        except ConfigError as error:
            self._error, self._changes = str(error), Changes()
        else:
            self._error, self._changes = "", self._compare(loaded)
            self._keys = loaded.config.cluster.keys
        self._seen = seen

    def _sign(self) -> Signature:
        found = [self._path]
        # Where the folder of the keys is missing, reading them says so better.
        with suppress(OSError):
            found += sorted(path for path in self._keys.iterdir() if path.suffix in (".pub", ".key"))
        return tuple(_stat(path) for path in found)


def _stat(path: Path) -> tuple[str, int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return str(path), 0, 0, 0
    return str(path), status.st_ino, status.st_size, status.st_mtime_ns
