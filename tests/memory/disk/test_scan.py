"""The facts of a disk that are read from sysfs, on made-up trees."""

from pathlib import Path

import pytest

from meshfs.disk.discovery import sysfs
from meshfs.disk.engines.threads import ThreadEngine
from meshfs.disk.file import claim, directio
from meshfs.disk.file.directio import Alignment
from meshfs.disk.file.verifier import make_verifier
from meshfs.errors import ConfigError
from meshlab.fakes.file_disks import running


@pytest.mark.parametrize(
    ("files", "serial"),
    [
        ({"device/serial": b"NVME-1 \n"}, "NVME-1"),
        ({"serial": b"virtio1"}, "virtio1"),
        ({"device/vpd_pg80": b"\x00\x80\x00\x06SCSI-1trailing"}, "SCSI-1"),
        ({"device/vpd_pg80": b"\x00\x80"}, ""),
        ({"device/serial": b"bad\x00\x1b\xff"}, "bad\ufffd"),
        ({}, ""),
    ],
)
def test_a_serial_number_is_where_the_driver_puts_it(tmp_path: Path, files: dict[str, bytes], serial: str) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert sysfs.serial_of(tmp_path) == serial


def test_the_disk_of_a_partition_is_its_parent(tmp_path: Path) -> None:
    (tmp_path / "sda/sda1").mkdir(parents=True)
    (tmp_path / "sda/sda1/partition").write_text("1\n")
    assert sysfs.whole_disk(tmp_path / "sda/sda1") == tmp_path / "sda"
    assert sysfs.whole_disk(tmp_path / "sda") == tmp_path / "sda"
    assert sysfs.whole_disk(tmp_path / "gone") == tmp_path / "gone"


def test_alignment_without_statx_is_found_by_trying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directio, "_statx", lambda fd: None)
    with (tmp_path / "image").open("w+b") as file:
        file.truncate(1000)
        assert directio.alignment_of(file.fileno(), 512) == Alignment(4096, 4096)
        file.truncate(1 << 20)
        assert directio.alignment_of(file.fileno(), 512) == Alignment(512, 512)


async def test_blocks_too_large_for_direct_io_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image").write_bytes(bytes(1 << 20))
    monkeypatch.setattr(claim, "alignment_of", lambda fd, block: Alignment(65536, 512))
    async with running(ThreadEngine()) as engine:
        with pytest.raises(ConfigError, match='blocks of 65536 bytes; use cache = "writeback"'):
            await claim.open_disk(tmp_path / "image", engine=engine)


def test_a_verifier_depends_on_disk_and_instance() -> None:
    verifiers = {make_verifier("a"), make_verifier("b"), make_verifier("a", "1")}
    assert len(verifiers) == 3
    assert all(len(verifier) == 64 for verifier in verifiers)
    assert make_verifier("a") in verifiers
