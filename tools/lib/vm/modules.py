"""Which kernel modules the guest loads, and in which order: decided from depmod's modules.dep."""

import lzma
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from vm.errors import GuestFailure

#: Loaded by the initramfs, from its own copies: what it takes to mount the guest's root.
BOOT_MODULES: Final = ("9pnet_virtio", "9p", "overlay", "virtio_rng")

#: Loaded when the root is there, as a machine with such hardware would have them loaded by udev.
START_MODULES: Final = ("loop", "virtio_blk", "virtio_scsi", "nvme", "sd_mod", "sg")

#: Loaded by the tests that use them, by modprobe; listed so that a kernel without one of them is noticed at build.
DEMAND_MODULES: Final = (
    "scsi_debug", "null_blk", "brd", "raid1", "dm_mod", "cifs", "cmac", "ccm", "gcm", "virtio_net", "veth", "dummy",
)  # fmt: skip


def parse_dependencies(modules_dep: str) -> dict[str, list[str]]:
    """Read modules.dep: each module's path, with the paths of those that have to be loaded before it."""
    pairs = (line.partition(":") for line in modules_dep.splitlines() if line)
    return {path: needed.split() for path, _, needed in pairs}


def parse_builtin(modules_builtin: str) -> set[str]:
    """Read modules.builtin: the names of the modules that this kernel has linked in."""
    return {module_name(line) for line in modules_builtin.splitlines() if line}


def module_name(path: str) -> str:
    """Return a module's name as the kernel has it: without folder and suffixes, with underscores."""
    return PurePosixPath(path).name.partition(".")[0].replace("-", "_")


def load_order(names: Iterable[str], dependencies: Mapping[str, Sequence[str]], builtin: set[str]) -> list[str]:
    """Return the paths of the named modules and of all they need, each after what it needs and only once.

    Names that the kernel has linked in need nothing; a name that it does not have at all is an error.
    """
    paths = {module_name(path): path for path in dependencies}
    wanted = [name.replace("-", "_") for name in names]
    if missing := [name for name in wanted if name not in paths and name not in builtin]:
        raise GuestFailure(
            f"the kernel has no modules {', '.join(missing)}: correct the lists in tools/lib/vm/modules.py"
        )
    order: dict[str, None] = {}

    def add(path: str) -> None:
        for needed in dependencies[path]:
            if needed not in order:
                add(needed)
        order.setdefault(path)

    for name in wanted:
        if name in paths:
            add(paths[name])
    return list(order)


def read_module(file: Path) -> bytes:
    """Return a module's bytes as insmod wants them; Debian compresses its modules."""
    data = file.read_bytes()
    return lzma.decompress(data) if file.suffix == ".xz" else data
