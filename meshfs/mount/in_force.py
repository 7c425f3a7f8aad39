"""Compare the config that is in force in a mount with what the config file says now."""

from typing import Final

from meshfs.cluster.config_changes import Changes, Name, View, compare, mount_view
from meshfs.cluster.config_watch import LoadedConfig
from meshfs.mount.settings import Settings

#: Settings of the cluster that cannot change before the umount, because every login depends on them.
UNTIL_REMOUNT: Final[frozenset[Name]] = frozenset((("", "name of the cluster"), ("", "security")))


class InForce:
    """Holds the settings and keys that are in force in a mount."""

    def __init__(self, settings: Settings) -> None:
        self._node = settings.node
        self._view: View = mount_view(settings.config, settings.node, settings.keyring.prints())

    def changes(self, loaded: LoadedConfig) -> Changes:
        """Return the differences between a config that was read and the one in force."""
        return compare(self._view, mount_view(loaded.config, self._node, loaded.prints), UNTIL_REMOUNT)

    def take(self, loaded: LoadedConfig) -> None:
        """Put this config in force, except for the settings that cannot change before the umount."""
        new = mount_view(loaded.config, self._node, loaded.prints)
        self._view = {**new, **{name: self._view[name] for name in UNTIL_REMOUNT}}
