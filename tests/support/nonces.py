"""Records every (key, nonce, message) that is signed by AES-GMAC or encrypted in a test run, and finds repeats.

    watch(folder)      this process and, by tests/support/recording/sitecustomize.py, all that it starts
    repeats(folder)    what was signed or encrypted under one nonce and differs, of all processes together

Each process writes one file through mapped memory, because records must survive a SIGKILL. A record is 28 bytes: the
key's digest, the nonce, and the beginning of the authentication tag. The tag stands for the message. Under one key and
nonce, the same message always has the same tag, and two messages have the same one only by accident.
"""

import hashlib
import importlib.abc
import importlib.machinery
import mmap
import os
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

FOLDER_VARIABLE: Final = "MESHFS_TEST_NONCES"
_RECORD: Final = struct.Struct("<8s12s8s")
_GMAC_NONCE: Final = struct.Struct("<QI")
#: The file grows by this much. Nearly all of it is a hole.
_STEP_BYTES: Final = 1 << 20
_NO_KEY: Final = bytes(8)
#: How much is read at once, and how much is searched at once.
_PART_RECORDS: Final = 1 << 15
_SMALL_BYTES: Final = 16 << 20


class Recorder:
    """Writes the file of one process, which is made at the first record. A forked child makes its own.

    Several threads may record. Without the lock, two of them would write to one place and leave a hole behind it, and
    the reader would take the hole for the end of the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._memory: mmap.mmap | None = None
        self._offset = 0
        self._digests: dict[bytes, bytes] = {}
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget_file)

    def _forget_file(self) -> None:
        self._memory = None
        # Another thread of the parent may have held the lock at the fork.
        self._lock = threading.Lock()

    def digest(self, key: bytes) -> bytes:
        found = self._digests.get(key)
        if found is None:
            found = self._digests[key] = hashlib.blake2b(key, digest_size=8, person=b"meshfs key").digest()
        return found

    def add(self, key_digest: bytes, nonce: bytes, tag: bytes) -> None:
        with self._lock:
            memory = self._memory
            if memory is None or self._offset + _RECORD.size > len(memory):
                memory = self._grow()
            _RECORD.pack_into(memory, self._offset, key_digest, nonce, tag)
            self._offset += _RECORD.size

    def _grow(self) -> mmap.mmap:
        if self._memory is None:
            name = f"{os.getpid()}-{os.urandom(4).hex()}.nonces"
            self._fd = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            self._size = self._offset = 0
        self._size += _STEP_BYTES
        os.ftruncate(self._fd, self._size)
        self._memory = mmap.mmap(self._fd, self._size)
        return self._memory


_recorder: Recorder | None = None


def watch(folder: Path) -> None:
    """Record what this process signs and encrypts from now on."""
    global _recorder
    _recorder = Recorder(folder)
    for name, patch in (("meshfs.smb.signing", _patch_signing), ("meshfs.smb.sealing", _patch_sealing)):
        if name in sys.modules:
            patch(sys.modules[name])
        else:
            sys.meta_path.insert(0, _Finder(name, patch))


@contextmanager
def elsewhere(folder: Path) -> Iterator[None]:
    """Record into another folder, for a test that repeats a nonce on purpose."""
    global _recorder
    before, _recorder = _recorder, Recorder(folder)
    try:
        yield
    finally:
        _recorder = before


@contextmanager
def off() -> Iterator[None]:
    """Record nothing of this process, for a test that makes up keys and nonces."""
    global _recorder
    before, _recorder = _recorder, None
    try:
        yield
    finally:
        _recorder = before


class _Finder(importlib.abc.MetaPathFinder):
    """Patches a module when it is imported, and then removes itself, because most processes never import the module."""

    def __init__(self, name: str, patch: Callable[[Any], None]) -> None:
        self._name = name
        self._patch = patch

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            self._patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _patch_signing(module: Any) -> None:
    signer = module.GmacSigner
    sign, sign_parts = signer.sign, signer.sign_parts

    def recorded_sign(self: Any, message: Any, message_id: int, sender: int) -> None:
        sign(self, message, message_id, sender)
        if _recorder is not None:
            nonce = _GMAC_NONCE.pack(message_id, sender)
            _recorder.add(_recorder.digest(self.key), nonce, bytes(message[48:56]))

    def recorded_sign_parts(self: Any, head: bytearray, at: int, data: Any, message_id: int) -> None:
        sign_parts(self, head, at, data, message_id)
        if _recorder is not None:
            nonce = _GMAC_NONCE.pack(message_id, 0)
            _recorder.add(_recorder.digest(self.key), nonce, bytes(head[at + 48 : at + 56]))

    signer.sign, signer.sign_parts = recorded_sign, recorded_sign_parts


def _patch_sealing(module: Any) -> None:
    sealer = module.Sealer
    start, seal_into = sealer.__init__, sealer._seal_into
    #: Maps the id of each cipher object to its key's digest. The object is kept, because otherwise its id would be used
    #: again.
    ciphers: dict[int, tuple[object, bytes]] = {}

    def noted_start(self: Any, cipher: Any, key: bytes, *arguments: Any, **named: Any) -> None:
        start(self, cipher, key, *arguments, **named)
        digest = hashlib.blake2b(key, digest_size=8, person=b"meshfs cipher").digest()
        ciphers[id(self._aead)] = (self._aead, digest)

    def recorded_seal(self: Any, out: Any, message: Any) -> Any:
        frame = seal_into(self, out, message)
        known = ciphers.get(id(self._aead))
        if _recorder is not None and known is not None:
            _recorder.add(known[1], bytes(frame[24:36]), bytes(frame[8:16]))
        return frame

    sealer.__init__, sealer._seal_into = noted_start, recorded_seal


@dataclass(frozen=True)
class Repeat:
    """Two different messages that one key protects under one nonce."""

    key_digest: str
    nonce: str
    tags: tuple[str, str]

    def __str__(self) -> str:
        return f"key {self.key_digest} has nonce {self.nonce} for messages {self.tags[0]} and {self.tags[1]}"


def _records(path: Path) -> Iterator[bytes]:
    """Yield the records of one file, up to the zeros at its end. The file is read in parts."""
    size = _RECORD.size
    with path.open("rb") as file:
        while data := file.read(_PART_RECORDS * size):
            for start in range(0, len(data) - size + 1, size):
                record = data[start : start + size]
                if record[:8] == _NO_KEY:
                    return
                yield record


def _buckets(files: Sequence[Path], folder: Path) -> Iterator[Iterator[bytes]]:
    """Yield all records in parts that need little memory. The records of one key and nonce are in the same part."""
    if sum(path.stat().st_size for path in files) < _SMALL_BYTES:
        yield (record for path in files for record in _records(path))
        return
    with tempfile.TemporaryDirectory(dir=folder) as place:
        waiting = [bytearray() for _ in range(256)]

        def write(number: int) -> None:
            with (Path(place) / str(number)).open("ab") as file:
                file.write(waiting[number])
            waiting[number].clear()

        for path in files:
            for record in _records(path):
                number = record[0] ^ record[8]
                waiting[number] += record
                if len(waiting[number]) > _STEP_BYTES // 16:
                    write(number)
        for number in range(256):
            write(number)
            yield _records(Path(place) / str(number))


def repeats(folder: Path) -> list[Repeat]:
    """Return the pairs of messages that one key protects under one nonce, in all records of the folder."""
    found = []
    for bucket in _buckets(sorted(folder.glob("*.nonces")), folder):
        seen: dict[bytes, bytes] = {}
        for record in bucket:
            place, tag = record[:20], record[20:]
            first = seen.setdefault(place, tag)
            if first != tag:
                found.append(Repeat(place[:8].hex(), place[8:].hex(), (first.hex(), tag.hex())))
    return found


def recorded(folder: Path) -> int:
    """Return the number of recorded messages."""
    return sum(1 for path in folder.glob("*.nonces") for _ in _records(path))
