"""Put the files of an installation in place, and take them out again.

A record, PREFIX/lib/meshfs/installed.json, has a digest of each file that was put in place, and the folders that were
made. A file is the installation's own if its content still has a recorded digest, or if it is exactly what would be put
there. Any other file is somebody else's, or somebody has changed it: it is neither overwritten nor removed.

A file is written under another name and then renamed. The record of all new files is written before the first of them.
So an installation that is interrupted can be repeated or removed.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from meshctl.installing.plan import Item, parents
from meshfs.errors import ConfigError

RECORD: Final = "lib/meshfs/installed.json"
_NEW: Final = ".meshfs-new"


@dataclass
class Done:
    """Says what happened to each path: it was written, removed or left, or it was as it should be."""

    written: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


@dataclass
class _Record:
    """Is the content of the record: the digests that each file may have, and the folders that were made."""

    digests: dict[str, list[str]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)


class Installation:
    """Places files below the folder ``root``, with a record below ``root/prefix``."""

    def __init__(self, root: Path, prefix: Path) -> None:
        self._root = root
        self._below = str(prefix).strip("/")
        self._record_path = root / self._below / RECORD
        self._record = self._read()

    @property
    def is_there(self) -> bool:
        return self._record_path.exists()

    def foreign(self, items: Sequence[Item]) -> list[str]:
        """Return the paths of files that the items would overwrite, and that are not the installation's own."""
        return [item.path for item in items if not self._is_own(item.path, [*self._digests(item.path), _digest(item)])]

    def put(self, items: Sequence[Item], folders: Sequence[str]) -> Done:
        """Place the items, and make the folders. Remove files of an earlier installation that has more of them."""
        done = Done()
        wanted = {item.path: _digest(item) for item in items}
        before = self._record
        both = {path: [*before.digests.get(path, []), digest] for path, digest in wanted.items()}
        self._record = _Record({**before.digests, **both}, before.folders)
        for folder in [*folders, *parents(f"{self._below}/{RECORD}")[::-1]]:
            self._make_folder(folder)
        self._write_record()
        for item in items:
            if _found(self._root / item.path) == wanted[item.path]:
                done.unchanged.append(item.path)
                continue
            for folder in parents(item.path)[::-1]:
                self._make_folder(folder)
            self._write_record()
            self._write(item)
            done.written.append(item.path)
        self._take_out([path for path in before.digests if path not in wanted], done)
        self._record.digests = {path: [digest] for path, digest in wanted.items()}
        self._write_record()
        return done

    def remove(self) -> Done:
        """Remove the recorded files and the recorded folders that are empty, and at last the record."""
        done = Done()
        self._take_out(list(self._record.digests), done)
        self._record_path.unlink(missing_ok=True)
        for folder in sorted(self._record.folders, key=len, reverse=True):
            # A folder with other files stays.
            with suppress(OSError):
                (self._root / folder).rmdir()
        return done

    def _take_out(self, paths: Sequence[str], done: Done) -> None:
        for path in paths:
            if not os.path.lexists(self._root / path):
                continue
            if self._is_own(path, self._digests(path)):
                (self._root / path).unlink()
                done.removed.append(path)
            else:
                done.left.append(path)

    def _digests(self, path: str) -> list[str]:
        return self._record.digests.get(path, [])

    def _is_own(self, path: str, digests: Sequence[str]) -> bool:
        found = _found(self._root / path)
        return found is None or found in digests

    def _make_folder(self, folder: str) -> None:
        for above in [*parents(folder)[::-1], folder]:
            if not (self._root / above).is_dir():
                (self._root / above).mkdir(mode=0o755)
                self._record.folders.append(above)

    def _write(self, item: Item) -> None:
        path = self._root / item.path
        new = path.with_name(path.name + _NEW)
        new.unlink(missing_ok=True)
        if item.link:
            new.symlink_to(item.link)
        else:
            new.write_text(item.content)
            new.chmod(0o644)
        new.replace(path)

    # --- the record

    def _read(self) -> _Record:
        try:
            value = json.loads(self._record_path.read_text())
            return _Record(_texts_of(value["digests"]), [str(folder) for folder in value["folders"]])
        except FileNotFoundError:
            return _Record()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{self._record_path} is damaged, so meshctl cannot distinguish its own files from others"
            ) from error

    def _write_record(self) -> None:
        new = self._record_path.with_name(self._record_path.name + _NEW)
        new.write_text(json.dumps({"digests": self._record.digests, "folders": self._record.folders}, indent=1))
        new.replace(self._record_path)


def _texts_of(value: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {path: [str(digest) for digest in digests] for path, digests in value.items()}


def _digest(item: Item) -> str:
    return f"link {item.link}" if item.link else _of_bytes(item.content.encode())


def _of_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _found(path: Path) -> str | None:
    """Return the digest of the file or link that is at the path, or None if nothing is there."""
    if path.is_symlink():
        return f"link {os.readlink(path)}"
    try:
        return _of_bytes(path.read_bytes())
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        return "folder"
