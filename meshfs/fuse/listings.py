"""Listings of directories for READDIR, which takes one in pieces."""

from collections.abc import Iterator

from meshfs.namespace.tree import Directory, TreeEntry


class Listings:
    """The open directories by number.

    Positions count in a listing that is taken at the start, and again at rewinddir(3). A tree that changes
    meanwhile therefore shows no name twice and skips none.
    """

    def __init__(self) -> None:
        self._open: dict[int, tuple[Directory, list[tuple[bytes, TreeEntry]]]] = {}

    def open(self, number: int, directory: Directory) -> None:
        self._open[number] = (directory, [])

    def entries(self, number: int, start: int) -> Iterator[tuple[bytes, TreeEntry, int]]:
        """Yield name, node and the position behind it for each entry from position ``start`` on."""
        directory, entries = self._open[number]
        if start == 0:
            entries = [(b".", directory), (b"..", directory.parent), *directory.listed()]
            self._open[number] = (directory, entries)
        for position in range(start, len(entries)):
            name, node = entries[position]
            yield name, node, position + 1

    def close(self, number: int) -> None:
        del self._open[number]
