"""Keeps files and directories of the scratch share. A directory counts what is below it. Pure.

Directories nest at most SCRATCH_DEPTH_MAX deep. So an operation may walk from a file up to the root, but none walks
down. A rename has to know whether anything below a directory is open, and how deep the directories below it nest. Each
directory keeps both counts while files are opened, closed, made, moved and removed.
"""

from collections.abc import Iterator
from typing import Protocol, Self

from sortedcontainers import SortedDict

from meshfs.exporter.rules.locks import Lockable
from meshfs.exporter.rules.oplock import Oplock
from meshfs.exporter.rules.share_access import ShareCounts
from meshfs.smb.info import short_name
from meshfs.smb.messages import FileTimes


class OpenOfFile(Protocol):
    """Declares what a file needs of an open. `meshfs.exporter.kinds.scratch.open.ScratchOpen` implements it."""

    access: int
    share_access: int

    def changed(self, what: int, action: int, name: str, *, below: bool) -> None:
        """Take a change of a file in the directory of the open. ``what`` are flags of NotifyFilter.

        ``below`` says that the file is in a directory below that directory.
        """

    def deleted(self) -> None:
        """Expect no more changes, because the directory of the open is about to be deleted."""


class ScratchFile(Lockable):
    """Represents a file or a directory. The ``children`` of a directory are found by their folded names.

    opens_below   the number of opens of files below a directory, at any depth
    height        the number of levels of directories in a directory, or 0 if it has no directories
    watchers      the opens of a directory that are notified of changes
    short_name    the 8.3 name, by which the file is found as well, or empty if another file has that name
    """

    __slots__ = (
        "_heights",
        "_shorts",
        "attributes",
        "children",
        "data",
        "delete_pending",
        "height",
        "index_number",
        "name",
        "opens",
        "opens_below",
        "oplock",
        "parent",
        "share_counts",
        "short_name",
        "times",
        "watchers",
    )

    def __init__(self, name: str, parent: Self | None, index_number: int, now: int, *, folder: bool) -> None:
        super().__init__()
        self.name = name
        self.parent = parent
        self.index_number = index_number
        self.times = FileTimes.same(now)
        self.attributes = 0
        self.children: SortedDict[str, Self] | None = SortedDict() if folder else None
        self.data = bytearray()
        self.opens: dict[OpenOfFile, None] = {}
        self.share_counts = ShareCounts()
        self.opens_below = 0
        self.oplock: Oplock | None = None
        self.delete_pending = False
        self.watchers: dict[OpenOfFile, None] = {}
        self.height = 0
        self.short_name = ""
        # The files of a directory by their 8.3 names. A file whose own name is an 8.3 name is not among them.
        self._shorts: dict[str, Self] = {}
        # The number of directories in this directory, by their height.
        self._heights: dict[int, int] = {}

    @property
    def is_directory(self) -> bool:
        return self.children is not None

    def above(self) -> Iterator[Self]:
        """Yield the directories that the file is in, the nearest first."""
        directory = self.parent
        while directory is not None:
            yield directory
            directory = directory.parent

    @property
    def depth(self) -> int:
        """Return how many directories the file is in. The depth of the root is 0."""
        return sum(1 for _ in self.above())

    @property
    def path(self) -> str:
        """Return the path from the share's root, without a leading separator."""
        names = [self.name, *(directory.name for directory in self.above())]
        return "\\".join(reversed(names)).removeprefix("\\")

    def add_open(self, opened: OpenOfFile) -> None:
        self.opens[opened] = None
        self.share_counts.add(opened.access, opened.share_access)
        for directory in self.above():
            directory.opens_below += 1

    def remove_open(self, opened: OpenOfFile) -> None:
        del self.opens[opened]
        self.share_counts.remove(opened.access, opened.share_access)
        for directory in self.above():
            directory.opens_below -= 1

    # --- the content of a directory ----------------------------------------------------

    def find(self, name: str) -> Self | None:
        """Return the file of that name, or else the file of that 8.3 name, or None."""
        if self.children is None:
            return None
        found: Self | None = self.children.get(name.casefold())
        return found or self._shorts.get(name.upper())

    def children_after(self, folded_name: str | None) -> Iterator[tuple[str, Self]]:
        """Yield the files after a folded name in the order of listings. A file of that name need not exist."""
        children = self.children
        if children is None:
            return
        for key in children.irange(folded_name, inclusive=(False, True)):
            yield key, children[key]

    def attach(self, file: Self, name: str) -> None:
        """Enter a file under a name that is free. A directory is entered with all that is in it."""
        assert self.children is not None
        file.parent, file.name = self, name
        self.children[name.casefold()] = file
        self._give_short_name(file)
        self._count_opens(file, 1)
        if file.is_directory:
            self._change_height(None, file.height)

    def detach(self, file: Self) -> None:
        """Remove a file from the directory. The file keeps its ``parent``."""
        assert self.children is not None
        del self.children[file.name.casefold()]
        if self._shorts.get(file.short_name) is file:
            del self._shorts[file.short_name]
        self._count_opens(file, -1)
        if file.is_directory:
            self._change_height(file.height, None)

    def _give_short_name(self, file: Self) -> None:
        """Choose the 8.3 name of a file. The own name of one file takes precedence over the 8.3 name of another."""
        assert self.children is not None
        own = file.name.upper()
        robbed = self._shorts.pop(own, None)
        if robbed is not None:
            robbed.short_name = ""
        short = short_name(file.name)
        if short == own:
            file.short_name = short
        elif short in self._shorts or short.casefold() in self.children:
            file.short_name = ""
        else:
            file.short_name = short
            self._shorts[short] = file

    def _count_opens(self, file: Self, sign: int) -> None:
        moved = sign * (len(file.opens) + file.opens_below)
        if moved:
            for directory in (self, *self.above()):
                directory.opens_below += moved

    def _change_height(self, old: int | None, new: int | None) -> None:
        """Count a directory in this one that has another height, is new (``old`` is None) or left (``new`` is None)."""
        for directory in (self, *self.above()):
            heights, before = directory._heights, directory.height
            if old is not None:
                heights[old] -= 1
                if not heights[old]:
                    del heights[old]
            if new is not None:
                heights[new] = heights.get(new, 0) + 1
            directory.height = 1 + max(heights) if heights else 0
            if directory.height == before:
                return
            old, new = before, directory.height
