"""Look at a folder of images: which files are images, what their ids are, and why a file is not offered as a disk.

    scan_folder    looks at the files. Blocks as long as the file system blocks
    image_id       reads the id of an open file
    choose         decides which of the images of all folders of a node are disks, if several have one id. Pure

Each regular file that is not hidden is an image. Its id is in its extended attribute user.meshfs.id, which is made when
the image is first seen. So the id survives a new name of the file or of the folder, and a move to another folder of the
same file system. A copy of the file has the id only if the copy program was asked to copy extended attributes.

A file that a program has open for writing is not complete, so it is not offered yet. The kernel gives a read lease only
on a file that nobody has open for writing (fcntl(2), F_SETLEASE). On a file system without leases, the file must not
have changed for FOLDER_STEADY_S. An image that was offered before is not asked again, because the exporter itself has
it open.
"""

import contextlib
import errno
import fcntl
import os
import re
import signal
import stat
import time
import uuid
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from meshfs import limits

#: The extended attribute that has the id of an image.
ATTRIBUTE: Final = "user.meshfs.id"
_ID: Final = re.compile(r"image-[0-9a-z-]{1,57}")

#: Identifies a file until the machine reboots: the numbers of its file system and its inode.
FileKey = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Image:
    """Describes one file of a folder. ``why`` says why the file is not a disk, or is empty."""

    path: Path
    key: FileKey
    size_bytes: int
    id: str = ""
    why: str = ""

    def refuse(self, why: str) -> Self:
        """Return the image as one that is not a disk."""
        return replace(self, why=why)


@dataclass(frozen=True, slots=True)
class FolderImages:
    """Holds the images of one folder, in the order of their names. ``why`` says why the folder cannot be read."""

    images: tuple[Image, ...] = ()
    why: str = ""


def scan_folder(folder: Path, offered: Mapping[FileKey, str]) -> FolderImages:
    """Return the images in the folder. ``offered`` has the ids of the images that were offered at the last look.

    A folder that is missing has no images. Raises OSError if the file system fails in any other way.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        return FolderImages(why=f"its folder {folder} cannot be read: {error.strerror}")
    try:
        found = (_image(folder, fd, name, offered) for name in _names(fd, offered))
        return FolderImages(tuple(image for image in found if image is not None))
    finally:
        os.close(fd)


def _names(folder_fd: int, offered: Mapping[FileKey, str]) -> list[str]:
    """Return the names of the files to look at, in their order. If there are too many, offered images come first."""
    device = os.fstat(folder_fd).st_dev
    with os.scandir(folder_fd) as entries:
        files = [(entry.name, entry.inode()) for entry in entries if not entry.name.startswith(".")]
    files.sort(key=lambda file: ((device, file[1]) not in offered, file[0]))
    return sorted(name for name, _ in files[: limits.DISKS_PER_NODE_MAX])


def _image(folder: Path, folder_fd: int, name: str, offered: Mapping[FileKey, str]) -> Image | None:
    """Return the image, or None if the file is no regular file or was removed meanwhile."""
    path = folder / name
    known: str | None = None
    try:
        status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            return None
        known = offered.get((status.st_dev, status.st_ino))
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        if known is not None:
            # The lack of a descriptor, for example, is no reason to end the opens of a disk.
            return Image(path, (status.st_dev, status.st_ino), status.st_size, known)
        return Image(path, (0, 0), 0, why=f"it cannot be opened: {error.strerror}")
    try:
        return _look(path, fd, status, known)
    finally:
        os.close(fd)


def _look(path: Path, fd: int, status: os.stat_result, offered: str | None) -> Image:
    """Return the image. ``offered`` is its id if it was offered at the last look."""
    key, size_bytes = (status.st_dev, status.st_ino), status.st_size
    if offered is not None and _is_another(fd, offered):
        offered = None
    if offered is None and _is_being_written(fd, status.st_mtime):
        return Image(path, key, size_bytes, why="a program has it open for writing")
    if offered is None and not size_bytes:
        return Image(path, key, size_bytes, why="it is empty")
    try:
        return Image(path, key, size_bytes, _id_of(fd))
    except ValueError as error:
        return Image(path, key, size_bytes, why=str(error))
    except OSError as error:
        if offered is not None:
            return Image(path, key, size_bytes, offered)
        why = f"its id cannot be kept in its attribute {ATTRIBUTE}: {error.strerror}"
        if error.errno == errno.ENOTSUP:
            why = f"its file system has no extended attributes, so its id cannot be kept ({ATTRIBUTE})"
        return Image(path, key, size_bytes, why=why)


def _is_another(fd: int, offered: str) -> bool:
    """Return whether the file does not have the id ``offered``. A new file may get the inode of a removed image."""
    try:
        return image_id(fd) != offered
    except OSError:
        return False


def _is_being_written(fd: int, changed_s: float) -> bool:
    """Return whether a program has the file open for writing. ``changed_s`` is the time of its last change."""
    try:
        # If a program opens the file now, the kernel sends a signal to this process. By default, SIGIO would end it.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        # Any other error than EAGAIN says that the file system has no leases, or that this process may not have one.
        return error.errno == errno.EAGAIN or abs(time.time() - changed_s) < limits.FOLDER_STEADY_S
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _id_of(fd: int) -> str:
    """Return the id of the image, and give it one if it has none. Raises ValueError for an attribute that is no id."""
    kept = _attribute(fd)
    if kept is None:
        # If the attribute exists now, another exporter has just done the same.
        with contextlib.suppress(FileExistsError):
            os.setxattr(fd, ATTRIBUTE, f"image-{uuid.uuid4()}".encode(), os.XATTR_CREATE)
        kept = _attribute(fd) or b""
    text = kept.decode("ascii", errors="replace")
    if not _ID.fullmatch(text):
        raise ValueError(f"its attribute {ATTRIBUTE} is {text!r:.80}, which is no id of an image; remove the attribute")
    return text


def is_image_id(text: str) -> bool:
    """Return whether the id of a disk is that of an image in a folder."""
    return _ID.fullmatch(text) is not None


def image_id(fd: int) -> str:
    """Return the id that the attribute of an open file has, or "" if there is none. Blocks. Raises OSError."""
    return (_attribute(fd) or b"").decode("ascii", errors="replace")


def _attribute(fd: int) -> bytes | None:
    try:
        return os.getxattr(fd, ATTRIBUTE)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise


def choose(
    folders: Mapping[str, Sequence[Image]], offered: Mapping[str, FileKey], taken: Container[str] = ()
) -> tuple[dict[str, list[Image]], list[Image]]:
    """Return the images that are disks, by folder, and the images that are not, each with its reason.

    If several images have one id, the one that is ``offered`` under that id stays, otherwise the first one. ``taken``
    has the names of listed disks.
    """
    chosen = _holders(folders, offered)
    kept: dict[str, list[Image]] = {}
    refused: list[Image] = []
    for folder, images in folders.items():
        kept[folder] = []
        for image in images:
            holder = chosen.get(image.id)
            if image.why:
                refused.append(image)
            elif image.id in taken:
                refused.append(image.refuse("a listed disk of the config has this id as its name"))
            elif holder is not image and holder is not None:
                refused.append(image.refuse(_twin_of(image, holder)))
            else:
                kept[folder].append(image)
    return kept, refused


def _holders(folders: Mapping[str, Iterable[Image]], offered: Mapping[str, FileKey]) -> dict[str, Image]:
    """Return the image that has each id."""
    holders: dict[str, Image] = {}
    for images in folders.values():
        for image in images:
            if image.why:
                continue
            holder = holders.setdefault(image.id, image)
            key = offered.get(image.id)
            if holder.key != key and image.key == key:
                holders[image.id] = image
    return holders


def _twin_of(image: Image, holder: Image) -> str:
    if image.key == holder.key:
        return f"it is the same file as {holder.path}"
    return f"{holder.path} has the same id; if this is a copy, give it an own id with `setfattr -x {ATTRIBUTE}`"
