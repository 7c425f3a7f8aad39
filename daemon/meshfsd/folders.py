"""Find the images in a node's folders, whose enclosures they are in, and follow the folders as they change.

    configure    takes over the folders of a config, and looks at all of them
    run          looks at a folder again when the kernel reports a change, and from time to time
    disks        the images that are to be served, each with its slot

A file system may be stuck, so each folder is looked at in a thread of its own, with a time limit. While a folder does
not answer, its images stay as they were.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from meshfs import limits
from meshfs.cluster.config_enclosures import DirectoryConfig
from meshfs.cluster.config_nodes import DiskConfig
from meshfs.disk.discovery.scan import identity_of_file
from meshfs.enclosure.bays import Place, Wish, assign, number_of
from meshfs.enclosure.directory import FileKey, FolderImages, Image, choose, scan_folder
from meshfs.errors import TookTooLong
from meshfs.linux.inotify import FolderChanges
from meshfs.loop.bounded import Bounded

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FolderDisk:
    """Describes an image that is to be served. ``folder`` is the name of its enclosure."""

    config: DiskConfig
    folder: str
    place: Place
    key: FileKey
    size_bytes: int


@dataclass(eq=False)
class _Folder:
    """Follows one folder.

    ``places`` has the slots of its images. ``known`` also has those of images that have left, and whose slots are free:
    an image that returns gets its slot again.
    """

    config: DirectoryConfig
    known: Mapping[str, Place]
    calls: Bounded
    places: Mapping[str, Place] = field(default_factory=dict)
    found: FolderImages = field(default_factory=FolderImages)
    watch: int | None = None
    stuck: str = ""
    due: trio.Event = field(default_factory=trio.Event)
    looking: bool = False
    #: Is held during a look, so that an older result never replaces a newer one.
    turn: trio.Lock = field(default_factory=trio.Lock)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def why(self) -> str:
        """Return why the folder cannot be read, or ""."""
        return self.stuck or self.found.why


class Folders:
    """Holds the folders of a node. ``on_change`` is called when their images or slots have changed."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.disks: Sequence[FolderDisk] = ()
        #: The files that are not served, each with its reason.
        self.refused: Sequence[Image] = ()
        self._on_change = on_change
        self._folders: dict[str, _Folder] = {}
        self._taken: Collection[str] = ()
        self._resized: set[str] = set()
        self._nursery: trio.Nursery | None = None
        self._changes: FolderChanges | None = None
        self._opened = trio.Event()
        #: Is set when the look at a folder has ended.
        self._looked = trio.Event()

    async def configure(
        self, configs: Sequence[DirectoryConfig], places: Mapping[str, Mapping[str, Place]], taken: Collection[str]
    ) -> None:
        """Follow exactly these folders, and look at all of them now.

        ``places`` has the earlier slots of disks, by the names of new folders. ``taken`` has the names of listed disks.
        """
        self._taken = taken
        if configs and not self._opened.is_set():
            self._changes = _open_changes()
            self._opened.set()
        names = {config.name for config in configs}
        for name in [name for name in self._folders if name not in names]:
            self._drop(self._folders.pop(name))
        for config in configs:
            folder = self._folders.get(config.name)
            if folder is None:
                calls = Bounded(f"the folder {config.path}")
                folder = self._folders[config.name] = _Folder(config, places.get(config.name, {}), calls)
                if self._nursery is not None:
                    self._nursery.start_soon(self._follow, folder)
            elif folder.config.path != config.path:
                folder.calls = Bounded(f"the folder {config.path}")
            folder.config = config
        # The order of the config decides which of two images with one id is served.
        self._folders = {config.name: self._folders[config.name] for config in configs}
        async with trio.open_nursery() as nursery:
            for folder in self._folders.values():
                nursery.start_soon(self._look, folder)
        self._decide()

    def take_resized(self) -> set[str]:
        """Return the names of the disks whose size has changed since the last call."""
        resized, self._resized = self._resized, set()
        return resized

    def replaced(self, opened: Mapping[str, str]) -> set[str]:
        """Return the names of the disks whose open image is another file than the image in the folder.

        The file in the folder may have the id and the path of the open one. ``opened`` has the identities of the open
        images (`DiskFacts.identity`), by the names of their disks.
        """
        return {
            disk.config.name
            for disk in self.disks
            if opened.get(disk.config.name) not in (None, identity_of_file(*disk.key))
        }

    def __contains__(self, name: str) -> bool:
        """Return whether the folder of that name is followed."""
        return name in self._folders

    def why(self, name: str) -> str:
        """Return why the folder of that name cannot be read, or ""."""
        return self._folders[name].why

    def places(self, name: str) -> Mapping[str, Place]:
        """Return the slots of the folder's images, by the ids of the images."""
        return self._folders[name].places

    def slots(self, name: str) -> int:
        """Return the number of slots that the folder's enclosure has."""
        return self._folders[name].config.slots

    def close(self) -> None:
        if self._changes is not None:
            self._changes.close()

    # --- following

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for folder in self._folders.values():
                nursery.start_soon(self._follow, folder)
            await self._hear()

    async def _hear(self) -> None:
        await self._opened.wait()
        if self._changes is None:
            await trio.sleep_forever()
            return
        while True:
            watches = await self._changes.wait()
            for folder in self._folders.values():
                if watches is None or folder.watch in watches:
                    folder.due.set()

    async def _follow(self, folder: _Folder) -> None:
        with folder.scope:
            while True:
                with trio.move_on_after(limits.FOLDER_RETRY_S if folder.watch is None else limits.FOLDER_CHECK_S):
                    await folder.due.wait()
                folder.due = trio.Event()
                if await self._look(folder):
                    await self._settle(folder)
                    self._decide()
                    self._on_change()

    async def _settle(self, mine: _Folder) -> None:
        """Wait a moment for the looks at other folders, because an image may have moved from one to another.

        If only one of the two folders were known, the image would count as removed, and its opens would end.
        """
        with trio.move_on_after(limits.DEVICE_SETTLE_S):
            while any(each.looking or each.due.is_set() for each in self._folders.values() if each is not mine):
                await self._looked.wait()

    async def _look(self, folder: _Folder) -> bool:
        """Look at the folder. Return whether anything has changed there."""
        async with folder.turn:
            return await self._look_now(folder)

    async def _look_now(self, folder: _Folder) -> bool:
        before, stuck = folder.found, folder.stuck
        folder.looking = True
        offered = {disk.key: disk.config.id for disk in self.disks}
        try:
            watch, folder.found = await folder.calls.call(
                _scan, self._changes, folder.config.path, offered, timeout_s=limits.DISK_CALL_TIMEOUT_S
            )
        except (OSError, TookTooLong) as error:
            folder.stuck = f"its folder {folder.config.path}: {error}"
        else:
            folder.stuck = ""
            if folder.watch not in (None, watch):
                self._forget(folder.watch)
            folder.watch = watch
        finally:
            folder.looking = False
            self._looked.set()
            self._looked = trio.Event()
        if folder.why and folder.why != (stuck or before.why):
            logger.warning("enclosure %s: %s", folder.config.name, folder.why)
        return (folder.found, folder.stuck) != (before, stuck)

    def _drop(self, folder: _Folder) -> None:
        folder.scope.cancel()
        self._forget(folder.watch)

    def _forget(self, watch: int | None) -> None:
        if watch is not None and self._changes is not None:
            self._changes.forget(watch)

    # --- deciding

    def _decide(self) -> None:
        """Decide which images are served, and in which slots they are."""
        known = {disk.config.id: disk for disk in self.disks}
        offered = {disk_id: disk.key for disk_id, disk in known.items()}
        kept, refused = choose(
            {name: folder.found.images for name, folder in self._folders.items()}, offered, self._taken
        )
        disks: list[FolderDisk] = []
        for name, images in kept.items():
            folder = self._folders[name]
            wishes = [Wish(image.id, number_of(image.path.name)) for image in images]
            places = folder.places = assign(wishes, folder.known, folder.config.slots)
            taken = {place.slot for place in places.values()}
            left = {disk: place for disk, place in folder.known.items() if place.slot not in taken}
            folder.known = {**left, **places}
            for image in images:
                place = folder.places.get(image.id)
                if place is None:
                    refused.append(image.refuse(f"all {folder.config.slots} slots of enclosure {name} are occupied"))
                else:
                    disks.append(FolderDisk(_config(image, folder.config), name, place, image.key, image.size_bytes))
        for disk in disks:
            before = known.get(disk.config.id, disk)
            if before.key == disk.key and before.size_bytes != disk.size_bytes:
                self._resized.add(disk.config.name)
        self._log(disks, refused)
        self.disks, self.refused = disks, refused

    def _log(self, disks: Sequence[FolderDisk], refused: Sequence[Image]) -> None:
        """Log each image that is served or refused now, and was not before."""
        known = {(disk.config.id, disk.config.path, disk.place.slot) for disk in self.disks}
        for disk in disks:
            if (disk.config.id, disk.config.path, disk.place.slot) not in known:
                logger.info(
                    "image %r is disk %s in slot %d of enclosure %s",
                    str(disk.config.path),
                    disk.config.id,
                    disk.place.slot,
                    disk.folder,
                )
        before = {(image.path, image.why) for image in self.refused}
        for image in refused:
            if (image.path, image.why) not in before:
                logger.info("image %r is not offered: %s", str(image.path), image.why)


def _open_changes() -> FolderChanges | None:
    """Return a new FolderChanges, or None if the kernel gives none, which is logged."""
    try:
        return FolderChanges()
    except OSError as error:
        logger.warning("folders are looked at every %g s: %s", limits.FOLDER_RETRY_S, error.strerror)
        return None


def _scan(
    changes: FolderChanges | None, folder: Path, offered: Mapping[FileKey, str]
) -> tuple[int | None, FolderImages]:
    """Watch the folder and look at its images, in a thread. The watch is None if the folder cannot be watched."""
    watch: int | None = None
    if changes is not None:
        try:
            # The watch comes first, so that a change during the look is reported.
            watch = changes.watch(folder)
        except OSError:
            watch = None
    return watch, scan_folder(folder, offered)


def _config(image: Image, folder: DirectoryConfig) -> DiskConfig:
    return DiskConfig(
        name=image.id,
        path=image.path,
        cache=folder.disk_cache,
        access=folder.disk_access,
        nodes=folder.disk_nodes,
        id=image.id,
    )
