"""The kernel reports a file that comes, goes or is closed after writing, and not the writes themselves."""

import os
import struct
from pathlib import Path

import pytest
import trio

from meshfs.linux.inotify import FolderChanges, changed_watches


@pytest.fixture
def changes() -> FolderChanges:
    try:
        return FolderChanges()
    except OSError:
        pytest.skip("this machine gives no inotify descriptor")


async def hears(changes: FolderChanges) -> set[int] | None:
    """Return the watches of the changes within a moment."""
    with trio.move_on_after(0.5):
        return await changes.wait()
    return set()


async def test_a_file_that_comes_is_renamed_and_goes(changes: FolderChanges, tmp_path: Path) -> None:
    folder, other = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    other.mkdir()
    watch, others = changes.watch(folder), changes.watch(other)
    assert await hears(changes) == set()
    (folder / "x").write_bytes(b"data")
    assert await hears(changes) == {watch}
    (folder / "x").rename(folder / "y")
    assert await hears(changes) == {watch}
    (folder / "y").rename(other / "y")
    assert await hears(changes) == {watch, others}
    (other / "y").unlink()
    assert await hears(changes) == {others}
    changes.close()


async def test_writes_are_not_reported_but_the_close_after_them(changes: FolderChanges, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"data")
    watch = changes.watch(tmp_path)
    fd = os.open(tmp_path / "x", os.O_RDWR)
    os.pwrite(fd, b"more", 0)
    os.ftruncate(fd, 1 << 20)
    os.fsync(fd)
    assert await hears(changes) == set()
    os.close(fd)
    assert await hears(changes) == {watch}
    changes.close()


async def test_a_watch_follows_its_folder_and_another_folder_has_another_watch(
    changes: FolderChanges, tmp_path: Path
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    watch = changes.watch(folder)
    assert changes.watch(folder) == watch
    folder.rename(tmp_path / "b")
    assert await hears(changes) == {watch}
    folder.mkdir()
    assert changes.watch(folder) != watch
    changes.forget(watch)
    changes.forget(watch)
    changes.close()


def test_a_missing_folder_is_an_error(changes: FolderChanges, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        changes.watch(tmp_path / "missing")
    changes.close()


def test_lost_events_are_noticed() -> None:
    event = struct.pack("=iIII", 3, 0x100, 0, 16) + b"name".ljust(16, b"\0")
    lost = struct.pack("=iIII", -1, 0x4000, 0, 0)
    assert changed_watches(event) == ({3}, False)
    assert changed_watches(event + lost + event) == ({3}, True)
    assert changed_watches(b"") == (set(), False)
