"""The kernel's table of mounts, as bytes."""

import os
from pathlib import Path

from meshfs.linux.mountinfo import MountEntry, parse_mounts, read_mounts, topmost, unescape


def test_octal_escapes_are_bytes() -> None:
    assert unescape(rb"a\011b\134c") == "a\tb\\c"
    # 303 251 is one letter in UTF-8. Bytes that are not UTF-8 stay as os.fsdecode keeps them.
    assert unescape(rb"\303\251") == "\u00e9"
    assert os.fsencode(unescape(rb"a\377")) == b"a\xff"
    # These three digits after a backslash are no byte, and the kernel never writes them.
    assert unescape(rb"\777") == r"\777"


def test_only_newlines_and_blanks_divide() -> None:
    """Next line, no-break space and line separator are characters of a name."""
    odd = "/mnt/a\u0085b\u00a0c\u2028d"
    line = f"36 35 0:40 / {odd} rw,x - fuse.meshfs {odd}.toml rw\n"
    assert list(parse_mounts(line.encode())) == [MountEntry(os.makedev(0, 40), odd, "fuse.meshfs", odd + ".toml")]


def test_other_lines_are_left_out() -> None:
    assert list(parse_mounts(b"\ngarbage\n36 35 0:40 / /mnt rw fuse.meshfs c rw\n1 - a b\n")) == []


def test_the_topmost_mount_is_found() -> None:
    mounts = list(
        parse_mounts(
            b"36 35 98:0 / / rw - ext3 /dev/root rw\n"
            b"40 36 0:40 / /mnt/a\\040b rw - fuse.meshfs c rw\n"
            b"41 40 0:41 / /mnt/a\\040b rw - tmpfs c rw\n"
        )
    )
    found = topmost(mounts, "/mnt/a b")
    assert found is not None
    assert (found.device, found.is_mesh, mounts[1].is_mesh) == (os.makedev(0, 41), False, True)
    assert topmost(mounts, "/mnt") is None


def test_a_machine_without_the_table(tmp_path: Path) -> None:
    assert read_mounts(tmp_path / "mountinfo") == []
    assert topmost(read_mounts(), "/proc") is not None
