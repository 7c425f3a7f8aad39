"""Handle the identity of nodes: X25519 key pairs, as in WireGuard, and the passwords that two nodes derive from them.

The keys folder has these files, in base64 with a newline:

    NODE.key    the private key, mode 0600, only on the node itself
    NODE.pub    the public key, on every node, unless the config has it as `public_key`

The password with which node A logs in to exporter B is HKDF-SHA256 (RFC 5869) of the X25519 shared secret of A and B.
It is bound to a version label, the cluster, and the ordered pair (A, B). Both ends compute the password, so it is never
sent or stored.
"""

import base64
import binascii
import enum
import logging
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from meshfs.cluster.config import Config
from meshfs.cluster.config_nodes import NodeConfig
from meshfs.errors import KeyFileError
from meshfs.limits import KEY_FILE_MAX_BYTES

logger = logging.getLogger(__name__)

KEY_SIZE_BYTES: Final = 32
PASSWORD_SIZE_BYTES: Final = 32
_LABEL: Final = b"meshfs pairwise password, version 1"


class Generated(enum.Enum):
    """Names the result of `generate`. The value is a text for people."""

    PAIR = "made a key pair"
    PUBLIC = "made the public key of the existing private key"
    NOTHING = "kept the existing key pair"
    ELSEWHERE = "kept the existing public key; its private key is on the node"


def private_path(folder: Path, node: str) -> Path:
    return folder / f"{node}.key"


def has_private_key(folder: Path, node: str) -> bool:
    """Return whether the node's private key is in the folder. Raises KeyFileError if the folder cannot be read."""
    path = private_path(folder, node)
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise KeyFileError(f"{path}: cannot read the key: {error.strerror}") from error
    return True


def public_path(folder: Path, node: str) -> Path:
    return folder / f"{node}.pub"


def generate(folder: Path, node: str) -> Generated:
    """Make the missing files of a node's key pair. An existing file is never changed.

    Raises KeyFileError when a file cannot be made, or when the existing private key is bad.
    """
    private_file, public_file = private_path(folder, node), public_path(folder, node)
    if os.path.lexists(private_file):
        private = load_private(private_file)
        if os.path.lexists(public_file):
            return Generated.NOTHING
        _create(public_file, _public_bytes(private.public_key()), 0o644)
        return Generated.PUBLIC
    if os.path.lexists(public_file):
        # With a second key pair, the node could not log in where its first public key was copied to.
        return Generated.ELSEWHERE
    private = X25519PrivateKey.generate()
    raw = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    _create(private_file, raw, 0o600)
    _create(public_file, _public_bytes(private.public_key()), 0o644)
    return Generated.PAIR


def load_private(path: Path) -> X25519PrivateKey:
    """Read a private key. Raises KeyFileError for a bad key or an unsafe file.

    The file must be a regular one, owned by root or this user, and not accessible to others.
    """
    return X25519PrivateKey.from_private_bytes(_decode(_read(path, private=True), str(path)))


def load_public(path: Path) -> X25519PublicKey:
    return parse_public(_read(path, private=False), str(path))


def parse_public(text: str, where: str) -> X25519PublicKey:
    return X25519PublicKey.from_public_bytes(_decode(text, where))


def pairwise_password(own: X25519PrivateKey, peer: X25519PublicKey, cluster: str, initiator: str, exporter: str) -> str:
    """Return the password with which `initiator` logs in to `exporter`, in base64url, which is safe in command lines.

    Raises KeyFileError for a public key that gives the shared secret zero with every private key (RFC 7748 section
    6.1), because anybody could compute such a password.
    """
    try:
        secret = own.exchange(peer)
    except ValueError as error:
        raise KeyFileError(f"a public key of {initiator} or {exporter} is not usable: {error}") from error
    # The length precedes each field, so that no two lists of fields give the same bytes.
    fields = [part.encode() for part in (cluster, initiator, exporter)]
    info = b"".join(len(field).to_bytes(2, "big") + field for field in (_LABEL, *fields))
    raw = HKDF(SHA256(), PASSWORD_SIZE_BYTES, salt=_LABEL, info=info).derive(secret)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Keyring:
    """Holds one node's private key, and the public keys of all nodes that have one.

    Raises KeyFileError when the node's own private key is missing, bad, or does not belong to its public key. A missing
    or bad public key of another node is an error only when that key is used.
    """

    def __init__(self, config: Config, node: str) -> None:
        self._config = config
        self.node = config.node(node)
        path = private_path(config.cluster.keys, node)
        self._private = load_private(path)
        self._own_public = self._private.public_key()
        published = self._published(self.node)
        if published is not None and _public_bytes(published) != _public_bytes(self._own_public):
            raise KeyFileError(f"{path}: the key does not match the public key that the cluster has for node {node}")

    def password_to(self, exporter: str) -> str:
        """Return the password with which this node logs in to the exporter. Raises KeyFileError."""
        peer = self._public(self._config.node(exporter))
        return pairwise_password(self._private, peer, self._config.cluster.name, self.node.name, exporter)

    def password_from(self, initiator: str) -> str:
        """Return the password with which the initiator logs in to this node's exporter. Raises KeyFileError."""
        peer = self._public(self._config.node(initiator))
        return pairwise_password(self._private, peer, self._config.cluster.name, initiator, self.node.name)

    def passwords(self) -> Mapping[str, str]:
        """Return the passwords of the nodes that may log in to this node's exporter, by node name.

        A node whose public key is missing or bad is logged and left out.
        """
        accepted = {}
        for node in self._config.nodes:
            try:
                accepted[node.name] = self.password_from(node.name)
            except KeyFileError as error:
                logger.warning("node %s cannot log in: %s", node.name, error)
        return accepted

    def missing(self) -> Mapping[str, str]:
        """Return the reason for each node whose public key is missing or bad."""
        return {name: found for name, found in self._look().items() if isinstance(found, str)}

    def prints(self) -> Mapping[str, str]:
        """Return each node's public key in hex, or an empty text without one.

        Two keyrings of a node with equal prints give equal passwords.
        """
        found = self._look()
        return {name: "" if isinstance(key, str) else _public_bytes(key).hex() for name, key in found.items()}

    def _look(self) -> Mapping[str, X25519PublicKey | str]:
        """Return each node's public key, or the reason why there is none."""
        found: dict[str, X25519PublicKey | str] = {}
        for node in self._config.nodes:
            try:
                found[node.name] = self._public(node)
            except KeyFileError as error:
                found[node.name] = str(error)
        return found

    def _public(self, node: NodeConfig) -> X25519PublicKey:
        if node.name == self.node.name:
            return self._own_public
        public = self._published(node)
        if public is None:
            path = public_path(self._config.cluster.keys, node.name)
            raise KeyFileError(
                f"{path}: the key file is missing, expected the public key of {node.name} here or in the config"
            )
        return public

    def _published(self, node: NodeConfig) -> X25519PublicKey | None:
        """Return the public key in the config or in the keys folder. If both have one, the two must be equal."""
        path = public_path(self._config.cluster.keys, node.name)
        in_folder = load_public(path) if os.path.lexists(path) else None
        if node.public_key is None:
            return in_folder
        in_config = parse_public(node.public_key, f"{self._config.path}: public_key of {node.name}")
        if in_folder is not None and _public_bytes(in_folder) != _public_bytes(in_config):
            raise KeyFileError(f"{path}: differs from the public_key of {node.name} in {self._config.path}")
        return in_config


def _public_bytes(key: X25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _decode(text: str, where: str) -> bytes:
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != KEY_SIZE_BYTES:
        # The text may be a secret, so the message must not contain it.
        raise KeyFileError(f"{where}: found no key, expected {KEY_SIZE_BYTES} bytes in base64 on one line")
    return raw


def _read(path: Path, *, private: bool) -> str:
    try:
        # With O_NONBLOCK, a FIFO in the place of the key cannot hang the start.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise KeyFileError(f"{path}: the key file is missing; `meshctl keygen` makes key files") from error
    except OSError as error:
        raise KeyFileError(f"{path}: cannot read the key: {error.strerror}") from error
    try:
        _check_file(path, os.fstat(fd), private=private)
        data = os.read(fd, KEY_FILE_MAX_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot read the key: {error.strerror}") from error
    finally:
        os.close(fd)
    if len(data) > KEY_FILE_MAX_BYTES:
        raise KeyFileError(f"{path}: the file is larger than {KEY_FILE_MAX_BYTES} bytes, which is too large for a key")
    return data.decode("ascii", errors="replace")


def _check_file(path: Path, status: os.stat_result, *, private: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"{path}: found no regular file, expected a key file")
    if not private:
        return
    if status.st_uid not in (0, os.geteuid()):
        raise KeyFileError(f"{path}: the owner is user {status.st_uid}, expected root or user {os.geteuid()}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise KeyFileError(f"{path}: mode {mode:04o} opens the private key to others, expected 0600")


def _create(path: Path, raw: bytes, mode: int) -> None:
    """Make the file as a whole or not at all, make it durable, and never replace another file.

    link(2) refuses an existing name, and mkstemp makes its file with mode 0600. So the key is never there in part, and
    never readable by others.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(base64.b64encode(raw) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot make the key file: {error.strerror}") from error
    finally:
        if temporary:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
