"""The disks of the guest: found by their serial numbers, removed and brought back as hot removal does it."""

from pathlib import Path

from support.commands import until

SYS_BLOCK = Path("/sys/block")


def serial_of(block: Path) -> str:
    """Return the serial number of a device of /sys/block, where its kind of disk has it; empty if it has none."""
    for place in ("serial", "device/serial"):
        if (block / place).exists():
            return (block / place).read_text().strip()
    page = block / "device/vpd_pg80"
    # Vital product data: a header of four bytes, then the serial number.
    return page.read_bytes()[4:].decode(errors="replace").strip("\0 ") if page.exists() else ""


def find_disk(serial_start: str) -> Path | None:
    """Return the device of the disk whose serial number begins like that, under whatever name the kernel gave it."""
    for block in SYS_BLOCK.iterdir():
        if serial_of(block).startswith(serial_start):
            return Path("/dev") / block.name
    return None


def await_disk(serial_start: str) -> Path:
    """Wait until the disk is there."""
    until(lambda: find_disk(serial_start), f"a disk with the serial number {serial_start}", timeout_s=30)
    found = find_disk(serial_start)
    assert found is not None
    return found
