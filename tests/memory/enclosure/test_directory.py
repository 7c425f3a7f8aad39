"""A folder of images: which files are disks, which are not, and how their ids last. Real files and folders."""

import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from meshfs import limits
from meshfs.enclosure.directory import ATTRIBUTE, FolderImages, Image, choose, scan_folder


def drop(folder: Path, name: str, data: bytes = b"data") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    return path


def scan(folder: Path) -> dict[str, str]:
    """Return the id of each image, or the reason why it has none."""
    return {image.path.name: image.id or image.why for image in scan_folder(folder, {}).images}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    drop(folder, "07-db.img")
    if ATTRIBUTE not in os.listxattr(folder / "07-db.img"):
        try:
            os.setxattr(folder / "07-db.img", "user.test", b"")
        except OSError:
            pytest.skip("this file system has no extended attributes")
    return folder


def test_an_image_gets_an_id_that_stays(folder: Path, tmp_path: Path) -> None:
    first = scan(folder)["07-db.img"]
    assert first.startswith("image-")
    assert scan(folder) == {"07-db.img": first}
    (folder / "07-db.img").rename(folder / "03-other.img")
    folder.rename(tmp_path / "moved")
    assert scan(tmp_path / "moved") == {"03-other.img": first}


def test_only_regular_files_that_are_not_hidden_are_images(folder: Path) -> None:
    drop(folder, ".hidden")
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("07-db.img")
    os.mkfifo(folder / "pipe")
    assert list(scan(folder)) == ["07-db.img"]


def test_an_empty_file_is_refused(folder: Path) -> None:
    drop(folder, "a", b"")
    assert scan(folder)["a"] == "it is empty"
    assert ATTRIBUTE not in os.listxattr(folder / "a")


def test_a_file_that_is_being_written_is_refused_until_it_is_closed(folder: Path) -> None:
    with (folder / "half").open("wb") as file:
        file.write(b"half")
        file.flush()
        assert scan(folder)["half"] == "a program has it open for writing"
        assert ATTRIBUTE not in os.listxattr(folder / "half")
    assert scan(folder)["half"].startswith("image-")


def test_without_leases_a_file_must_not_have_changed_for_a_moment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, command: int, *_: int) -> int:
        if command == fcntl.F_SETLEASE:
            raise OSError(22, os.strerror(22))
        return 0

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert scan(folder)["07-db.img"] == "a program has it open for writing"
    before_s = time.time() - limits.FOLDER_STEADY_S
    os.utime(folder / "07-db.img", (before_s, before_s))
    assert scan(folder)["07-db.img"].startswith("image-")


def test_an_image_that_is_offered_may_be_open_for_writing(folder: Path) -> None:
    offered = scan(folder)["07-db.img"]
    with (folder / "07-db.img").open("r+b") as file:
        status = os.fstat(file.fileno())
        (image,) = scan_folder(folder, {(status.st_dev, status.st_ino): offered}).images
    assert (image.id, image.why) == (offered, "")


def test_an_image_that_is_offered_stays_when_the_folder_has_too_many_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DISKS_PER_NODE_MAX", 2)
    (image,) = scan_folder(folder, {}).images
    for name in ("01", "02", "03"):
        drop(folder, name)
    assert [each.path.name for each in scan_folder(folder, {}).images] == ["01", "02"]
    assert [each.path.name for each in scan_folder(folder, {image.key: image.id}).images] == ["01", "07-db.img"]


def test_an_image_that_is_offered_stays_when_descriptors_or_attributes_fail(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image,) = scan_folder(folder, {}).images
    offered = {image.key: image.id}

    def refuse(*_: object, **__: object) -> int:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(os, "getxattr", refuse)
    assert scan_folder(folder, offered).images == (image,)
    monkeypatch.setattr(os, "getxattr", None)
    opening = os.open

    def open_folders_only(path: object, *arguments: Any, dir_fd: int | None = None) -> int:
        if dir_fd is not None:
            raise OSError(24, os.strerror(24))
        return opening(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", open_folders_only)
    assert scan_folder(folder, offered).images == (image,)
    (refused,) = scan_folder(folder, {}).images
    assert refused.why == "it cannot be opened: Too many open files"


def test_a_program_that_opens_a_file_meanwhile_is_not_held_up(folder: Path) -> None:
    """A thread opens the file for writing again and again, while another one looks at the folder again and again."""
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            (folder / "07-db.img").open("r+b").close()

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(300):
        scan_folder(folder, {})
    stop.set()
    writer.join(5)
    assert not writer.is_alive()


def test_an_attribute_that_is_no_id_is_refused(folder: Path) -> None:
    os.setxattr(folder / "07-db.img", ATTRIBUTE, b"../../etc/passwd")
    assert "which is no id of an image" in scan(folder)["07-db.img"]


def test_a_file_system_without_attributes_is_the_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(os, "getxattr", refuse)
    assert "has no extended attributes" in scan(folder)["07-db.img"]


def test_strange_names_are_names(folder: Path) -> None:
    for name in (b"a\nb", b"\xff\xfe", b" ", b"x" * 255):
        (Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))).write_bytes(b"data")
    assert len(scan(folder)) == 5
    assert all(found.startswith("image-") for found in scan(folder).values())


def test_a_missing_folder_has_no_images_and_a_reason(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert scan_folder(missing, {}) == FolderImages(
        why=f"its folder {missing} cannot be read: No such file or directory"
    )


# --- several images with one id ------------------------------------------------------------


def image(path: str, inode: int, disk: str = "image-a", why: str = "") -> Image:
    return Image(Path(path), (1, inode), 4096, disk, why)


def test_of_two_images_with_one_id_the_first_is_a_disk() -> None:
    first, copy = image("/a/1", 1), image("/a/2", 2)
    kept, (refused,) = choose({"a": [first, copy]}, {})
    assert kept == {"a": [first]}
    assert refused.path == copy.path
    assert refused.why == (
        "/a/1 has the same id; if this is a copy, give it an own id with `setfattr -x user.meshfs.id`"
    )


def test_the_image_that_is_offered_stays_when_a_copy_comes_before_it() -> None:
    copy, mine = image("/a/1", 1), image("/b/2", 2)
    kept, refused = choose({"a": [copy], "b": [mine]}, {"image-a": mine.key})
    assert kept == {"a": [], "b": [mine]}
    assert [each.path for each in refused] == [copy.path]


def test_two_names_of_one_file_are_one_disk() -> None:
    kept, (refused,) = choose({"a": [image("/a/1", 1), image("/a/2", 1)]}, {"image-a": (1, 1)})
    assert [each.path for each in kept["a"]] == [Path("/a/1")]
    assert refused.why == "it is the same file as /a/1"


def test_an_image_that_is_refused_is_no_twin() -> None:
    kept, refused = choose({"a": [image("/a/1", 1, why="it is empty"), image("/a/2", 2)]}, {})
    assert [each.path for each in kept["a"]] == [Path("/a/2")]
    assert [each.why for each in refused] == ["it is empty"]


def test_the_name_of_a_listed_disk_is_taken() -> None:
    _, (refused,) = choose({"a": [image("/a/1", 1)]}, {}, {"image-a"})
    assert refused.why == "a listed disk of the config has this id as its name"
