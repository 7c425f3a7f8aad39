"""The recorder of nonces finds repeats in this process and in the processes that it starts."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from meshfs.smb.constants import Cipher
from meshfs.smb.sealing import Sealer
from meshfs.smb.signing import NONCE_EXPORTER, BindSigner, GmacSigner
from support import nonces

SIGNS_TWICE = """
import os, sys
from meshfs.smb.signing import GmacSigner
signer = GmacSigner(bytes(16))
for number in range(3):
    signer.sign(bytearray(bytes([number]) + bytes(99)), 7, 1)
if len(sys.argv) > 1:
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_a_repeat_of_a_signature_is_found(folder: Path) -> None:
    with nonces.elsewhere(folder):
        for signer in (GmacSigner(b"k" * 16), GmacSigner(b"l" * 16)):
            for message_id in range(1000):
                signer.sign(bytearray(100), message_id, NONCE_EXPORTER)
        # None of these is a repeat: another key, another sender, another id, and the same message again.
        signer.sign(bytearray(100), 999, 0)
        signer.sign(bytearray(100), 1000, NONCE_EXPORTER)
        signer.sign(bytearray(100), 5, NONCE_EXPORTER)
        assert nonces.recorded(folder) == 2003
        assert nonces.repeats(folder) == []
        signer.sign_parts(bytearray(80), 0, b"another message", 999)
        [repeat] = nonces.repeats(folder)
        assert "e703" in str(repeat)


def test_a_repeat_of_a_bind_is_found(folder: Path) -> None:
    with nonces.elsewhere(folder):
        signer = BindSigner(b"k" * 16, 10)
        assert signer.reserve(3)
        signer.sign(bytearray(100), 3, NONCE_EXPORTER)
        GmacSigner(b"k" * 16).sign(bytearray(101), 3, NONCE_EXPORTER)
        assert len(nonces.repeats(folder)) == 1


@pytest.mark.parametrize("cipher", [Cipher.AES_128_GCM, Cipher.AES_256_CCM])
def test_a_repeat_of_an_encryption_is_found(folder: Path, cipher: Cipher) -> None:
    key = bytes(16 if cipher is Cipher.AES_128_GCM else 32)
    with nonces.elsewhere(folder):
        first, other = Sealer(cipher, key, 1), Sealer(cipher, key, 1)
        for _ in range(3):
            first.seal(bytes(80))
        channel = first.on_channel(b"other")
        channel.seal(bytes(81))
        assert nonces.repeats(folder) == []
        other.seal(bytes(81))
        assert len(nonces.repeats(folder)) == 1


@pytest.mark.parametrize("killed", [False, True])
def test_a_repeat_in_another_process_is_found(folder: Path, killed: bool) -> None:
    command = [sys.executable, "-c", SIGNS_TWICE, *(["killed"] if killed else [])]
    done = subprocess.run(command, env={**os.environ, nonces.FOLDER_VARIABLE: str(folder)}, timeout=60, check=False)
    assert done.returncode == (-9 if killed else 0)
    assert nonces.recorded(folder) == 3
    assert len(nonces.repeats(folder)) == 2


def test_a_forked_process_records_for_itself(folder: Path) -> None:
    with nonces.elsewhere(folder):
        GmacSigner(bytes(16)).sign(bytearray(100), 1, 1)
        child = os.fork()
        if not child:
            # In any case, the child must not go on as a second run of the tests.
            try:
                GmacSigner(bytes(16)).sign(bytearray(101), 1, 1)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
    assert len(list(folder.glob("*.nonces"))) == 2
    assert len(nonces.repeats(folder)) == 1


def test_threads_record_beside_each_other(folder: Path) -> None:
    """Two threads that wrote at one place would leave a hole, and the records after the hole would not be read."""
    threads, messages = 4, 20_000
    recorder = nonces.Recorder(folder)

    def record(number: int) -> None:
        for message_id in range(messages):
            recorder.add(bytes((number + 1,)) * 8, message_id.to_bytes(12, "little"), bytes(8))

    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(record, range(threads)))
    finally:
        sys.setswitchinterval(before_s)
    assert nonces.recorded(folder) == threads * messages


def test_repeats_are_found_among_more_than_memory_should_hold(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonces, "_SMALL_BYTES", 0)
    monkeypatch.setattr(nonces, "_PART_RECORDS", 100)
    with nonces.elsewhere(folder):
        signer = GmacSigner(b"k" * 16)
        for message_id in range(3000):
            signer.sign(bytearray(100), message_id, NONCE_EXPORTER)
        signer.sign(bytearray(101), 0, NONCE_EXPORTER)
        signer.sign(bytearray(101), 2999, NONCE_EXPORTER)
    found = nonces.repeats(folder)
    assert sorted(int.from_bytes(bytes.fromhex(repeat.nonce)[:8], "little") for repeat in found) == [0, 2999]
