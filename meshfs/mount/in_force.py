"""The config that a mount goes by, held against what the file says now."""

from typing import Final

from meshfs.cluster.config_changes import Changes, Name, View, compare, mount_view
from meshfs.cluster.config_watch import LoadedConfig
from meshfs.mount.settings import Settings

#: Settings of the cluster that hold from the mount to the umount: every login goes by them.
UNTIL_REMOUNT: Final[frozenset[Name]] = frozenset((("", "name of the cluster"), ("", "security")))


class InForce:
    """The settings and keys that concern a mount, as they are in force."""

    def __init__(self, settings: Settings) -> None:
        self._node = settings.node
        self._view: View = mount_view(settings.config, settings.node, settings.keyring.prints())

    def changes(self, loaded: LoadedConfig) -> Changes:
        """Return in what a config that was read differs from what is in force."""
        return compare(self._view, mount_view(loaded.config, self._node, loaded.prints), UNTIL_REMOUNT)

    def take(self, loaded: LoadedConfig) -> None:
        """Put this config in force, except for what holds until the umount."""
        new = mount_view(loaded.config, self._node, loaded.prints)
        self._view = {**new, **{name: self._view[name] for name in UNTIL_REMOUNT}}
