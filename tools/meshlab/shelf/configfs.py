"""Devices of target_core_user, and a SCSI host of tcm_loop to which they are attached, made by configfs."""

from pathlib import Path
from typing import Final

_TARGET: Final = Path("/sys/kernel/config/target")
_BACKSTORES: Final = _TARGET / "core/user_0"
_HOSTS: Final = _TARGET / "loopback"
#: No daemon listens on netlink here, so the kernel must not wait for its answers.
_NO_NETLINK: Final = "nl_reply_supported=-1"
_RING_MIB: Final = 1


class Backstore:
    """Is a device of target_core_user, whose commands a program answers over the ring in ``uio``."""

    def __init__(self, name: str, size_bytes: int) -> None:
        self.place = _BACKSTORES / name
        self.place.mkdir(parents=True)
        settings = (f"dev_size={size_bytes}", f"dev_config=x/{name}", _NO_NETLINK, f"cmd_ring_size_mb={_RING_MIB}")
        for setting in settings:
            (self.place / "control").write_text(setting)
        (self.place / "enable").write_text("1")
        ending = f"/{name}/x/{name}"
        (self.uio,) = [
            each for each in Path("/sys/class/uio").iterdir() if (each / "name").read_text().strip().endswith(ending)
        ]

    def remove(self) -> None:
        self.place.rmdir()


class Port:
    """Is a SCSI target of a host, which a backstore can be attached to as logical unit 0."""

    def __init__(self, host: str, number: int) -> None:
        self._place = _HOSTS / host / f"tpgt_{number}"
        self._unit = self._place / "lun/lun_0"
        self._unit.mkdir(parents=True)
        (self._place / "nexus").write_text(host)

    @property
    def address(self) -> str:
        """Return host, channel, target and logical unit of the SCSI device, as sysfs names it: "2:0:1:0"."""
        return f"{(self._place / 'address').read_text().strip()}:0"

    def attach(self, backstore: Backstore) -> None:
        """Make the SCSI device appear. The kernel asks the device what it is before this returns."""
        (self._unit / backstore.place.name).symlink_to(backstore.place)

    def detach(self, backstore: Backstore) -> None:
        """Make the SCSI device disappear, as if the cable were pulled."""
        (self._unit / backstore.place.name).unlink()

    def remove(self) -> None:
        (self._place / "nexus").write_text("NULL")
        self._unit.rmdir()
        self._place.rmdir()


def remove_host(host: str) -> None:
    (_HOSTS / host).rmdir()
