"""A shelf: a SCSI host with an enclosure and disks in its slots. A thread answers their commands.

    with Shelf(slots=6) as shelf:
        disk = shelf.new_disk(16 * MIB)
        shelf.plug(disk, slot=2)            /dev/sdX appears, and the enclosure reports its address in slot 2
        shelf.pull(disk)                    /dev/sdX disappears, and slot 2 is empty

A caller may look at the enclosure and the disks at any time, for example at ``shelf.enclosure.slots[1].locate``. No
thread of the caller's process may hold Python's lock while it waits for I/O at the disks, as a vfork can.
"""

import os
import selectors
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from meshlab.shelf.configfs import Backstore, Port, remove_host
from meshlab.shelf.disk import MemoryDisk
from meshlab.shelf.enclosure import ENCLOSURE_SERVICES, ENCLOSURE_TYPE, Enclosure, Slot
from meshlab.shelf.ring import Ring
from meshlab.shelf.unit import Identity, LogicalUnit

MODULES: Final = ("target_core_user", "tcm_loop", "ses")
#: NAA identifiers (IEEE registered) of the shelf's devices: the enclosure, its expander, and the first disk.
ENCLOSURE_ID: Final = 0x5000_C0DE_0000_1000
EXPANDER_ADDRESS: Final = 0x5000_C0DE_0000_1001
DISK_ID: Final = 0x5000_C0DE_0001_0000
_APPEARS_WITHIN_S: Final = 30.0
_POLL_S: Final = 0.02
_CONFIGFS: Final = Path("/sys/kernel/config")
_HOST: Final = "naa.5000c0de00000001"


class Attached:
    """Holds a logical unit with all that the kernel has of it."""

    def __init__(self, name: str, unit: LogicalUnit, number: int, size_bytes: int) -> None:
        self.unit = unit
        self.backstore = Backstore(name, size_bytes)
        self.port = Port(_HOST, number)
        self.ring = Ring(self.backstore.uio, unit)
        self.is_attached = False

    @property
    def sysfs(self) -> Path:
        """Return the folder of the SCSI device."""
        return Path("/sys/class/scsi_device") / self.port.address / "device"

    def attach(self) -> None:
        self.port.attach(self.backstore)
        self.is_attached = True

    def detach(self) -> None:
        self.port.detach(self.backstore)
        self.is_attached = False


class ShelfDisk(Attached):
    """A disk that can be plugged into a slot."""

    unit: MemoryDisk

    def attach(self) -> None:
        """Make the SCSI device and its block device appear."""
        super().attach()
        deadline = time.monotonic() + _APPEARS_WITHIN_S
        # The kernel's sd driver looks at a new disk in the background.
        while not (self.sysfs / "block").exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no block device within {_APPEARS_WITHIN_S:g} s in {self.sysfs}")
            time.sleep(_POLL_S)

    @property
    def id(self) -> str:
        """Return the name of the disk in /dev/disk/by-id, and so in the mesh."""
        return f"wwn-0x{self.unit.identity.naa:016x}"

    @property
    def device(self) -> Path:
        """Return the disk's path in /dev, which may be another one after the disk was pulled and plugged again."""
        (block,) = (self.sysfs / "block").iterdir()
        return Path("/dev") / block.name


class Shelf:
    """Runs an enclosure with ``slots`` slots, which are empty at first."""

    def __init__(self, slots: int) -> None:
        subprocess.run(["modprobe", "-a", *MODULES], check=True)
        if not (_CONFIGFS / "target").exists():
            subprocess.run(["mount", "-t", "configfs", "configfs", str(_CONFIGFS)], check=True)
        self.disks: list[ShelfDisk] = []
        #: The errors of the thread that answers, which a good run does not have.
        self.errors: list[Exception] = []
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._answer, name="shelf", daemon=True)
        identity = Identity(
            ENCLOSURE_TYPE,
            "MESHFS",
            "Shelf",
            "1.0",
            "SHELF0001",
            ENCLOSURE_ID,
            EXPANDER_ADDRESS,
            ENCLOSURE_SERVICES,
        )
        self.enclosure = Enclosure(identity, slots)
        self._own = Attached("enclosure", self.enclosure, 0, 1 << 20)
        self._serve(self._own)
        self._thread.start()
        self._own.attach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def id(self) -> str:
        """Return the name of the enclosure in the mesh."""
        return f"enc-0x{ENCLOSURE_ID:016x}"

    @property
    def is_attached(self) -> bool:
        return self._own.is_attached

    @property
    def generic(self) -> Path:
        """Return the path of the enclosure's generic SCSI device, such as /dev/sg3."""
        (generic,) = (self._own.sysfs / "scsi_generic").iterdir()
        return Path("/dev") / generic.name

    @property
    def sysfs(self) -> Path:
        """Return the folder that the kernel's ses driver made for the enclosure."""
        return Path("/sys/class/enclosure") / self._own.port.address

    def slot(self, number: int) -> Slot:
        """Return the slot with this number on the chassis. The first one is 1."""
        return self.enclosure.slots[number - 1]

    def new_disk(self, size_bytes: int, naa: int = 0) -> ShelfDisk:
        """Return a new disk, which is in no slot yet. ``naa`` is its identifier, if not one of its own."""
        number = len(self.disks) + 1
        own = DISK_ID + 0x10 * number
        identity = Identity(0, "MESHFS", f"Disk {number}", "1.0", f"DISK{number:04d}", naa or own, own + 1)
        disk = ShelfDisk(f"disk{number}", MemoryDisk(identity, size_bytes), number, size_bytes)
        self._serve(disk)
        self.disks.append(disk)
        return disk

    def plug(self, disk: ShelfDisk, slot: int) -> None:
        """Put a disk into a slot. The kernel has attached the disk when this returns."""
        self.slot(slot).address = disk.unit.identity.sas_address
        disk.attach()

    def pull(self, disk: ShelfDisk) -> None:
        """Take a disk out of its slot, as if somebody pulled the disk."""
        for slot in self.enclosure.slots:
            if slot.address == disk.unit.identity.sas_address:
                slot.address = 0
        disk.detach()

    def move(self, disk: ShelfDisk, slot: int) -> None:
        """Pull a disk, and plug the disk into another slot."""
        self.pull(disk)
        self.plug(disk, slot)

    def detach(self) -> None:
        """Take the enclosure off the host, as if its cable were pulled. The disks stay."""
        self._own.detach()

    def attach(self) -> None:
        self._own.attach()

    def close(self) -> None:
        everything = [*self.disks, self._own]
        for each in everything:
            if each.is_attached:
                each.detach()
        self._ending.set()
        os.write(self._woken, b"\0")
        self._thread.join()
        self._selector.close()
        for each in everything:
            each.ring.close()
            each.port.remove()
            each.backstore.remove()
        remove_host(_HOST)
        os.close(self._wake)
        os.close(self._woken)

    def _serve(self, attached: Attached) -> None:
        self._selector.register(attached.ring.fd, selectors.EVENT_READ, attached.ring)

    def _answer(self) -> None:
        while not self._ending.is_set():
            for key, _ in self._selector.select():
                if isinstance(key.data, Ring):
                    try:
                        key.data.answer()
                    except Exception as error:
                        self.errors.append(error)
