"""Decide which files and links belong to an installation, and where. Pure.

PREFIX/bin/{meshctl,meshfsd,meshfs}            links to the programs
/sbin/mount.{meshfs,fuse.meshfs}               links for mount(8), which looks for its helpers only there
PREFIX/lib/systemd/system/                     units
PREFIX/share/man/                              manual pages
PREFIX/share/{bash-completion,zsh,fish}/       completion
PREFIX/share/doc/meshfs/fstab.example          lines for /etc/fstab
/etc/meshfs, /mesh                             folders for the config and for the mount, if they are missing
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

PROGRAMS: Final = ("meshctl", "meshfsd", "meshfs")
#: The names under which mount(8) looks for the helper of `mount -t meshfs` and of `mount -t fuse.meshfs`.
HELPERS: Final = ("mount.meshfs", "mount.fuse.meshfs")
#: The folders for the config and for the mount.
FOLDERS: Final = ("etc/meshfs", "mesh")
_EXAMPLE: Final = "fstab.example"
#: Where the units in daemon/systemd expect the programs.
_BIN_OF_UNITS: Final = "/usr/bin/"


@dataclass(frozen=True)
class Item:
    """Is a file or a link of the installation. ``path`` is relative to the root of the file system."""

    path: str
    content: str = ""
    link: str = ""


@dataclass(frozen=True)
class Sources:
    """Holds what the files are made of.

    ``pages`` are manual pages, and ``units`` the files of daemon/systemd, by their relative paths. The other texts are
    the completions. In that of fish, the word PROGRAM stands for the program's name.
    """

    pages: Mapping[str, str]
    units: Mapping[str, str]
    bash: str
    zsh: str
    fish: str


def items(sources: Sources, prefix: Path, programs: Path, sbin: str) -> list[Item]:
    """Return the items of an installation below ``prefix``, an absolute path.

    The programs are in the folder ``programs``. mount(8) looks for its helpers in ``sbin``.
    """
    below = str(prefix).strip("/")
    found = [*_programs(below, prefix, programs, sbin), *_units(below, prefix, sources.units)]
    found += [Item(f"{below}/share/man/{name}", page) for name, page in sources.pages.items()]
    return [*found, *_completions(below, prefix, sources)]


def _programs(below: str, prefix: Path, programs: Path, sbin: str) -> Iterator[Item]:
    if programs != prefix / "bin":
        for name in PROGRAMS:
            yield Item(f"{below}/bin/{name}", link=str(programs / name))
    for name in HELPERS:
        yield Item(f"{sbin}/{name}", link=str(programs / "meshfs"))


def _units(below: str, prefix: Path, units: Mapping[str, str]) -> Iterator[Item]:
    for name, text in units.items():
        folder = "share/doc/meshfs" if name == _EXAMPLE else "lib/systemd/system"
        yield Item(f"{below}/{folder}/{name}", text.replace(_BIN_OF_UNITS, f"{prefix}/bin/"))


def _completions(below: str, prefix: Path, sources: Sources) -> Iterator[Item]:
    for name in PROGRAMS:
        yield Item(f"{below}/share/bash-completion/completions/{name}", sources.bash)
        fish = f"{below}/share/fish/vendor_completions.d/{name}.fish"
        yield Item(fish, sources.fish.replace("PROGRAM", name))
    # zsh of Debian looks below /usr only for what packages bring, in a folder of that name.
    folder = "vendor-completions" if prefix == Path("/usr") else "site-functions"
    yield Item(f"{below}/share/zsh/{folder}/_meshfs", sources.zsh)


def parents(path: str) -> list[str]:
    """Return the folders above a relative path, the innermost first."""
    return [str(parent) for parent in PurePosixPath(path).parents if str(parent) != "."]
