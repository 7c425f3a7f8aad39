"""The file of a config: what cannot be read, what editors write, links, and the lines of keys."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from meshfs.cluster import config
from meshfs.cluster.config_text import locate_keys
from meshfs.errors import ConfigError
from meshfs.limits import CONFIG_MAX_BYTES
from support.config_example import EXAMPLE, load


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot read the config: No such file"):
        config.load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(tmp_path)
    (tmp_path / "latin").write_bytes(b"a = 1\nb = '\xe9'\n")
    with pytest.raises(ConfigError, match="latin:2: byte 0xe9 is not UTF-8"):
        config.load(tmp_path / "latin")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(CONFIG_MAX_BYTES + 1)
    with pytest.raises(ConfigError, match=f"larger than {CONFIG_MAX_BYTES} bytes"):
        config.load(tmp_path / "large")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path, why in (
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (tmp_path / "large" / "x", "Not a directory"),
    ):
        with pytest.raises(ConfigError, match=f"{path}: cannot read the config: .*{why}"):
            config.load(path)


def test_a_file_of_others(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(EXAMPLE)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match="Permission denied"):
            config.load(path)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: b"\xef\xbb\xbf" + data, id="mark"),
        pytest.param(lambda data: data.replace(b"\n", b"\r\n"), id="windows"),
        pytest.param(lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"), id="windows-mark"),
        pytest.param(lambda data: data.replace(b"  ", b"\t"), id="tabs"),
        pytest.param(lambda data: data.rstrip(), id="no-newline"),
        pytest.param(lambda data: "# caf\u00e9\u2028\u0085\n".encode() + data, id="comment"),
    ],
)
def test_what_editors_make_of_a_file(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "cluster.toml"
    path.write_bytes(change(EXAMPLE.encode()))
    assert config.load(path).nodes == load(tmp_path, EXAMPLE).nodes
    # A mistake is still named with its line.
    data = change(EXAMPLE.encode()).replace(b"4450", b"0")
    path.write_bytes(data)
    line = data[: data.index(b"port")].count(b"\n") + 1
    with pytest.raises(ConfigError, match=rf"cluster\.toml:{line}: node\.port: found 0"):
        config.load(path)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (EXAMPLE.encode("utf-16"), ":1: found UTF-16 text, expected a TOML file in UTF-8"),
        (EXAMPLE.encode("utf-16-be"), ":1: found a NUL byte, expected a TOML file in UTF-8"),
        (EXAMPLE.encode() + b"# \0\n", ":29: found a NUL byte"),
        (b"\xef\xbb\xbf" + EXAMPLE.encode() + b"# \xe9", ":29: byte 0xe9 is not UTF-8 text"),
        (b"\xef\xbb\xbf\xe9", ":1: byte 0xe9 is not UTF-8 text"),
        (bytes(range(256)), ":1: found a NUL byte"),
        (b"\x7fELF\x02\x01\x01", "not valid TOML"),
        (b"\xef\xbb\xbf", "cluster: missing"),
        (b"", "cluster: missing"),
    ],
)
def test_what_is_no_toml_text(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=re.escape(str(path))) as error:
        config.load(path)
    assert expected in str(error.value)


def test_a_config_behind_a_link(tmp_path: Path) -> None:
    """Relative paths are relative to the file that the link leads to. A reload reads the link again."""
    real, other = tmp_path / "real", tmp_path / "other"
    real.mkdir()
    other.mkdir()
    load(real, EXAMPLE)
    link = other / "link.toml"
    link.symlink_to("../real/cluster.toml")
    loaded = config.load(link)
    assert (loaded.path, loaded.given) == (real / "cluster.toml", link)
    one = loaded.nodes[0]
    found = (loaded.cluster.keys, one.socket, one.control_socket, one.state, one.disks[0].path)
    names = ("keys", "run/n1.sock", "run/n1.ctl", "state/n1", "disks/n1-disk0.img")
    assert found == tuple(real / name for name in names)
    folder = tmp_path / "folder"
    folder.symlink_to(real)
    assert config.load(folder / "cluster.toml").cluster.keys == real / "keys"


def test_each_key_is_located_at_its_line() -> None:
    text = 'a = """\nb = 1\n"""\n[[node]] # one\n "c" = 1\n[[node]]\n[[node.disk]]\npath=1\n[x.y]\nz = {\n'
    assert locate_keys(text) == {
        ("a",): 1,
        ("node", 0): 4,
        ("node", 0, "c"): 5,
        ("node", 1): 6,
        ("node", 1, "disk", 0): 7,
        ("node", 1, "disk", 0, "path"): 8,
        ("x", "y"): 9,
        ("x", "y", "z"): 10,
    }
