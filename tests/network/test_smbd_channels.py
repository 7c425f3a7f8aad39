"""Our half of multichannel at Samba's server: channels are bound, lost and made again, and replays are accepted."""

import functools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from meshfs.buffers import BufferPool
from meshfs.errors import ChannelLost, StatusError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.session.bind import NoChannelOnThisPath, bind
from meshfs.initiator.session.commands import RemoteOpen, close_file, open_file, query_interfaces
from meshfs.initiator.session.login import log_in
from meshfs.initiator.session.negotiation import Policy, validate_negotiation
from meshfs.initiator.session.session import InitiatorSession
from meshfs.initiator.session.trees import connect_tree
from meshfs.limits import KIB, MIB
from meshfs.model import IoClass, Security
from meshfs.smb.auth import Login
from meshfs.smb.constants import Cipher, CreateDisposition, Dialect, NtStatus, SigningAlgorithm
from meshlab.smb.stalling import Relay, Relays
from tests.network.smbd import PASSWORD, USER, Smbd, flush_file, running_smbd

pytestmark = [pytest.mark.peers]
GUID = bytes(range(16, 32))
SPEED_BITS_S = 2_500_000_000
_EXTRA = f"""
    server multi channel support = yes
    interfaces = "127.0.0.1;if_index=7,speed={SPEED_BITS_S},capability=RSS"
"""

POLICIES = {
    "gmac": Policy(),
    "cmac": Policy(signing=(SigningAlgorithm.AES_CMAC,)),
    "gcm-128": Policy(Security.ENCRYPT),
    "ccm-256": Policy(Security.ENCRYPT, ciphers=(Cipher.AES_256_CCM,)),
    "3.0.2": Policy(dialects=(Dialect.SMB_3_0, Dialect.SMB_3_0_2)),
    "3.0": Policy(dialects=(Dialect.SMB_3_0,)),
    "3.0-ccm": Policy(Security.ENCRYPT, dialects=(Dialect.SMB_3_0,)),
}


@pytest.fixture(scope="module")
def smbd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Smbd]:
    # The path of its sockets must be short.
    with running_smbd(tmp_path_factory.mktemp("smbdmc"), _EXTRA) as running:
        yield running


@dataclass
class Peer:
    """A session of ours with smbd, and the relays that its channels go through."""

    session: InitiatorSession
    file: RemoteOpen
    policy: Policy
    nursery: trio.Nursery
    relays: Relays
    lost: list[Channel] = field(default_factory=list)

    async def connect(self) -> tuple[Channel, Relay]:
        return await _connect(self.relays, self.nursery)

    async def bind(self) -> tuple[Channel, Relay]:
        """Bind one more channel to the session."""
        channel, relay = await self.connect()
        await bind(channel, self.policy, GUID, Login(USER, PASSWORD, "MESHTEST"), self.session.credentials)
        await validate_negotiation(channel, self.policy, GUID, self.session.trees[IoClass.APP])
        self.session.add(channel)
        return channel, relay

    async def write(self, channel: Channel, offset: int, data: bytes, *, replay: bool = False) -> int:
        deadline = trio.current_time() + 20
        count: int = await channel.start_write(
            self.file.tree.tree_id, self.file.file_id, offset, data, deadline, write_through=False, replay=replay
        )
        return count

    async def read(self, channel: Channel, offset: int, size: int) -> bytes:
        deadline = trio.current_time() + 20
        return bytes(await channel.start_read(self.file.tree.tree_id, self.file.file_id, offset, size, deadline))


async def _connect(relays: Relays, nursery: trio.Nursery) -> tuple[Channel, Relay]:
    channel = Channel(await relays.dial(), BufferPool())
    nursery.start_soon(channel.run)
    return channel, relays.alive[-1]


@asynccontextmanager
async def session_with(smbd: Smbd, policy: Policy, name: str) -> AsyncIterator[Peer]:
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            relays = Relays(functools.partial(trio.open_tcp_stream, "127.0.0.1", smbd.port), nursery)
            channel, _ = await _connect(relays, nursery)
            credentials = await log_in(channel, policy, GUID, Login(USER, PASSWORD, "MESHTEST"), to_be_bound=True)
            tree = await connect_tree(channel, "peer", "plain")
            await validate_negotiation(channel, policy, GUID, tree)
            root = await open_file(channel, tree, "", directory=True)
            file = await open_file(channel, tree, name, writable=True, disposition=CreateDisposition.OPEN_IF)
            lost: list[Channel] = []
            session = InitiatorSession(credentials, {IoClass.APP: tree}, root, lambda _, channel: lost.append(channel))
            session.add(channel)
            yield Peer(session, file, policy, nursery, relays, lost)
            await session.ask(lambda channel: close_file(channel, file))
            session.fail("the test is over")
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - any condition will do
            await trio.sleep(0.002)


def same(got: bytes, expected: bytes) -> bool:
    """Compare without pytest's explanation, which takes minutes for a MiB."""
    return got == expected


@pytest.mark.parametrize("name", POLICIES)
async def test_two_channels_carry_one_file_and_either_may_be_lost(smbd: Smbd, name: str) -> None:
    data = os.urandom(4 * MIB)
    async with session_with(smbd, POLICIES[name], f"two-{name}") as peer:
        session, [first] = peer.session, peer.session.channels
        second, _ = await peer.bind()
        for number in range(4):
            channel = (first, second)[number % 2]
            start = number * MIB
            assert await peer.write(channel, start, data[start : start + MIB]) == MIB
        for number in range(4):
            channel = (second, first)[number % 2]
            assert same(await peer.read(channel, number * MIB, MIB), data[number * MIB : (number + 1) * MIB])
        # The channel that logged in is lost. The session goes on with the other one, and binds a third.
        first.fail("cable pulled")
        assert peer.lost == [first]
        assert session.channels == [second]
        assert session.sequence == second.sequence == 1
        assert await peer.write(second, 0, b"after the loss", replay=True) == 14
        third, _ = await peer.bind()
        assert third.sequence == 1
        assert await peer.read(third, 0, 14) == b"after the loss"
        await session.ask(lambda channel: flush_file(channel, peer.file))
        second.fail("cable pulled")
        assert same(await peer.read(third, MIB, MIB), data[MIB : 2 * MIB])
    assert same((smbd.share / f"two-{name}").read_bytes(), b"after the loss" + data[14:])


@pytest.mark.parametrize("answered", [False, True])
async def test_a_write_lost_with_its_channel_goes_again(smbd: Smbd, answered: bool) -> None:
    """The write was not executed, or it was executed and its answer was lost."""
    async with session_with(smbd, Policy(), f"again-{answered}") as peer:
        [first] = peer.session.channels
        second, relay = await peer.bind()
        data = os.urandom(256 * KIB)
        relay.hold(requests=not answered)
        errors: list[BaseException] = []

        async def write() -> None:
            try:
                await peer.write(second, 0, data)
            except ChannelLost as error:
                errors.append(error)

        peer.nursery.start_soon(write)
        held = relay.replies if answered else relay.requests
        await until(lambda: held.held_bytes > 0)
        second.fail("cable pulled")
        await until(lambda: bool(errors))
        assert await peer.write(first, 0, data, replay=True) == len(data)
        assert same(await peer.read(first, 0, len(data)), data)


async def test_a_write_that_comes_after_its_replay_and_a_newer_one_changes_nothing(smbd: Smbd) -> None:
    async with session_with(smbd, Policy(), "late") as peer:
        [first] = peer.session.channels
        second, relay = await peer.bind()
        relay.hold()

        async def write() -> None:
            with pytest.raises(ChannelLost):
                await peer.write(second, 0, b"older")

        async with trio.open_nursery() as writing:
            writing.start_soon(write)
            await until(lambda: relay.requests.held_bytes > 0)
            second.fail("cable pulled")
        assert await peer.write(first, 0, b"older", replay=True) == 5
        assert await peer.write(first, 0, b"newer") == 5
        relay.requests.release()
        # smbd sends an answer, which only the relay receives.
        await until(lambda: relay.replies.held_bytes > 0)
        assert await peer.read(first, 0, 5) == b"newer"
        assert (smbd.share / "late").read_bytes() == b"newer"


async def test_what_goes_on_while_channels_come_and_go(smbd: Smbd) -> None:
    """`InitiatorSession.ask` and its choice of channels work under losses in both directions."""
    blocks = 64
    async with session_with(smbd, Policy(), "storm") as peer:
        session, done = peer.session, 0

        async def write(block: int) -> None:
            nonlocal done
            lost = False
            while True:
                channel = session.any_channel()
                assert channel is not None
                try:
                    await peer.write(channel, block * 4 * KIB, bytes([block]) * 4 * KIB, replay=lost)
                    break
                except ChannelLost:
                    lost = True
                except StatusError as error:
                    if error.status != NtStatus.FILE_NOT_AVAILABLE:
                        raise
                    await trio.sleep(0.01)
            done += 1

        async with trio.open_nursery() as nursery:
            for block in range(blocks):
                nursery.start_soon(write, block)
            for number in range(8):
                channel, relay = await peer.bind()
                await trio.sleep(0.005)
                if number % 2:
                    relay.cut()
                else:
                    channel.fail("cable pulled")
        assert done == blocks
        await session.ask(lambda channel: flush_file(channel, peer.file))
        assert not session.why
        await until(lambda: len(session.channels) == 1)
        assert session.sequence == 8
    assert same((smbd.share / "storm").read_bytes(), b"".join(bytes([block]) * 4 * KIB for block in range(blocks)))


async def test_a_bind_by_another_user_or_password_is_refused(smbd: Smbd) -> None:
    async with session_with(smbd, Policy(), "refused") as peer:
        channel, _ = await peer.connect()
        with pytest.raises(Exception, match=r"refused our login|LOGON_FAILURE|ACCESS_DENIED"):
            await bind(channel, Policy(), GUID, Login(USER, "wrong", "MESHTEST"), peer.session.credentials)
        channel.fail("not ours")
        [first] = peer.session.channels
        assert await peer.write(first, 0, b"undisturbed") == 11


async def test_a_server_without_multichannel_refuses_politely(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_smbd(tmp_path_factory.mktemp("smbd1"), "server multi channel support = no") as smbd:
        async with session_with(smbd, Policy(), "single") as peer:
            channel, _ = await peer.connect()
            with pytest.raises(NoChannelOnThisPath, match="offers no multichannel"):
                await bind(channel, Policy(), GUID, Login(USER, PASSWORD, "MESHTEST"), peer.session.credentials)
            channel.fail("not wanted")


async def test_it_tells_its_interfaces(smbd: Smbd) -> None:
    async with session_with(smbd, Policy(), "interfaces") as peer:
        tree = peer.session.trees[IoClass.APP]
        told = await peer.session.ask(lambda channel: query_interfaces(channel, tree))
        assert [(remote.address, remote.speed_bits_s, remote.index, remote.rdma) for remote in told] == [
            ("127.0.0.1", SPEED_BITS_S, 7, False)
        ]
