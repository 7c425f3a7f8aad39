"""meshctl install puts links, units, manual pages and completions in place, and takes them out again.

The programs themselves stay where pip has installed them, for example in /opt/meshfs. A package is built with `--root`,
which names a folder that stands for the root of the file system.
"""

import argparse
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Final

from meshctl import output
from meshctl.installing.manual import pages
from meshctl.installing.placing import Done, Installation
from meshctl.installing.plan import FOLDERS, PROGRAMS, Item, Sources, items
from meshctl.sources import mount_points
from meshctl.subparsers import Subparsers
from meshfs.errors import ConfigError
from meshfsd.command_line import build_parser as meshfsd_parser

PREFIX: Final = Path("/usr/local")
ROOT: Final = Path("/")
#: A package has put everything in place already. Its environment has a file with this name and the package's name.
PACKAGED: Final = "packaged"
_EPILOG = """\
The command refuses to start if a file is in its way that it has not put there, or that somebody has changed. It may be
repeated, for example after an upgrade. It starts and enables nothing. "meshctl install --remove" removes exactly the
files that it has put there. Config, keys and the state of nodes always stay.
"""


def add_parser(verbs: Subparsers, meshctl: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "install", help="put links, units, manual pages and completions in place, or remove them", epilog=_EPILOG
    )
    parser.add_argument("--remove", action="store_true", help="remove what the command has put in place")
    parser.add_argument(
        "--prefix",
        type=Path,
        default=PREFIX,
        metavar="FOLDER",
        help="where programs, units, pages and completions belong (default: %(default)s)",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=ROOT,
        metavar="FOLDER",
        help="put everything below FOLDER instead of / (for packages, as DESTDIR)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON with what was done to each file, for programs")
    parser.set_defaults(run=partial(run, meshctl))


def run(meshctl: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    root, prefix = arguments.root.absolute(), arguments.prefix
    if not prefix.is_absolute():
        raise ConfigError(f"--prefix is {prefix}, expected an absolute path")
    try:
        installation = Installation(root, prefix)
        done = (
            _remove(installation, root, prefix) if arguments.remove else _install(installation, meshctl, root, prefix)
        )
    except OSError as error:
        raise ConfigError(f"{error.filename or root}: {error.strerror}; repeat the command afterwards") from error
    _tell_systemd(root)
    if arguments.json:
        output.print_json(vars(done), [])
    else:
        _print(done, arguments.remove)
    return 1 if done.left else 0


def _install(installation: Installation, meshctl: argparse.ArgumentParser, root: Path, prefix: Path) -> Done:
    wanted = wanted_items(meshctl, root, prefix)
    if foreign := installation.foreign(wanted):
        listed = ", ".join(str(root / path) for path in foreign)
        raise ConfigError(f"not installed, because these files were put there or changed by somebody else: {listed}")
    root.mkdir(parents=True, exist_ok=True)
    return installation.put(wanted, FOLDERS)


def _remove(installation: Installation, root: Path, prefix: Path) -> Done:
    if not installation.is_there:
        raise ConfigError(f"nothing is installed below {root / str(prefix).strip('/')}; see --prefix and --root")
    if root == ROOT and (running := _running()):
        raise ConfigError(f"not removed, because these are in use: {', '.join(running)}; stop or unmount them first")
    return installation.remove()


def wanted_items(meshctl: argparse.ArgumentParser, root: Path, prefix: Path) -> list[Item]:
    programs = _programs(root)
    files = resources.files("meshctl") / "installing" / "files"
    with resources.as_file(files) as folder:
        units = folder / "systemd"
        sources = Sources(
            pages=pages(meshctl, meshfsd_parser(), (folder / "config.md").read_text()),
            units={
                str(path.relative_to(units)): path.read_text() for path in sorted(units.rglob("*")) if path.is_file()
            },
            bash=(folder / "meshfs.bash").read_text(),
            zsh=(folder / "meshfs.zsh").read_text(),
            fish=(folder / "meshfs.fish").read_text(),
        )
    # On most systems /sbin is a link to /usr/sbin. Files are put into folders, and not through links.
    has_sbin = (root / "sbin").is_dir() and not (root / "sbin").is_symlink()
    return items(sources, prefix, programs, "sbin" if has_sbin else "usr/sbin")


def _programs(root: Path) -> Path:
    """Return the folder of the programs of this environment, as it will be seen when ``root`` is the root."""
    environment = Path(sys.prefix)
    if (environment / PACKAGED).exists() and root == ROOT:
        package = (environment / PACKAGED).read_text().strip()
        raise ConfigError(
            f"the package {package} has put everything in place; remove it with `apt-get remove {package}`"
        )
    folder = Path(sysconfig.get_path("scripts"))
    missing = [name for name in PROGRAMS if not (folder / name).exists()]
    if missing:
        raise ConfigError(f"{folder} lacks {', '.join(missing)}; install meshfs with pip into {environment} first")
    return ROOT / folder.relative_to(root) if folder.is_relative_to(root) else folder


def _running() -> list[str]:
    """Return the mounts and the units of exporters that still need the installed files."""
    units: list[str] = []
    if _systemctl() is not None:
        command = ["systemctl", "list-units", "--plain", "--no-legend", "--state=active", "meshfsd@*.service"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL).stdout
        units = [line.split()[0] for line in listed.splitlines() if line.strip()]
    return [*map(str, mount_points()), *units]


def _tell_systemd(root: Path) -> None:
    """Let a running systemd read the units of this machine again."""
    systemctl = _systemctl()
    if root == ROOT and systemctl is not None:
        subprocess.run([systemctl, "daemon-reload"], check=False, stdin=subprocess.DEVNULL)


def _systemctl() -> str | None:
    """Return the path of systemctl if systemd runs here (sd_booted(3))."""
    return shutil.which("systemctl") if Path("/run/systemd/system").is_dir() else None


def _print(done: Done, removed: bool) -> None:
    for verb, paths in (("wrote", done.written), ("removed", done.removed), ("left", done.left)):
        for path in paths:
            print(f"{verb} /{path}")
    if removed:
        print(f"{_count(done.removed)} removed; config, keys and state stay. The programs are still in {sys.prefix}")
    else:
        print(f"{_count(done.written)} written, {_count(done.unchanged)} already in place")
    for path in done.left:
        print(f"meshctl: /{path} was changed by somebody else, so it was left", file=sys.stderr)


def _count(paths: Sequence[str]) -> str:
    return f"{len(paths)} file" if len(paths) == 1 else f"{len(paths)} files"
