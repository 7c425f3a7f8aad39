"""Key files and the passwords derived from them."""

import base64
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshfs.cluster import config, keys
from meshfs.cluster.keys import Generated, Keyring
from meshfs.errors import KeyFileError

A, B = X25519PrivateKey.from_private_bytes(b"a" * 32), X25519PrivateKey.from_private_bytes(b"b" * 32)


@pytest.fixture
def mesh(tmp_path: Path) -> config.Config:
    """Make three nodes. The keys of n1 and n2 are here."""
    path = tmp_path / "cluster.toml"
    nodes = "".join(f'[[node]]\nname = "n{n}"\naddresses = ["10.0.0.{n}"]\n' for n in (1, 2, 3))
    path.write_text('[cluster]\nname = "demo"\n' + nodes)
    loaded = config.load(path)
    for node in ("n1", "n2"):
        assert keys.generate(loaded.cluster.keys, node) is Generated.PAIR
    return loaded


def public_text(key: X25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def test_generated_files(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        keys.generate(tmp_path / "new" / "keys", "n1")
    finally:
        os.umask(old)
    folder = tmp_path / "new" / "keys"
    assert sorted(os.listdir(folder)) == ["n1.key", "n1.pub"]
    assert stat.S_IMODE((folder / "n1.key").stat().st_mode) == 0o600
    for name in ("n1.key", "n1.pub"):
        text = (folder / name).read_text()
        assert text.endswith("\n")
        assert len(base64.b64decode(text)) == 32
    assert public_text(keys.load_private(folder / "n1.key")) + "\n" == (folder / "n1.pub").read_text()


def test_generate_never_overwrites(tmp_path: Path) -> None:
    keys.generate(tmp_path, "n1")
    private, public = (tmp_path / "n1.key").read_text(), (tmp_path / "n1.pub").read_text()
    assert keys.generate(tmp_path, "n1") is Generated.NOTHING
    (tmp_path / "n1.pub").unlink()
    assert keys.generate(tmp_path, "n1") is Generated.PUBLIC
    assert ((tmp_path / "n1.key").read_text(), (tmp_path / "n1.pub").read_text()) == (private, public)
    (tmp_path / "n1.key").unlink()
    assert keys.generate(tmp_path, "n1") is Generated.ELSEWHERE
    assert not (tmp_path / "n1.key").exists()


def test_generate_leaves_a_dangling_link_alone(tmp_path: Path) -> None:
    (tmp_path / "n1.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="missing"):
        keys.generate(tmp_path, "n1")
    assert not (tmp_path / "elsewhere").exists()


def test_generate_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError, match="cannot make"):
        keys.generate(tmp_path / "file", "n1")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o601, 0o620, 0o666])
def test_private_key_open_to_others(tmp_path: Path, mode: int) -> None:
    keys.generate(tmp_path, "n1")
    (tmp_path / "n1.key").chmod(mode)
    with pytest.raises(KeyFileError, match=rf"n1\.key: mode 0{mode:o} .*0600"):
        keys.load_private(tmp_path / "n1.key")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_private_key_of_another_user(tmp_path: Path) -> None:
    keys.generate(tmp_path, "n1")
    os.chown(tmp_path / "n1.key", 1234, -1)
    with pytest.raises(KeyFileError, match="the owner is user 1234"):
        keys.load_private(tmp_path / "n1.key")


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"short\n", b"\xff\xfe\0", base64.b64encode(b"k" * 31), base64.b64encode(b"k" * 33), b"A" * 4000],
)
def test_a_malformed_key_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "n1.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=r"n1\.key: ") as error:
        keys.load_private(path)
    assert "AAAA" not in str(error.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="missing"):
        keys.load_private(tmp_path / "n1.key")
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("folder", "fifo"):
        with pytest.raises(KeyFileError, match="no regular file"):
            keys.load_private(tmp_path / name)


def test_both_ends_derive_one_password() -> None:
    a_to_b = keys.pairwise_password(A, B.public_key(), "demo", "a", "b")
    assert a_to_b == keys.pairwise_password(B, A.public_key(), "demo", "a", "b")
    assert len(a_to_b) == 43
    assert a_to_b.replace("-", "").replace("_", "").isalnum()


def test_the_password_is_pinned() -> None:
    """A changed derivation would lock out every node of an older version. It would need a new label."""
    expected = "Y9fAyXQ0fZLMQnfnTzdF3BYi9qIAe2KPWJXOMCCESg4"
    assert keys.pairwise_password(A, B.public_key(), "demo", "a", "b") == expected


def test_everything_the_password_is_bound_to() -> None:
    other = X25519PrivateKey.from_private_bytes(b"c" * 32).public_key()
    passwords = [
        keys.pairwise_password(A, B.public_key(), "demo", "a", "b"),
        keys.pairwise_password(A, B.public_key(), "demo", "b", "a"),
        keys.pairwise_password(A, B.public_key(), "demo2", "a", "b"),
        keys.pairwise_password(A, B.public_key(), "demoa", "", "b"),
        keys.pairwise_password(A, B.public_key(), "demo", "ab", ""),
        keys.pairwise_password(A, other, "demo", "a", "b"),
    ]
    assert len(set(passwords)) == len(passwords)


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31)])
def test_low_order_points_are_refused(point: bytes) -> None:
    peer = keys.parse_public(base64.b64encode(point).decode(), "test")
    with pytest.raises(KeyFileError, match="not usable"):
        keys.pairwise_password(A, peer, "demo", "a", "b")


def test_keyrings_agree(mesh: config.Config, caplog: pytest.LogCaptureFixture) -> None:
    one, two = Keyring(mesh, "n1"), Keyring(mesh, "n2")
    assert one.password_to("n2") == two.passwords()["n1"]
    assert two.password_to("n1") == one.passwords()["n2"]
    assert one.password_to("n1") == one.passwords()["n1"]
    assert len({one.password_to("n1"), one.password_to("n2"), two.password_to("n1")}) == 3
    caplog.clear()


def test_a_missing_public_key_costs_only_that_node(mesh: config.Config, caplog: pytest.LogCaptureFixture) -> None:
    ring = Keyring(mesh, "n1")
    with pytest.raises(KeyFileError, match=r"n3\.pub: the key file is missing"):
        ring.password_to("n3")
    assert set(ring.passwords()) == {"n1", "n2"}
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["node n3 cannot log in"]


def test_the_own_key_has_to_be_there(mesh: config.Config) -> None:
    with pytest.raises(KeyFileError, match=r"n3\.key: the key file is missing"):
        Keyring(mesh, "n3")


def test_the_own_key_has_to_fit_the_public_one(mesh: config.Config) -> None:
    (mesh.cluster.keys / "n1.pub").write_text(public_text(A) + "\n")
    with pytest.raises(KeyFileError, match="the key does not match the public key"):
        Keyring(mesh, "n1")


def test_public_key_in_the_config(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    node = f'[[node]]\nname = "n2"\naddresses = ["10.0.0.2"]\npublic_key = "{public_text(B)}"\n'
    path.write_text('[cluster]\nname = "demo"\n[[node]]\nname = "n1"\naddresses = ["10.0.0.1"]\n' + node)
    mesh = config.load(path)
    keys.generate(mesh.cluster.keys, "n1")
    own = keys.load_private(mesh.cluster.keys / "n1.key")
    expected = keys.pairwise_password(own, B.public_key(), "demo", "n1", "n2")
    assert Keyring(mesh, "n1").password_to("n2") == expected
    (mesh.cluster.keys / "n2.pub").write_text(public_text(A))
    with pytest.raises(KeyFileError, match="differs from the public_key"):
        Keyring(mesh, "n1").password_to("n2")
