"""Build the guest's parts in the cache, once: the kernel, the initramfs and the root of the unpacked packages."""

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vm import cpio, initramfs, packages
from vm.errors import GuestFailure
from vm.modules import (
    BOOT_MODULES,
    DEMAND_MODULES,
    START_MODULES,
    load_order,
    parse_builtin,
    parse_dependencies,
    read_module,
)

#: The source files that the guest depends on. When one of them changes, the guest is built again.
SOURCES: Final = ("packages.py", "modules.py", "initramfs.py", "cpio.py", "build.py")


@dataclass(frozen=True)
class Guest:
    """Names the files that QEMU needs to boot the guest."""

    kernel: Path
    initramfs: Path
    #: The root of the unpacked packages, which is the overlay's layer above the host's root.
    packages: Path


def build(cache: Path) -> Guest:
    """Return the guest in the cache. Build it first if it is missing or was built from other sources."""
    guest = Guest(cache / "vmlinuz", cache / "initramfs", cache / "root")
    stamp, wanted = cache / "stamp", _sources_digest()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        if stamp.exists() and stamp.read_text() == wanted:
            return guest
        stamp.unlink(missing_ok=True)
        _build(cache, guest)
        stamp.write_text(wanted)
    return guest


def _build(cache: Path, guest: Guest) -> None:
    debs = cache / "debs"
    shutil.rmtree(guest.packages, ignore_errors=True)
    debs.mkdir(exist_ok=True)
    packages.unpack(packages.download(debs), guest.packages)
    version = _kernel_version(guest.packages)
    modules = guest.packages / "lib/modules" / version
    library = guest.packages / "usr/lib/x86_64-linux-gnu"
    # /sbin/depmod is an absolute symlink to kmod, which acts according to the name by which it is called.
    kmod = {"executable": str(guest.packages / "bin/kmod"), "env": {"LD_LIBRARY_PATH": str(library)}}
    packages.command("depmod", "-b", str(guest.packages), version, **kmod)
    shutil.copyfile(guest.packages / "boot" / f"vmlinuz-{version}", guest.kernel)
    guest.initramfs.write_bytes(cpio.archive(_initramfs_entries(guest.packages, modules)))
    shutil.rmtree(debs)


def _kernel_version(root: Path) -> str:
    versions = [path.name for path in (root / "lib/modules").iterdir()]
    if len(versions) != 1:
        raise GuestFailure(f"{root}/lib/modules has {len(versions)} kernels instead of one: remove {root.parent}")
    return versions[0]


def _initramfs_entries(root: Path, modules: Path) -> list[cpio.Entry]:
    dependencies = parse_dependencies((modules / "modules.dep").read_text())
    builtin = parse_builtin((modules / "modules.builtin").read_text())
    load_order([*START_MODULES, *DEMAND_MODULES], dependencies, builtin)
    order = load_order(BOOT_MODULES, dependencies, builtin)
    busybox = (root / "bin/busybox").read_bytes()
    return initramfs.entries(busybox, [(path, read_module(modules / path)) for path in order])


def _sources_digest() -> str:
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in SOURCES)).hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the cache's lock during the block, so that only one process at a time builds in it."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
