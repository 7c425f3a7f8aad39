"""Change the config and the options of a running mount, on SIGHUP, `mount -o remount` or `meshctl reload`.

    read the config and keys again -> find the differences -> change what can change, all at once
                                                           -> name what cannot change

If the config, a key file or an option is invalid, nothing changes. I/O in flight continues, because a session and its
channels stay as long as the exporter is in the config.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from meshfs import limits
from meshfs.cluster.config import Config
from meshfs.cluster.config_watch import read
from meshfs.cluster.keys import Keyring
from meshfs.errors import ConfigError, TookTooLong
from meshfs.loop.bounded import Bounded, bounded
from meshfs.mount.log import MountLog
from meshfs.mount.mount import Mount
from meshfs.mount.options import MountOptions, UsageError, take_options
from meshfs.mount.settings import Settings
from meshfs.program.control import RefusedError, Request
from meshfs.telemetry.documents import ReloadOutcome
from meshfs.telemetry.metrics_place import MetricsPlace

logger = logging.getLogger(__name__)

_OPTIONS = (
    *(("io_class", "class"), ("page_cache", "cache"), ("io_timeout_s", "io_timeout"), ("log_path", "log")),
    *(("debug", "debug"), ("metrics", "metrics")),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Holds the results of a reload, as texts for the administrator.

    ``changed`` names what was changed, ``refused`` says what cannot change. ``failure`` says why nothing was changed.
    """

    changed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    failure: str = ""

    def as_json(self) -> ReloadOutcome:
        return {"changed": list(self.changed), "refused": list(self.refused), "failure": self.failure}


class Reloader:
    """Changes a running mount. One reload runs at a time."""

    def __init__(self, settings: Settings, mount: Mount, mount_log: MountLog, metrics: MetricsPlace) -> None:
        self._settings = settings
        self._mount = mount
        self._log = mount_log
        self._metrics = metrics
        self._files = Bounded(f"the config {settings.config.given}")
        self._lock = trio.Lock()

    async def answer(self, request: Request) -> Mapping[str, object]:
        """Answer the control socket's verb "reload": {"options": ["class=system", ...], "config": path or ""}."""
        own, config = request.get("options", []), request.get("config", "")
        if not (isinstance(own, list) and all(isinstance(each, str) for each in own) and isinstance(config, str)):
            raise RefusedError("expected a list of texts as options, and a text as config")
        return (await self.reload(own, config)).as_json()

    async def reload(self, own: Sequence[str] = (), config: str = "") -> Outcome:
        """Reload the config, and apply ``own``, options as after -o, in addition to the options in force.

        ``config`` is the path that the caller named as the config of the mount, or "".
        """
        async with self._lock:
            self._log.reopen()
            outcome = await self._reload(own, config)
            if outcome.failure:
                logger.error("not reloaded, everything stays as it was: %s", outcome.failure)
            else:
                logger.info("reloaded %s: %s", self._settings.config.given, "; ".join(outcome.changed) or "nothing new")
            for line in outcome.refused:
                logger.warning("reload: %s", line)
            await self._mount.look()
        return outcome

    async def _reload(self, own: Sequence[str], config: str) -> Outcome:
        old = self._settings
        try:
            options = take_options(old.options, own)
            bound_s = limits.CONFIG_READ_TIMEOUT_S
            loaded = await self._files.call(read, old.config.given, old.node, timeout_s=bound_s)
            kept = _with_fixed(loaded.config, old.config)
            keyring = await self._files.call(Keyring, kept, old.node, timeout_s=bound_s)
        except (ConfigError, UsageError) as error:
            return Outcome(failure=str(error))
        except TookTooLong as error:
            return Outcome(failure=f"{old.config.given}: {error}")
        same = not config or await _is_config(config, old.config)
        changes = self._mount.in_force.changes(loaded)
        refused = [
            f"{line} cannot change while the mesh is mounted: umount it and mount it again" for line in changes.restart
        ]
        if not same:
            refused.append(f"{config} is not the config of this mount, which is {old.config.given}")
        options = self._take_places(old, options, refused)
        changed = (*changes.reload, *_differences(old.options, options))
        self._settings = replace(old, config=kept, keyring=keyring, options=options)
        self._mount.reload(self._settings, loaded)
        return Outcome(changed, tuple(refused))

    def _take_places(self, old: Settings, options: MountOptions, refused: list[str]) -> MountOptions:
        """Move the log and the metrics to their new places, and return the options that are then in force.

        Add a line to ``refused`` for each option that cannot change.
        """
        if options.node not in (old.options.node, old.node):
            refused.append(f"node={options.node} cannot change while the mesh is mounted; this is {old.node}'s mount")
        options = replace(options, node=old.options.node, kernel=old.options.kernel, wait=old.options.wait)
        try:
            self._log.move_to(options.log_path)
        except OSError as error:
            refused.append(f"log={options.log_path}: {error.strerror}")
            options = replace(options, log_path=old.options.log_path)
        self._log.set_debug(options.debug)
        try:
            self._metrics.move_to(options.metrics)
        except ConfigError as error:
            refused.append(str(error))
            options = replace(options, metrics=old.options.metrics)
        return options


def _with_fixed(new: Config, old: Config) -> Config:
    """Return the new config, but keep the old values of the settings that cannot change before the umount."""
    cluster = replace(new.cluster, name=old.cluster.name, security=old.cluster.security)
    return replace(new, cluster=cluster)


async def _is_config(path: str, config: Config) -> bool:
    """Return whether the path leads to the config. If the file system of the path does not answer, return False."""
    try:
        return await bounded(f"the path {path}", _same_file, path, config, timeout_s=limits.CONFIG_READ_TIMEOUT_S)
    except TookTooLong:
        return False


def _same_file(path: str, config: Config) -> bool:
    # A symlink that leads to itself raises a RuntimeError.
    with suppress(OSError, RuntimeError):
        return Path(path).resolve() == config.path or Path(path).absolute() == config.given
    return False


def _differences(old: MountOptions, new: MountOptions) -> list[str]:
    return [f"option {name}" for attribute, name in _OPTIONS if getattr(old, attribute) != getattr(new, attribute)]
