"""Download the guest's Debian packages and unpack them in the cache. They are never installed on this machine."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from vm.errors import GuestFailure

#: Packages that depend on the newest 6.12 kernel: in bookworm's security archive, and in trixie.
KERNEL_PACKAGES: Final = ("linux-image-6.12-amd64", "linux-image-amd64")
KERNEL_SERIES: Final = "linux-image-6.12."

#: The guest's other packages, with the libraries that a machine with the test packages may lack.
GUEST_PACKAGES: Final = (
    "busybox-static",
    "cifs-utils",
    "dmsetup",
    "kmod",
    "libaio1",
    "libcap-ng0",
    "libdevmapper-event1.02.1",
    "libdevmapper1.02.1",
    "libkeyutils1",
    "libkmod2",
    "liblvm2cmd2.03",
    "libsgutils2-1.46-2",
    "libtalloc2",
    "libwbclient0",
    "lvm2",
    "mdadm",
    "sg3-utils",
)

#: In a merged /usr, these folders are symlinks. A package's files below them are unpacked through the symlinks.
MERGED_FOLDERS: Final = ("bin", "sbin", "lib", "lib64")


def kernel_package() -> str:
    """Return the package of the newest 6.12 kernel in the package lists."""
    for name in KERNEL_PACKAGES:
        done = subprocess.run(["apt-cache", "depends", name], capture_output=True, text=True, check=False)
        if found := kernel_dependency(done.stdout):
            return found
    raise GuestFailure(
        f"none of the packages {', '.join(KERNEL_PACKAGES)} depends on a 6.12 kernel: enable the security archive of "
        "Debian 12 in /etc/apt/sources.list.d and run apt-get update"
    )


def kernel_dependency(apt_cache_depends: str) -> str | None:
    """Find the 6.12 kernel's package in the output of `apt-cache depends` for a kernel's meta package."""
    names = re.findall(r"^\s*Depends: (\S+)$", apt_cache_depends, re.MULTILINE)
    return next((name for name in names if name.startswith(KERNEL_SERIES)), None)


def download(folder: Path) -> list[Path]:
    """Download the packages into the folder. Fetch the package lists again if they are missing or too old."""
    try:
        return _download(folder)
    except GuestFailure:
        command("apt-get", "-q", "update")
        return _download(folder)


def _download(folder: Path) -> list[Path]:
    # Remove older downloads. apt-get would keep them, so the packages of an older kernel would stay in the folder.
    for old in folder.glob("*.deb"):
        old.unlink()
    command("apt-get", "-q", "download", kernel_package(), *GUEST_PACKAGES, cwd=folder)
    return sorted(folder.glob("*.deb"))


def unpack(packages: Sequence[Path], root: Path) -> None:
    """Unpack the packages into a folder with a merged /usr, so that it can be an overlay on this machine's root."""
    for name in MERGED_FOLDERS:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in packages:
        # dpkg -x would replace the symlinks by folders, which would then hide this machine's folders.
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
            command("tar", "-x", "--keep-directory-symlink", "-C", str(root), stdin=archive.stdout)
        if archive.returncode != 0:
            raise GuestFailure(f"{package} cannot be unpacked: remove the folder {package.parent} and try again")


def command(*words: str, **more: object) -> str:
    """Run a program and return its output. Raises GuestFailure with the command and the end of its output."""
    arguments: dict[str, object] = {"stdin": subprocess.DEVNULL, **more}
    try:
        done = subprocess.run(
            list(words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **arguments,  # type: ignore[call-overload]
        )
    except FileNotFoundError as error:
        raise GuestFailure(f"the program {words[0]} is missing: tools/guest needs Debian") from error
    if done.returncode != 0:
        raise GuestFailure(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout[-2000:]}")
    return str(done.stdout)
