"""Watch whether the config file and the key files still agree with the config that a running process has in force.

A look costs a few stat(2) calls. The files are read again only when one has changed. If the config cannot be used, its
mistake is shown in the status. Otherwise the mistake would be found only at the next restart.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from meshfs import limits
from meshfs.cluster.config import Config, load
from meshfs.cluster.config_changes import Changes
from meshfs.cluster.config_nodes import NodeConfig
from meshfs.cluster.keys import Keyring
from meshfs.errors import ConfigError, TookTooLong
from meshfs.loop.bounded import Bounded
from meshfs.telemetry.documents import ConfigState

logger = logging.getLogger(__name__)

#: Has (path, inode, size, modification time) of the config file and of each key file.
Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """Holds a config and all its keys. ``prints`` and ``missing`` are the results of `Keyring`'s methods."""

    config: Config
    node: NodeConfig
    keyring: Keyring
    prints: Mapping[str, str]
    missing: Mapping[str, str]


def read(path: Path, name: str | None) -> LoadedConfig:
    """Read the config and keys for a process of the named node, or of this host's node. Blocks. Raises ConfigError."""
    config = load(path)
    node = config.own_node(name)
    keyring = Keyring(config, node.name)
    return LoadedConfig(config, node, keyring, keyring.prints(), keyring.missing())


class ConfigWatch:
    """Watches the files. ``compare`` returns the differences between a config that was read and the one in force."""

    def __init__(self, path: Path, node: str, compare: Callable[[LoadedConfig], Changes]) -> None:
        self._path = path
        self._node = node
        self._compare = compare
        self._keys = path.parent
        self._files = Bounded(f"the config {path}")
        self._seen: Signature | None = None
        self._error = ""
        self._changes = Changes()

    def state(self) -> ConfigState:
        """Return the value of "config_state" in status documents."""
        changes = self._changes
        return {"error": self._error, "reload": list(changes.reload), "restart": list(changes.restart)}

    async def run(self) -> None:
        """Look at the files every PROBLEMS_LOOK_S, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:
                # A bug in the comparison must not end the I/O of a node.
                logger.exception("cannot compare the config file with what is in force")
            await trio.sleep(limits.PROBLEMS_LOOK_S)

    async def look(self, *, again: bool = False) -> None:
        """Compare the files with the config in force, if they have changed since the last look.

        With ``again``, compare in any case, because the config in force has changed.
        """
        try:
            seen = await self._files.call(self._sign, timeout_s=limits.CONFIG_READ_TIMEOUT_S)
            if seen == self._seen and not again:
                return
            loaded = await self._files.call(read, self._path, self._node, timeout_s=limits.CONFIG_READ_TIMEOUT_S)
        except TookTooLong as error:
            # Forget the signature, so that the next look reads the files again.
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
        # If the folder of the keys is missing, reading the keys gives a better error.
        with suppress(OSError):
            found += sorted(path for path in self._keys.iterdir() if path.suffix in (".pub", ".key"))
        return tuple(_stat(path) for path in found)


def _stat(path: Path) -> tuple[str, int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return str(path), 0, 0, 0
    return str(path), status.st_ino, status.st_size, status.st_mtime_ns
