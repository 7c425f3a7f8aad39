"""The kernel modules that the guest loads, and their order, which depmod's modules.dep determines."""

import lzma
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from vm.errors import GuestFailure

#: The modules that are needed to mount the guest's root. The initramfs has copies and loads them.
BOOT_MODULES: Final = ("9pnet_virtio", "9p", "overlay", "virtio_rng")

#: The modules that are loaded when the root is mounted. On a machine with such hardware, udev would load them.
START_MODULES: Final = ("loop", "virtio_blk", "virtio_scsi", "nvme", "sd_mod", "sg")

#: The modules that tests load with modprobe. They are listed so that the build fails if the kernel lacks one.
DEMAND_MODULES: Final = (
    "scsi_debug",
    "null_blk",
    "brd",
    "raid1",
    "dm_mod",
    "enclosure",
    "ses",
    "target_core_mod",
    "target_core_user",
    "tcm_loop",
    "uio",
    "cifs",
    "cmac",
    "ccm",
    "gcm",
    "virtio_net",
    "veth",
    "dummy",
)


def parse_dependencies(modules_dep: str) -> dict[str, list[str]]:
    """Read modules.dep. Return, for each module's path, the paths of the modules that have to be loaded before it."""
    pairs = (line.partition(":") for line in modules_dep.splitlines() if line)
    return {path: needed.split() for path, _, needed in pairs}


def parse_builtin(modules_builtin: str) -> set[str]:
    """Read modules.builtin. Return the names of the modules that are built into the kernel."""
    return {module_name(line) for line in modules_builtin.splitlines() if line}


def module_name(path: str) -> str:
    """Return the kernel's name of a module: without folder and suffixes, and with underscores."""
    return PurePosixPath(path).name.partition(".")[0].replace("-", "_")


def load_order(names: Iterable[str], dependencies: Mapping[str, Sequence[str]], builtin: set[str]) -> list[str]:
    """Return the paths of the named modules and of all their dependencies. Each comes once, after its dependencies.

    Modules that are built into the kernel need no file. A name that the kernel does not have is an error.
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
    """Return a module's bytes for insmod, decompressed, because Debian compresses its modules."""
    data = file.read_bytes()
    return lzma.decompress(data) if file.suffix == ".xz" else data
