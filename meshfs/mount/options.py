"""Parse the mount's command line and its ``-o`` options. Pure.

The command line has two forms (mount(8), "EXTERNAL HELPERS"):

    meshfs       CONFIG MOUNTPOINT [-f] [-o OPTIONS]...           -f: stay in the foreground
    mount.meshfs CONFIG MOUNTPOINT [-sfnv] [-N NS] [-o OPTIONS] [-t TYPE]    -f: check, mount nothing

There are three kinds of options. meshfs obeys its own options. It passes on the kernel's options. It ignores the
options of mount(8), because mount(8) has already acted on them, or they are for systemd. Any other option is an error.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from meshfs import limits
from meshfs.endpoint import parse_endpoint
from meshfs.errors import MeshfsError
from meshfs.model import IoClass
from meshfs.mount.usage import USAGE
from meshfs.program.command import version_text

_KERNEL: Final = frozenset(
    ("ro", "rw", "exec", "noexec", "atime", "noatime", "sync", "async", "dirsync", "allow_other")
)
# These options of mount(8) ("FILESYSTEM-INDEPENDENT MOUNT OPTIONS") and mount.fuse3(8) are ignored. dev and suid have
# no effect, because a mesh contains no device files and no set-user-id files.
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
# The kernel lists these options of a mounted FUSE file system, and mount(8) passes them on at a remount.
_LISTED_PREFIXES: Final = ("user_id=", "group_id=", "max_read=", "blksize=")


class UsageError(MeshfsError):
    """The command line is wrong. The text says what is wrong."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Holds the options that were given. If an option is None, CONFIG or the host decides."""

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
    #: The disks to wait for, as given: "own", "all", NODE/NAME or an id.
    wait: tuple[str, ...] = ()
    wait_timeout_s: float = limits.MOUNT_WAIT_S
    kernel: tuple[str, ...] = ()
    remount: bool = False
    #: meshfs's own options as they were given, one text each.
    own: tuple[str, ...] = ()


def answer_without_mounting(program: str, arguments: Sequence[str]) -> str:
    """Return the text to print if the command line asks for the help or the version, else an empty text."""
    if {"-h", "--help"} & set(arguments):
        return USAGE.rstrip("\n")
    if {"-V", "--version"} & set(arguments):
        return version_text(program.rpartition("/")[2])
    return ""


def parse_arguments(program: str, arguments: Sequence[str]) -> MountOptions:
    """Parse the command line. The name ``program`` decides which form it has. Raises UsageError."""
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
    """Parse flags of an external helper of mount(8), which may be combined (-sfnv)."""
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
    """Return ``options`` changed by a comma-separated list, in which ``\\,`` stands for a comma. Raises UsageError."""
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
    return replace(taken, own=(*options.own, option))


def take_options(options: MountOptions, own: Sequence[str]) -> MountOptions:
    """Return ``options`` changed by further options of meshfs's own. Raises UsageError."""
    for option in own:
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
    """Return the options for libfuse, in the syntax of its -o.

    The kernel's table of mounts shows ``source``. It must be, byte by byte, the absolute path of CONFIG without
    symlinks. mount(8) compares it with the source in fstab. If they differ, `mount -a` mounts a second time.
    """
    chosen = set(options.kernel)
    if root:
        # All users may access a mount that root made, as with other file systems. The permission bits decide.
        chosen.add("allow_other")
    name = source.replace("\\", "\\\\").replace(",", "\\,")
    return {*chosen, f"fsname={name}", "subtype=meshfs", "default_permissions"}
