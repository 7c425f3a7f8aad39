"""The mount's command line and its ``-o`` options; pure.

Two forms (mount(8), "EXTERNAL HELPERS"):

    meshfs       CONFIG MOUNTPOINT [-f] [-o OPTIONS]...           -f: stay in the foreground
    mount.meshfs CONFIG MOUNTPOINT [-sfnv] [-N NS] [-o OPTIONS] [-t TYPE]    -f: check, mount nothing

Options are ours, the kernel's (passed on), or mount(8)'s own (it has acted on them, or they
speak to systemd); any other is an error that names it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from meshfs import limits
from meshfs.endpoint import parse_endpoint
from meshfs.errors import MeshfsError
from meshfs.model import IoClass
from meshfs.program.command import version_text

USAGE: Final = """\
usage: meshfs CONFIG MOUNTPOINT [-f] [-o OPTION,...]
   or: mount -t meshfs CONFIG MOUNTPOINT [-o OPTION,...]

Mount every disk of the cluster. Options:
  node=NAME         the node this is; default: the host's name
  class=app|system  class of the I/O of all openers; default: app, system under ionice -c idle
  cache=page|none   page: the kernel's page cache, coherent from close to open; none: no caching
  io_timeout=S      bound of every I/O in seconds; default: io_timeout_s of CONFIG
  log=FILE          log there instead of the system log
  debug             log more
  wait=own|all|DISK before returning, wait until the disks of this node, the disks of all nodes,
                    or DISK (NODE/NAME or its id; may be repeated) can be used
  wait_timeout=S    how long at most, default 30; then the mount serves without them and says so
  metrics=ADDR:PORT answer Prometheus there; default: nowhere
  remount           change the mesh that is mounted there: read CONFIG again, and take the options
                    given with it (not node); what cannot change is named, and the status is 32
  ro, noexec, noatime, sync, dirsync, allow_other: as in mount(8) and mount.fuse3(8)
  -f                stay in the foreground and log to stderr
  -h, --help, -V, --version
Exit status: 0 mounted, 1 wrong usage, 2 mistake in CONFIG or a key file, 32 cannot mount.
"""

_KERNEL: Final = frozenset(
    ("ro", "rw", "exec", "noexec", "atime", "noatime", "sync", "async", "dirsync", "allow_other")
)
# mount(8) "FILESYSTEM-INDEPENDENT MOUNT OPTIONS" and mount.fuse3(8): nothing for us to do. Devices
# and set-user-id files do not exist here, so these stay off whatever is said.
_IGNORED: Final = frozenset(
    (
        *("auto", "noauto", "defaults", "nofail", "_netdev", "user", "nouser", "users", "nousers"),
        *("owner", "noowner", "group", "nogroup", "dev", "nodev", "suid", "nosuid", "mand", "nomand"),
        *("relatime", "norelatime", "strictatime", "nostrictatime", "diratime", "nodiratime", "lazytime"),
        *("nolazytime", "iversion", "noiversion", "silent", "loud", "symfollow", "nosymfollow"),
        *("default_permissions", "nonempty", "bg", "fg"),
    )
)
_IGNORED_PREFIXES: Final = ("x-", "X-", "comment=", "user=", "subtype=", "fsname=")
# What the kernel lists of a mounted FUSE file system, and mount(8) gives with remount.
_LISTED_PREFIXES: Final = ("user_id=", "group_id=", "max_read=", "blksize=")


class UsageError(MeshfsError):
    """The command line is wrong; the text names what."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The options that were given. One that is None is decided by CONFIG or by the host."""

    config: str
    mountpoint: str
    foreground: bool = False
    fake: bool = False
    node: str | None = None
    io_class: IoClass = IoClass.APP
    page_cache: bool = True
    io_timeout_s: float | None = None
    log_path: str | None = None
    debug: bool = False
    metrics: tuple[str, int] | None = None
    #: Disks to wait for, as given: "own", "all", NODE/NAME or an id.
    wait: tuple[str, ...] = ()
    wait_timeout_s: float = limits.MOUNT_WAIT_S
    kernel: tuple[str, ...] = ()
    remount: bool = False
    #: Our own options as they were given, one each.
    said: tuple[str, ...] = ()


def answer_without_mounting(program: str, arguments: Sequence[str]) -> str:
    """Return the text to print where only the help or the version is asked for, else an empty text."""
    if {"-h", "--help"} & set(arguments):
        return USAGE.rstrip("\n")
    if {"-V", "--version"} & set(arguments):
        return version_text(program.rpartition("/")[2])
    return ""


def parse_arguments(program: str, arguments: Sequence[str]) -> MountOptions:
    """Parse the command line, whose form ``program`` decides. Raises UsageError."""
    helper = program.rpartition("/")[2].startswith("mount.")
    paths: list[str] = []
    options = MountOptions("", "")
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-") or argument == "-":
            paths.append(argument)
        elif argument.startswith("-o"):
            options = parse_options(options, argument[2:] or _value(argument, rest))
        elif helper:
            options = _helper_flags(options, argument, rest)
        elif argument == "-f":
            options = replace(options, foreground=True)
        else:
            raise UsageError(f"unknown argument {argument!r}")
    if len(paths) != 2:
        raise UsageError(f"expected CONFIG and MOUNTPOINT, got {' '.join(paths) or 'neither'}")
    return replace(options, config=paths[0], mountpoint=paths[1])


def _helper_flags(options: MountOptions, argument: str, rest: Iterator[str]) -> MountOptions:
    """Take flags of an external helper of mount(8), which come alone or together (-sfnv)."""
    if argument in ("-N", "-t"):
        _value(argument, rest)
        return options
    if set(argument[1:]) - set("sfnv"):
        raise UsageError(f"unknown argument {argument!r}")
    return replace(options, fake=options.fake or "f" in argument)


def _value(argument: str, rest: Iterator[str]) -> str:
    value = next(rest, None)
    if value is None:
        raise UsageError(f"{argument} needs a value")
    return value


def parse_options(options: MountOptions, text: str) -> MountOptions:
    """Return ``options`` changed by a comma-separated list (``\\,`` is a comma). Raises UsageError."""
    for option in re.findall(r"(?:[^,\\]|\\.?)+", text):
        options = _option(options, re.sub(r"\\(.)", r"\1", option))
    return options


def _option(options: MountOptions, option: str) -> MountOptions:
    name, equals, value = option.partition("=")
    if option in _KERNEL:
        return replace(options, kernel=(*options.kernel, option))
    if option in _IGNORED or option.startswith((*_IGNORED_PREFIXES, *_LISTED_PREFIXES)):
        return options
    if option == "remount":
        return replace(options, remount=True)
    if equals and not value:
        raise UsageError(f"option {name!r} has no value")
    taken = _own_option(options, option, name, value)
    return replace(taken, said=(*options.said, option))


def take_options(options: MountOptions, said: Sequence[str]) -> MountOptions:
    """Return ``options`` with others of our own on top. Raises UsageError."""
    for option in said:
        name, _, value = option.partition("=")
        options = _own_option(options, option, name, value)
    return options


def _own_option(options: MountOptions, option: str, name: str, value: str) -> MountOptions:
    if option == "debug":
        return replace(options, debug=True)
    if name == "node" and value:
        return replace(options, node=value)
    if name == "class":
        return replace(options, io_class=IoClass(_choice(name, value, ("app", "system"))))
    if name == "cache":
        return replace(options, page_cache=_choice(name, value, ("page", "none")) == "page")
    if name == "io_timeout":
        return replace(options, io_timeout_s=_seconds(name, value))
    if name in ("wait", "wait_timeout") and value:
        return _wait_option(options, name, value)
    if name == "log" and value:
        return replace(options, log_path=value)
    if name == "metrics" and value:
        return replace(options, metrics=_endpoint(name, value))
    raise UsageError(f"unknown option {option!r}")


def _wait_option(options: MountOptions, name: str, value: str) -> MountOptions:
    if name == "wait":
        return replace(options, wait=(*options.wait, value))
    return replace(options, wait_timeout_s=_seconds(name, value))


def _choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise UsageError(f"option {name!r} is {value!r}, expected {' or '.join(choices)}")
    return value


def _endpoint(name: str, value: str) -> tuple[str, int]:
    try:
        return parse_endpoint(value)
    except ValueError as error:
        raise UsageError(f"option {name!r} is {value!r}, {error}") from None


def _seconds(name: str, value: str) -> float:
    expected = f"seconds from {limits.IO_TIMEOUT_MIN_S:g} to {limits.IO_TIMEOUT_MAX_S:g}"
    try:
        seconds = float(value)
    except ValueError:
        raise UsageError(f"option {name!r} is {value!r}, expected {expected}") from None
    if not limits.IO_TIMEOUT_MIN_S <= seconds <= limits.IO_TIMEOUT_MAX_S:
        raise UsageError(f"option {name!r} is {value!r}, expected {expected}")
    return seconds


def kernel_options(options: MountOptions, source: str, *, root: bool) -> set[str]:
    """Return the options for libfuse, in its own -o syntax.

    `source` is what the kernel's table of mounts shows. It has to be the absolute path of CONFIG without links, byte by
    byte: mount(8) compares it with fstab's, and `mount -a` would mount again where they differ.
    """
    chosen = set(options.kernel)
    if root:
        # A mount of root's is for all, as every other mount of root's is; modes decide.
        chosen.add("allow_other")
    name = source.replace("\\", "\\\\").replace(",", "\\,")
    return {*chosen, f"fsname={name}", "subtype=meshfs", "default_permissions"}
