"""The help of the command meshfs. The manual page and the completion of shells are made from the same table. Pure."""

import textwrap
from dataclasses import dataclass
from typing import Final

_COLUMN: Final = 20
_WIDTH: Final = 100


@dataclass(frozen=True)
class Described:
    """Describes an option: its name, what its value stands for (empty without a value), and its help.

    ``choices`` are the words that the value may be, beside the names that ``value`` has in capitals.
    """

    name: str
    value: str
    help: str
    choices: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        return f"{self.name}={self.value}" if self.value else self.name


DESCRIPTION: Final = "Mount every disk of the cluster."
SYNOPSIS: Final = ("meshfs CONFIG MOUNTPOINT [-f] [-o OPTION,...]", "mount -t meshfs CONFIG MOUNTPOINT [-o OPTION,...]")
ARGUMENTS: Final = (
    Described("CONFIG", "", "the cluster's config file"),
    Described("MOUNTPOINT", "", "the folder at which the disks appear"),
)
#: The options after -o that are meshfs's own.
OPTIONS: Final = (
    Described("node", "NAME", "the node of CONFIG that this host is (default: the node with the host's name)"),
    Described(
        "class",
        "app|system",
        "the class of all I/O (default: app, but system for programs under ionice -c idle)",
        ("app", "system"),
    ),
    Described(
        "cache",
        "page|none",
        "page: use the kernel's page cache, coherent from close to open; none: use no cache",
        ("page", "none"),
    ),
    Described("io_timeout", "S", "end every I/O within S seconds (default: io_timeout_s of CONFIG)"),
    Described("log", "FILE", "log to FILE instead of the system log"),
    Described("debug", "", "log debug messages as well"),
    Described(
        "wait",
        "own|all|DISK",
        "before returning, wait until the disks of this node, the disks of all nodes, or DISK can be used; "
        "DISK is NODE/NAME or an id; wait=DISK may be repeated",
        ("own", "all"),
    ),
    Described(
        "wait_timeout",
        "S",
        "wait at most S seconds (default: 30), then report the disks that cannot be used and serve the others",
    ),
    Described("metrics", "ADDR:PORT", "answer Prometheus at this address (default: no metrics)"),
    Described(
        "remount",
        "",
        "change the mesh that is mounted at MOUNTPOINT: read CONFIG again, and apply the options given with remount "
        "(except node); if something cannot change, the command reports that, and its exit status is 32",
    ),
)
#: Options that mean the same as with other file systems.
COMMON_OPTIONS: Final = ("ro", "noexec", "noatime", "sync", "dirsync", "allow_other")
FLAGS: Final = (
    Described("-f", "", "stay in the foreground and log to standard error"),
    Described("-h, --help", "", "show this help"),
    Described("-V, --version", "", "show the version"),
)
EXIT_STATUS: Final = "0 mounted, 1 wrong usage, 2 a mistake in CONFIG or a key file, 32 the mount failed."


def _lines(described: Described) -> list[str]:
    """Return the lines of one option: its name in the first column, and its help in the second one."""
    helped = textwrap.wrap(described.help, _WIDTH - _COLUMN, break_on_hyphens=False)
    heading = f"  {described.heading}"
    first = f"{heading:<{_COLUMN}}{helped[0]}" if len(heading) < _COLUMN else f"{heading} {helped[0]}"
    return [first, *(" " * _COLUMN + line for line in helped[1:])]


def _usage() -> str:
    head = [f"usage: {SYNOPSIS[0]}", *(f"   or: {line}" for line in SYNOPSIS[1:])]
    options = [line for described in OPTIONS for line in _lines(described)]
    common = f"  {', '.join(COMMON_OPTIONS)}: as in mount(8) and mount.fuse3(8)"
    flags = [line for described in FLAGS for line in _lines(described)]
    tail = f"Exit status: {EXIT_STATUS}"
    return "\n".join([*head, "", f"{DESCRIPTION} Options:", *options, common, *flags, tail, ""])


USAGE: Final = _usage()
