"""Our session and channel code works with a server that is not ours."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from meshfs.buffers import BufferPool
from meshfs.errors import AuthenticationError, StatusError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.session.commands import RemoteOpen, close_file, open_file
from meshfs.initiator.session.login import log_in
from meshfs.initiator.session.negotiation import Policy, validate_negotiation
from meshfs.initiator.session.trees import connect_tree
from meshfs.limits import KIB, MIB
from meshfs.model import Security
from meshfs.smb.auth import Login
from meshfs.smb.constants import Cipher, CreateDisposition, Dialect, NtStatus, SigningAlgorithm
from meshfs.transport.stream import connect_tcp
from tests.network.smbd import PASSWORD, USER, Smbd, flush_file, running_smbd

pytestmark = [pytest.mark.peers]
GUID = bytes(range(16))


@pytest.fixture(scope="module")
def smbd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Smbd]:
    # The path of its sockets must be short.
    with running_smbd(tmp_path_factory.mktemp("smbd")) as running:
        yield running


@asynccontextmanager
async def logged_in(smbd: Smbd, policy: Policy, password: str = PASSWORD) -> AsyncIterator[Channel]:
    channel = Channel(await connect_tcp("127.0.0.1", smbd.port), BufferPool())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run)
        try:
            await log_in(channel, policy, GUID, Login(USER, password, "MESHTEST"))
            yield channel
        finally:
            channel.fail("the test is over")


@asynccontextmanager
async def opened(smbd: Smbd, policy: Policy, name: str) -> AsyncIterator[tuple[Channel, RemoteOpen]]:
    with trio.fail_after(30):
        async with logged_in(smbd, policy) as channel:
            tree = await connect_tree(channel, "peer", "plain")
            await validate_negotiation(channel, policy, GUID, tree)
            file = await open_file(channel, tree, name, writable=True, disposition=CreateDisposition.OPEN_IF)
            yield channel, file
            await close_file(channel, file)


def same(got: bytes, expected: bytes) -> bool:
    """Compare without pytest's explanation, which takes minutes for a MiB."""
    return got == expected


async def read(channel: Channel, file: RemoteOpen, offset: int, length: int) -> bytes:
    deadline = trio.current_time() + 20
    slot = channel.start_read(file.tree.tree_id, file.file_id, offset, length, deadline)
    return bytes(await slot)


async def write(channel: Channel, file: RemoteOpen, offset: int, data: bytes) -> int:
    deadline = trio.current_time() + 20
    slot = channel.start_write(file.tree.tree_id, file.file_id, offset, data, deadline, write_through=False)
    count: int = await slot
    return count


POLICIES = {
    "gmac": Policy(),
    "cmac": Policy(signing=(SigningAlgorithm.AES_CMAC,)),
    "hmac": Policy(signing=(SigningAlgorithm.HMAC_SHA256,)),
    "gcm-128": Policy(Security.ENCRYPT),
    "gcm-256": Policy(Security.ENCRYPT, ciphers=(Cipher.AES_256_GCM,)),
    "ccm-128": Policy(Security.ENCRYPT, ciphers=(Cipher.AES_128_CCM,)),
    "ccm-256": Policy(Security.ENCRYPT, ciphers=(Cipher.AES_256_CCM,)),
    "3.0.2": Policy(dialects=(Dialect.SMB_3_0, Dialect.SMB_3_0_2)),
    "3.0": Policy(dialects=(Dialect.SMB_3_0,)),
    "3.0-ccm": Policy(Security.ENCRYPT, dialects=(Dialect.SMB_3_0,)),
}


@pytest.mark.parametrize("name", POLICIES)
async def test_reads_and_writes_a_file(smbd: Smbd, name: str) -> None:
    policy = POLICIES[name]
    data = os.urandom(3 * MIB + 777)
    async with opened(smbd, policy, f"file-{name}") as (channel, file):
        assert channel.sealed is (policy.security is Security.ENCRYPT)
        for start, size in ((0, 100), (100, 64 * KIB), (100 + 64 * KIB, MIB), (MIB + 64 * KIB + 100, 2 * MIB)):
            part = data[start : start + size]
            assert await write(channel, file, start, part) == len(part)
        await flush_file(channel, file)
        assert same((smbd.share / f"file-{name}").read_bytes(), data)
        for start, size in ((0, 1), (5, 4 * KIB), (4 * KIB, 64 * KIB), (12345, MIB), (0, 4 * MIB)):
            assert same(await read(channel, file, start, size), data[start : start + size])
        assert await read(channel, file, len(data), 4 * KIB) == b""


async def test_many_at_once_keep_their_answers_apart(smbd: Smbd) -> None:
    data = os.urandom(8 * MIB)
    await trio.Path(smbd.share / "many").write_bytes(data)
    async with opened(smbd, Policy(), "many") as (channel, file):

        async def one(number: int) -> None:
            for size in (512, 64 * KIB, MIB, 300 * KIB):
                start = number * 65536
                assert same(await read(channel, file, start, size), data[start : start + size])

        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(one, number)
        assert channel.outstanding == 0


async def test_a_wrong_password_is_refused(smbd: Smbd) -> None:
    async def attempt() -> None:
        async with logged_in(smbd, Policy(), "wrong"):
            raise AssertionError("let in")

    with trio.fail_after(10), pytest.RaisesGroup(AuthenticationError):
        await attempt()


async def test_a_missing_file_is_an_error_of_its_own(smbd: Smbd) -> None:
    with trio.fail_after(10):
        async with logged_in(smbd, Policy()) as channel:
            tree = await connect_tree(channel, "peer", "plain")
            with pytest.raises(StatusError) as caught:
                await open_file(channel, tree, "not there")
            assert caught.value.status == NtStatus.OBJECT_NAME_NOT_FOUND
            assert not channel.why
