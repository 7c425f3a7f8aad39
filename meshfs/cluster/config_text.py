"""Read one TOML file, and report every mistake with file, line, key, the value found and the value expected.

A `Table` wraps one TOML table. It has a list of known keys. For any other key it raises an error that suggests the most
similar known key. Its getters return values of the requested type. config.py defines the meaning of the keys.
"""

import codecs
import hashlib
import json
import os
import re
import stat
import tomllib
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, NoReturn, Self, TypeVar

from meshfs.errors import ConfigError
from meshfs.limits import CONFIG_MAX_BYTES
from meshfs.wording import describe, one_of, unknown_key

KeyPath = tuple[str | int, ...]
Choice = TypeVar("Choice", bound=StrEnum)

_HEADER: Final = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY: Final = re.compile(r"^\s*([\w\-.\"' ]+?)\s*=")


#: The digits of a digest. They are so many that different configs of one cluster never have the same digest.
_DIGEST_CHARS: Final = 16


class Source:
    """Holds the content of one file, and the line of each of its keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = _read(path)
        self._lines = locate_keys(text)
        try:
            self.root: dict[str, object] = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            # ValueError covers TOMLDecodeError, and integers with more digits than Python converts.
            raise ConfigError(f"{path}: the file is not valid TOML: {error}") from error

    def digest(self) -> str:
        """Return a short text that is equal for all files with the same keys and values."""
        said = json.dumps(self.root, sort_keys=True, default=str)
        return hashlib.sha256(said.encode(errors="replace")).hexdigest()[:_DIGEST_CHARS]

    def fail(self, key: KeyPath, what: str) -> NoReturn:
        """Raise ConfigError at the line of the key, or of the nearest enclosing table whose line is known."""
        line = next((self._lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self._lines), None)
        where = f"{self.path}:{line}" if line else str(self.path)
        name = ".".join(str(part) for part in key if isinstance(part, str))
        raise ConfigError(f"{where}: {name}: {what}" if name else f"{where}: {what}")


class Table:
    """Holds one table of the file. Every getter raises ConfigError for a value that it cannot return."""

    def __init__(self, source: Source, key: KeyPath, values: object, known: Sequence[str]) -> None:
        if not isinstance(values, dict):
            source.fail(key, f"found {describe(values)}, expected a table")
        self._source = source
        self._key = key
        self._values: dict[str, object] = values
        for name in values:
            if name not in known:
                self.fail(name, unknown_key(name, known))

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def fail(self, name: str | int | None, what: str) -> NoReturn:
        self._source.fail(self._key if name is None else (*self._key, name), what)

    def value(self, name: str) -> object:
        """Return the value as TOML has it, or None if the key is missing."""
        return self._values.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string that is not empty and has no NUL. Without a default, the key is required."""
        if name not in self._values and default is not None:
            return default
        value = self._value(name, "a string")
        if not isinstance(value, str):
            self.fail(name, f"found {describe(value)}, expected a string")
        if not value or "\0" in value:
            self.fail(name, f"found {describe(value)}, expected a string that is not empty and has no NUL")
        return value

    def path(self, name: str, default: str | None = None) -> Path:
        """Return a path, which is relative to the folder of the file. Without a default, the key is required."""
        return Path(os.path.normpath(self._source.path.parent / self.text(name, default)))

    def texts(self, name: str) -> list[str]:
        """Return an array of at least one string."""
        value = self._value(name, "an array of strings")
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            self.fail(name, f"found {describe(value)}, expected an array of at least one string")
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self._values.get(name, default)
        if type(value) is not int or not low <= value <= high:
            self.fail(name, f"found {describe(value)}, expected an integer from {low} to {high}")
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self._values.get(name, default)
        # bool is a subclass of int, but true is no number in TOML.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.fail(name, f"found {describe(value)}, expected a number from {low:g} to {high:g}")
        return float(value)

    def optional_number(self, name: str, low: float, high: float) -> float | None:
        return self.number(name, low, low, high) if name in self._values else None

    def choice(self, name: str, kind: type[Choice], default: Choice, among: Sequence[Choice] = ()) -> Choice:
        """Return the member of ``kind`` that has the key's value. ``among``, if given, has the members allowed."""
        value = self._values.get(name, default.value)
        allowed = [item.value for item in among or kind]
        if not isinstance(value, str) or value not in allowed:
            self.fail(name, f"found {describe(value)}, expected {one_of(allowed)}")
        return kind(value)

    def table(self, name: str, known: Sequence[str]) -> Self:
        """Return a table below this one, which is empty if the key is missing."""
        return type(self)(self._source, (*self._key, name), self._values.get(name, {}), known)

    def empty_table(self, name: str) -> Self:
        """Return a table without any keys, which stands for a key whose value is a word instead of a table."""
        return type(self)(self._source, (*self._key, name), {}, ())

    def open_table(self, name: str) -> Self:
        """Return a table whose keys may be any names."""
        values = self._values.get(name, {})
        known = list(values) if isinstance(values, dict) else ()
        return type(self)(self._source, (*self._key, name), values, known)

    def names(self) -> list[str]:
        return list(self._values)

    def tables(self, name: str, known: Sequence[str]) -> list[Self]:
        """Return an array of tables, which is empty if the key is missing."""
        values = self._values.get(name, [])
        if not isinstance(values, list):
            self.fail(name, f"found {describe(values)}, expected an array of tables: [[{name}]]")
        key = (*self._key, name)
        return [type(self)(self._source, (*key, index), value, known) for index, value in enumerate(values)]

    def _value(self, name: str, expected: str) -> object:
        if name not in self._values:
            self.fail(name, f"missing, expected {expected}")
        return self._values[name]


def locate_keys(text: str) -> dict[KeyPath, int]:
    """Return the line number, from 1, of each table header and each key at the start of a line.

    Elements of an array of tables are numbered from 0, as in ("node", 1, "disk", 0, "path"). Keys inside inline tables
    are not found, so a caller falls back to the enclosing table. Lines inside multi-line strings are skipped.
    """
    lines: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}
    current: KeyPath = ()
    quote = ""
    # TOML's lines end only at a newline. Strings and comments may contain Unicode's other line separators, so
    # str.splitlines() would count wrongly.
    for number, line in enumerate(text.split("\n"), 1):
        if quote:
            quote = "" if line.count(quote) % 2 else quote
            continue
        if header := _HEADER.match(line):
            current = _enter(_split_key(header[2]), header[1] == "[[", counts)
            lines.setdefault(current, number)
        elif key := _KEY.match(line):
            lines.setdefault(current + _split_key(key[1]), number)
            quote = next((mark for mark in ('"""', "'''") if line.count(mark) % 2), "")
    return lines


def _enter(names: KeyPath, is_array: bool, counts: dict[KeyPath, int]) -> KeyPath:
    """Return the path of the table that a header opens. The path enters each array of tables at its last element."""
    path: KeyPath = ()
    for position, name in enumerate(names):
        path = (*path, name)
        if is_array and position == len(names) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _split_key(text: str) -> KeyPath:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


def _read(path: Path) -> str:
    """Return the whole text. Raises ConfigError for a file that cannot be read or is not UTF-8 text."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{path}: cannot read the config: it is not a regular file")
            data = file.read(CONFIG_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config: {error.strerror}") from error
    if len(data) > CONFIG_MAX_BYTES:
        raise ConfigError(f"{path}: the file is larger than {CONFIG_MAX_BYTES} bytes, which is too large for a config")
    return decode(path, data)


def _open_at_once(path: str, flags: int) -> int:
    """Open without blocking. If the path is a pipe without a writer, a plain open(2) would wait for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def decode(path: Path, data: bytes) -> str:
    """Return the text of a TOML file, which is UTF-8, with or without a byte order mark at its start.

    Raises ConfigError for any other encoding. Its text names the encoding and the line.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError(f"{path}:1: found UTF-16 text, expected a TOML file in UTF-8; save the file as UTF-8")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise ConfigError(f"{path}:{line}: found a NUL byte, expected a TOML file in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The position in the error does not count the byte order mark.
        start = error.start + (len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0)
        line = data.count(b"\n", 0, start) + 1
        raise ConfigError(
            f"{path}:{line}: byte 0x{data[start]:02x} is not UTF-8 text, expected a TOML file in UTF-8"
        ) from error
