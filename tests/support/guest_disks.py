"""The disks of the guest, found by what they report of themselves, removed and brought back as hot removal does it."""

from pathlib import Path
from typing import Self

from support.commands import until

SYS_BLOCK = Path("/sys/block")


def serial_of(block: Path) -> str:
    """Return the serial number of a device of /sys/block, from where its kind of disk has it, or "" if it has none."""
    for place in ("serial", "device/serial"):
        if (block / place).exists():
            return (block / place).read_text().strip()
    page = block / "device/vpd_pg80"
    # Vital product data: a header of four bytes, then the serial number.
    return page.read_bytes()[4:].decode(errors="replace").strip("\0 ") if page.exists() else ""


def model_of(block: Path) -> str:
    """Return what a disk says it is, or "" if its kind of disk does not say it."""
    model = block / "device/model"
    return model.read_text().strip() if model.exists() else ""


def find_disk(start: str) -> Path | None:
    """Return the device of the disk whose serial number or model begins with `start`, whatever its name is now."""
    for block in SYS_BLOCK.iterdir():
        if serial_of(block).startswith(start) or model_of(block).startswith(start):
            return Path("/dev") / block.name
    return None


def await_disk(start: str) -> Path:
    """Wait until there is a disk whose serial number or model begins with `start`."""
    until(lambda: find_disk(start), f"a disk whose serial number or model begins with {start}", timeout_s=30)
    found = find_disk(start)
    assert found is not None
    return found


def await_disks(*paths: Path) -> None:
    """Wait for disks of the mesh. A mount serves before it has reached exporters that take more than five seconds."""
    for path in paths:
        until(path.exists, f"{path} is there", timeout_s=60)


def pci_function(block: Path) -> Path:
    """Return the nearest PCI function above a device of /sys/block."""
    # With native multipath, an NVMe namespace is below a virtual subsystem, which links to its controllers.
    controllers = [path for path in (block / "device").glob("nvme[0-9]*") if (path / "device").exists()]
    places = [(path / "device").resolve() for path in controllers] or [block.resolve()]
    for place in (places[0], *places[0].parents):
        if (place / "subsystem").resolve().name == "pci":
            return place
    raise LookupError(f"{block} belongs to no PCI function")


def is_scsi(block: Path) -> bool:
    return (block / "device/subsystem").resolve().name == "scsi"


def scsi_host(block: Path) -> str:
    """Return the name of the SCSI host that a disk is attached to, such as "host2"."""
    return next(part for part in block.resolve().parts if part.startswith("host") and part[4:].isdigit())


class Removal:
    """Removes a disk of the guest as hot removal does it, and makes the kernel find the disk again."""

    def __init__(self, device: Path):
        block = SYS_BLOCK / device.name
        self._gone = block
        if is_scsi(block):
            self._remove = block / "device/delete"
            self._rescan, self._word = Path("/sys/class/scsi_host") / scsi_host(block) / "scan", "- - -"
        else:
            self._remove = pci_function(block) / "remove"
            self._rescan, self._word = Path("/sys/bus/pci/rescan"), "1"

    def __enter__(self) -> Self:
        self._remove.write_text("1")
        until(lambda: not self._gone.exists(), f"{self._gone} goes away", timeout_s=30)
        return self

    def __exit__(self, *_: object) -> None:
        """Bring the disk back for the next test, also if this test failed, unless the disk is back already."""
        self.rescan()

    def rescan(self) -> None:
        self._rescan.write_text(self._word)
