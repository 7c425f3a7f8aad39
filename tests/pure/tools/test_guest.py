"""The decisions of tools/guest: package, order of modules, archive, QEMU's command, exit status."""

import itertools
import stat
import subprocess
from pathlib import Path

import pytest

from vm import cpio, initramfs
from vm.build import Guest
from vm.errors import GuestFailure
from vm.modules import load_order, parse_builtin, parse_dependencies
from vm.packages import kernel_dependency
from vm.qemu import DISK_SIZE_DEFAULT_BYTES, Disk, command_line, parse_disk
from vm.run import CONSOLE_LINES, STATUS_DIED, STATUS_TIMED_OUT, command_script, console_tail, verdict

MODULES_DEP = """\
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz
kernel/net/9p/9pnet.ko.xz: kernel/fs/netfs/netfs.ko.xz
kernel/fs/netfs/netfs.ko.xz:
kernel/drivers/char/hw_random/virtio-rng.ko.xz:
"""


def test_the_kernel_is_what_the_meta_package_depends_on() -> None:
    printed = "linux-image-6.12-amd64\n  Depends: linux-image-6.12.117+deb12-amd64\n  Suggests: other\n"
    assert kernel_dependency(printed) == "linux-image-6.12.117+deb12-amd64"
    assert kernel_dependency("linux-image-amd64\n  Depends: linux-image-6.1.0-50-amd64\n") is None
    assert kernel_dependency("") is None


def test_modules_come_after_what_they_need_and_once() -> None:
    dependencies = parse_dependencies(MODULES_DEP)
    assert load_order(["9pnet_virtio", "9p", "virtio_rng"], dependencies, set()) == [
        "kernel/fs/netfs/netfs.ko.xz",
        "kernel/net/9p/9pnet.ko.xz",
        "kernel/net/9p/9pnet_virtio.ko.xz",
        "kernel/fs/9p/9p.ko.xz",
        "kernel/drivers/char/hw_random/virtio-rng.ko.xz",
    ]


def test_a_module_is_loaded_or_linked_in_or_an_error() -> None:
    dependencies = parse_dependencies(MODULES_DEP)
    builtin = parse_builtin("kernel/fs/fuse/fuse.ko\nkernel/drivers/virtio/virtio-pci.ko\n")
    assert load_order(["fuse", "virtio_pci"], dependencies, builtin) == []
    with pytest.raises(GuestFailure, match="siw"):
        load_order(["9p", "siw"], dependencies, builtin)


def test_the_archive_is_read_by_an_unpacker() -> None:
    """A reader of the format, written from the kernel's description, finds each entry with its mode and data."""
    entries = [
        cpio.folder("dev"),
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", b"#!/bin/sh\n", executable=True),
        cpio.file("odd", b"abc"),
        cpio.symlink("sh", "busybox"),
    ]
    read = list(_unpacked(cpio.archive(entries)))
    assert [(name, mode, data, device) for name, mode, data, device in read] == [
        (entry.name, entry.mode, entry.data, entry.device) for entry in entries
    ]


def _unpacked(data: bytes) -> list[tuple[str, int, bytes, tuple[int, int]]]:
    found, at = [], 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_size, size = fields[11], fields[6]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        start = -(-(at + 110 + name_size) // 4) * 4
        at = -(-(start + size) // 4) * 4
        if name == "TRAILER!!!":
            assert at == len(data)
            return found
        found.append((name, fields[1], data[start : start + size], (fields[9], fields[10])))


def test_the_initramfs_loads_its_modules_in_order() -> None:
    entries = initramfs.entries(b"busybox", [("kernel/b.ko.xz", b"B"), ("kernel/a-c.ko.xz", b"A")])
    by_name = {entry.name: entry for entry in entries}
    assert by_name["modules/order"].data == b"b.ko\na_c.ko\n"
    assert by_name["modules/a_c.ko"].data == b"A"
    assert by_name["init"].mode == stat.S_IFREG | 0o755


@pytest.mark.parametrize("script", [initramfs.start_script(), initramfs.entries(b"", [])[-1].data.decode()])
def test_the_scripts_are_sound(script: str) -> None:
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_disks_are_read_with_their_size() -> None:
    assert parse_disk("nvme") == Disk("nvme", DISK_SIZE_DEFAULT_BYTES)
    assert parse_disk("virtio-blk:2G") == Disk("virtio-blk", 2 << 30)
    assert parse_disk("virtio-scsi:1536") == Disk("virtio-scsi", 1536)
    for wrong in ("ide", "nvme:0", "nvme:100", "nvme:1T", "nvme:-1M"):
        with pytest.raises(ValueError, match=r"disk|size"):
            parse_disk(wrong)


def test_the_command_line_has_shares_and_disks() -> None:
    guest = Guest(Path("/c/vmlinuz"), Path("/c/initramfs"), Path("/c/root"))
    words = command_line(guest, Path("/run,1"), [(Disk("virtio-scsi", 512), Path("/run,1/disk0"))])
    text = " ".join(words)
    assert "-accel tcg,thread=multi" in text
    assert "kvm" not in text
    # Commas in a path are doubled. Otherwise QEMU would read the rest as an option.
    assert "file=/run,,1/disk0,format=raw" in text
    assert "-device virtio-scsi-pci,id=scsi0 -device scsi-hd,bus=scsi0.0,drive=drive0,serial=virtio-scsi-0" in text
    shares = [word for before, word in itertools.pairwise(words) if before == "-fsdev"]
    assert [share.endswith("readonly=on") for share in shares] == [True, True, False]


def test_the_exit_status_is_the_commands_or_says_why_there_is_none() -> None:
    assert verdict("7\n", timed_out=False) == 7
    # The command ended just when the time was over, and its exit status counts.
    assert verdict("0\n", timed_out=True) == 0
    assert verdict(None, timed_out=True) == STATUS_TIMED_OUT
    assert verdict(None, timed_out=False) == STATUS_DIED
    assert verdict("", timed_out=False) == STATUS_DIED


def test_the_command_runs_where_it_was_called(tmp_path: Path) -> None:
    words = ["sh", "-c", 'printf "%s|" "$PWD" "$NAME" "$1"; exit 3', "sh", "it's"]
    script = command_script(words, tmp_path, {"NAME": "a b"})
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, f"{tmp_path}|a b|it's|")


def test_the_consoles_end_is_plain_text() -> None:
    text = "\n".join(f"line {n}\r" for n in range(200)) + "\n\x1b[31mlast"
    lines = console_tail(text).split("\n")
    assert len(lines) == CONSOLE_LINES
    assert lines[-2:] == ["line 199", "[31mlast"]
