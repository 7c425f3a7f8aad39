"""Listings of directories for READDIR, which reads a listing in several pieces."""

from collections.abc import Iterator

from meshfs.namespace.entries import Directory, TreeEntry


class Listings:
    """Holds the open directories by number.

    A READDIR from position 0 makes the listing: the first one, and the first one after rewinddir(3). Later READDIRs
    continue in the same listing. So they show no name twice and skip none, even if the tree changes meanwhile.
    """

    def __init__(self) -> None:
        self._open: dict[int, tuple[Directory, list[tuple[bytes, TreeEntry]]]] = {}

    def open(self, number: int, directory: Directory) -> None:
        self._open[number] = (directory, [])

    def entries(self, number: int, start: int) -> Iterator[tuple[bytes, TreeEntry, int]]:
        """Yield (name, node, position of the next entry) for each entry from position ``start`` on."""
        directory, entries = self._open[number]
        if start == 0:
            entries = [(b".", directory), (b"..", directory.parent), *directory.listed()]
            self._open[number] = (directory, entries)
        for position in range(start, len(entries)):
            name, node = entries[position]
            yield name, node, position + 1

    def close(self, number: int) -> None:
        del self._open[number]
