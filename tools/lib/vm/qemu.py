"""Make QEMU's command line. Pure, so that it can be tested without QEMU."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vm.build import Guest
from vm.initramfs import TAG_PACKAGES, TAG_ROOT, TAG_RUN

PROGRAM: Final = "qemu-system-x86_64"
MEMORY_MIB: Final = 2048
CPUS: Final = 2
#: An old model, because QEMU emulates each newer feature (above all AVX with its larger registers), which costs time.
CPU_MODEL: Final = "Nehalem,+aes,+pclmulqdq,+rdrand"

#: The kinds of disks that the guest can have, and the device options of each, with the disk's number and kind.
DISK_KINDS: Final = {
    "virtio-blk": ("virtio-blk-pci,drive=drive{n},serial={kind}-{n}",),
    "virtio-scsi": ("virtio-scsi-pci,id=scsi{n}", "scsi-hd,bus=scsi{n}.0,drive=drive{n},serial={kind}-{n}"),
    "nvme": ("nvme,drive=drive{n},serial={kind}-{n}",),
}
DISK_SIZE_DEFAULT_BYTES: Final = 64 << 20

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

# panic=-1 resets the guest at a panic, and -no-reboot then ends QEMU. tools/guest sends an NMI to a guest that takes
# too long. The NMI makes the kernel panic, and panic_print (0x80) makes it list the blocked tasks. The other options
# save time: no mitigations, no checks of the emulated CPU's clock, no clearing of allocated memory.
KERNEL_LINE: Final = (
    "console=ttyS0 quiet panic=-1 unknown_nmi_panic panic_print=0x80 "
    "mitigations=off nokaslr no5lvl tsc=reliable no_timer_check "
    "init_on_alloc=0 randomize_kstack_offset=off apparmor=0 audit=0 nowatchdog rcupdate.rcu_expedited=1"
)


@dataclass(frozen=True)
class Disk:
    """Describes a disk of the guest."""

    kind: str
    size_bytes: int


def parse_disk(text: str) -> Disk:
    """Read KIND or KIND:SIZE, for example "nvme:64M". Raises ValueError with the reason."""
    kind, _, size = text.partition(":")
    if kind not in DISK_KINDS:
        raise ValueError(f"no such kind of disk: {kind!r}; there are {', '.join(DISK_KINDS)}")
    if not size:
        return Disk(kind, DISK_SIZE_DEFAULT_BYTES)
    if not (found := re.fullmatch(r"([1-9]\d*)([KMG]?)", size)):
        raise ValueError(f"no size: {size!r}; write a number, with K, M or G as its unit")
    size_bytes = int(found[1]) * _UNITS[found[2]]
    if size_bytes % 512:
        raise ValueError(f"a disk of {size_bytes} bytes has no whole number of sectors of 512 bytes")
    return Disk(kind, size_bytes)


def command_line(guest: Guest, run_folder: Path, disks: Sequence[tuple[Disk, Path]]) -> list[str]:
    """Return the command that boots the guest. Console, monitor and output files are in the folder of the run.

    It uses only software emulation, because with KVM, QEMU aborts on machines where /dev/kvm exists but does not work.
    """
    machine = ["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", CPU_MODEL]
    size = ["-smp", str(CPUS), "-m", str(MEMORY_MIB)]
    boot = ["-kernel", str(guest.kernel), "-initrd", str(guest.initramfs), "-append", KERNEL_LINE]
    quiet = ["-nodefaults", "-display", "none", "-no-reboot", "-device", "virtio-rng-pci"]
    console = ["-serial", f"file:{_quoted(run_folder / 'console')}"]
    monitor = ["-monitor", f"unix:{_quoted(run_folder / 'monitor')},server=on,wait=off"]
    shares = [
        *_share(TAG_ROOT, Path("/"), read_only=True),
        *_share(TAG_PACKAGES, guest.packages, read_only=True),
        *_share(TAG_RUN, run_folder, read_only=False),
    ]
    drives = [word for number, (disk, image) in enumerate(disks) for word in _disk(number, disk, image)]
    return [PROGRAM, *machine, *size, *boot, *quiet, *console, *monitor, *shares, *drives]


def _share(tag: str, folder: Path, *, read_only: bool) -> list[str]:
    # remap: the host's root has several file systems, and equal inode numbers of two of them must be distinguished.
    options = f"local,id={tag},path={_quoted(folder)},security_model=none,multidevs=remap"
    device = f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"
    return ["-fsdev", options + (",readonly=on" if read_only else ""), "-device", device]


def _disk(number: int, disk: Disk, image: Path) -> list[str]:
    # unsafe: the image is thrown away after the run, so flushing it to the host's disk would only cost time.
    drive = f"if=none,id=drive{number},file={_quoted(image)},format=raw,cache=unsafe,discard=unmap"
    devices = [line.format(n=number, kind=disk.kind) for line in DISK_KINDS[disk.kind]]
    return ["-drive", drive, *(word for line in devices for word in ("-device", line))]


def _quoted(path: Path) -> str:
    """Double the commas in a path, because single commas separate QEMU's options."""
    return str(path).replace(",", ",,")
