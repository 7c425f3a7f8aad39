"""The settings of a mount, and the checks that are made before anything is started."""

import errno
import os
from dataclasses import dataclass, replace
from pathlib import Path

from meshfs.cluster import config as cluster_config
from meshfs.cluster.config import Config
from meshfs.cluster.keys import Keyring
from meshfs.errors import MountFailed
from meshfs.fuse.mountpoint import refuse_second_mount
from meshfs.mount.awaited import expanded
from meshfs.mount.options import MountOptions


@dataclass(frozen=True, slots=True)
class Settings:
    """Holds the checked settings of a mount."""

    config: Config
    node: str
    keyring: Keyring
    mountpoint: str
    options: MountOptions
    #: The disks of ``-o wait=``, by id or NODE/NAME.
    awaited: tuple[str, ...] = ()

    @property
    def io_timeout_s(self) -> float:
        chosen = self.options.io_timeout_s
        return self.config.cluster.io_timeout_s if chosen is None else chosen


def prepare(options: MountOptions) -> Settings:
    """Check everything that can be checked before the start. Raises ConfigError and MountFailed."""
    config = cluster_config.load(options.config)
    node = config.own_node(options.node).name
    options = with_absolute_log(options)
    mountpoint = _mountpoint(options.mountpoint)
    if not options.fake:
        refuse_second_mount(mountpoint)
    awaited = expanded(options.wait, config, node)
    return Settings(config, node, Keyring(config, node), mountpoint, options, awaited)


def with_absolute_log(options: MountOptions) -> MountOptions:
    """Make the log's path absolute, because the process that serves has another current directory."""
    if options.log_path is None:
        return options
    path = os.path.abspath(options.log_path)
    return replace(options, log_path=path, own=(*options.own, f"log={path}"))


def _mountpoint(text: str) -> str:
    """Return the path of the mount point without symlinks, as the kernel will list it. Raises MountFailed."""
    try:
        path = Path(text).resolve(strict=True)
        is_directory = path.is_dir()
        # The kernel may answer stat(2) from its memory even if the mount's process has died, but not statvfs.
        os.statvfs(path)
    except OSError as error:
        dead = "; the process of the mount there has died: umount it first"
        raise MountFailed(f"{text}: {error.strerror}{dead if error.errno == errno.ENOTCONN else ''}") from error
    if not is_directory:
        raise MountFailed(f"{text} is not a directory")
    return str(path)
