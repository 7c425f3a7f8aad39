"""What belongs to a session and not to a channel: binds, what is asked as long as it lives, its end."""

import functools
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from meshfs import limits
from meshfs.disk.base import Op
from meshfs.errors import RemoteProtocolError, StatusError
from meshfs.exporter.commands import binding
from meshfs.exporter.commands.table import HANDLERS
from meshfs.exporter.exchange.request import Request
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.remote import joining, news
from meshfs.initiator.remote.exporter import RemoteExporter
from meshfs.initiator.remote.states import ExporterState, PathState
from meshfs.initiator.session import bind
from meshfs.initiator.session.address import Remote
from meshfs.initiator.session.credentials import Credentials
from meshfs.initiator.session.negotiation import Policy
from meshfs.initiator.session.session import InitiatorSession
from meshfs.initiator.session.trees import TreeConnect
from meshfs.limits import MIB
from meshfs.model import Access, DiskInfo, IoClass, Security
from meshfs.smb.auth import Login
from meshfs.smb.constants import Capabilities, Cipher, Command, Dialect, Flags, NtStatus, SigningAlgorithm
from meshfs.smb.messages import Encryption, NegotiateRequest, NegotiateResponse, Signing
from meshfs.transport.base import Transport
from meshfs.transport.stream import connect_unix
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from meshlab.smb.fixed_ways import Dialer, MadeUpWays
from meshlab.smb.stalling import Relays
from tests.memory.initiator.test_session import Change, middleman

SIZE = 8 * MIB


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - any condition will do
            await trio.sleep(0.002)


@asynccontextmanager
async def pair_of(
    folder: Path, channels: int, *, policy: Policy | None = None, more: tuple[Dialer, ...] = ()
) -> AsyncIterator[Pair]:
    """``more`` paths beside those that work; they are dialled once the first has logged in."""
    unix = functools.partial(connect_unix, folder / "exporter.sock")
    ready = trio.Event()

    def after(dialer: Dialer) -> Dialer:
        async def dial() -> Transport:
            await ready.wait()
            return await dialer()

        return dial

    dialers = [unix] * channels + [after(dialer) for dialer in more]
    with trio.fail_after(30):
        async with mesh_pair(folder, SIZE, policy=policy, io_timeout_s=3.0, dialers=dialers) as pair:
            ready.set()
            await until(lambda: len(pair.session.channels) >= channels)
            yield pair


# --- binds -----------------------------------------------------------------------------------

POLICIES = {
    "gmac": Policy(),
    "cmac": Policy(signing=(SigningAlgorithm.AES_CMAC,)),
    "none": Policy(Security.NONE),
    "none-3.0": Policy(Security.NONE, dialects=(Dialect.SMB_3_0,)),
    "gcm-128": Policy(Security.ENCRYPT),
    "ccm-256": Policy(Security.ENCRYPT, ciphers=(Cipher.AES_256_CCM,)),
    "3.0": Policy(dialects=(Dialect.SMB_3_0,)),
    "3.0.2": Policy(dialects=(Dialect.SMB_3_0, Dialect.SMB_3_0_2)),
    "3.0-encrypted": Policy(Security.ENCRYPT, dialects=(Dialect.SMB_3_0,)),
    "3.0.2-encrypted": Policy(Security.ENCRYPT, dialects=(Dialect.SMB_3_0_2,)),
}


@pytest.mark.parametrize("name", POLICIES)
async def test_all_channels_carry_data_and_any_may_go(tmp_path: Path, name: str) -> None:
    async with pair_of(tmp_path, 3, policy=POLICIES[name]) as pair:
        session, handle = pair.session.session, await pair.port.open(IoClass.APP, writable=True)
        assert session is not None
        data = os.urandom(SIZE)
        for number, channel in enumerate(list(session.channels)):
            session.pick = lambda size, now, channel=channel: channel
            session.split = lambda size, now: []
            start = number * MIB
            assert await handle.write(start, data[start : start + MIB]) == MIB
            assert bytes(await handle.read(start, MIB)) == data[start : start + MIB]
            assert channel.received_bytes > MIB
        session.pick = session.spread.pick
        for channel in list(session.channels)[:2]:
            channel.fail("cable pulled")
            assert await handle.write(4 * MIB, data[:4096]) == 4096
        assert pair.session.session is session
        await until(lambda: len(session.channels) == 3)
        await handle.flush()
        assert bytes(pair.exporter.disk.data[: 3 * MIB]) == data[: 3 * MIB]


def on_reply(command: Command, edit: Callable[[bytes], bytes]) -> Change:
    return lambda reply, message: edit(message) if reply and message[12] == command else message


def on_negotiate(edit: Callable[[Any], Any], *, reply: bool) -> Change:
    unpack = NegotiateResponse.unpack if reply else NegotiateRequest.unpack

    def change(is_reply: bool, message: bytes) -> bytes:
        if is_reply is not reply or message[12] != Command.NEGOTIATE:
            return message
        return message[:64] + edit(unpack(message[64:])).pack()

    return change


def last_setup(edit: Callable[[bytes], bytes]) -> Change:
    return on_reply(Command.SESSION_SETUP, lambda m: edit(m) if m[8:12] == bytes(4) else m)


def first_setup(edit: Callable[[bytes], bytes]) -> Change:
    return on_reply(Command.SESSION_SETUP, lambda m: edit(m) if m[8:12] != bytes(4) else m)


def unsigned(message: bytes) -> bytes:
    flags = int.from_bytes(message[16:20], "little") & ~Flags.SIGNED
    return message[:16] + flags.to_bytes(4, "little") + message[20:48] + bytes(16) + message[64:]


def with_signing(algorithm: SigningAlgorithm) -> Callable[[Any], Any]:
    return lambda r: replace(
        r, contexts=tuple(Signing((algorithm,)) if isinstance(c, Signing) else c for c in r.contexts)
    )


def with_cipher(cipher: Cipher) -> Callable[[Any], Any]:
    return lambda r: replace(
        r, contexts=tuple(Encryption((cipher,)) if isinstance(c, Encryption) else c for c in r.contexts)
    )


CHANGES: dict[str, tuple[Change, str]] = {
    "other guid": (on_negotiate(lambda r: replace(r, server_guid=bytes(16)), reply=True), "another exporter"),
    "other signing asked": (on_negotiate(with_signing(SigningAlgorithm.AES_CMAC), reply=False), "agrees on"),
    "other cipher asked": (on_negotiate(with_cipher(Cipher.AES_256_CCM), reply=False), "agrees on"),
    "older dialect asked": (
        on_negotiate(lambda r: replace(r, dialects=(Dialect.SMB_3_0,), contexts=()), reply=False),
        "agrees on",
    ),
    "other capabilities": (
        on_negotiate(lambda r: replace(r, capabilities=r.capabilities ^ Capabilities.LEASING), reply=True),
        "wrong signature",
    ),
    "other security mode asked": (
        on_negotiate(lambda r: replace(r, security_mode=r.security_mode ^ 2), reply=False),
        "wrong signature",
    ),
    "unsigned interim reply": (first_setup(unsigned), "not signed"),
    "forged interim reply": (first_setup(lambda m: m[:48] + bytes(16) + m[64:]), "wrong signature"),
    "token of an interim reply": (first_setup(lambda m: m[:-1] + bytes([m[-1] ^ 1])), "wrong signature"),
    "unsigned end": (last_setup(unsigned), "not signed"),
    "forged end": (last_setup(lambda m: m[:48] + bytes(16) + m[64:]), "wrong signature"),
    "other session": (first_setup(lambda m: m[:40] + bytes([m[40] ^ 1]) + m[41:]), "wrong signature"),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_changed_bind_is_no_channel_and_the_session_does_not_notice(tmp_path: Path, name: str) -> None:
    change, why = CHANGES[name]
    async with trio.open_nursery() as nursery:
        async with pair_of(tmp_path, 1, more=(middleman(tmp_path / "exporter.sock", nursery, change),)) as pair:
            [first] = pair.session.channels
            keeper = pair.session.keepers[1]
            await until(lambda: keeper.failures >= 2)
            assert why in keeper.why
            assert pair.session.channels == [first]
            handle = await pair.port.open(IoClass.APP, writable=True)
            assert await handle.write(0, b"undisturbed") == 11
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("dialect", [Dialect.SMB_3_0, Dialect.SMB_3_0_2, Dialect.SMB_3_1_1])
async def test_any_byte_of_a_bind_that_is_changed_is_noticed(tmp_path: Path, dialect: Dialect) -> None:
    """By the keys or the signatures, and with 3.0 and 3.0.2 by FSCTL_VALIDATE_NEGOTIATE_INFO."""
    flip = 0

    def change(_: bool, message: bytes) -> bytes:
        nonlocal flip
        if message[12] != Command.SESSION_SETUP or len(message) <= 64:
            return message
        flip += 37
        changed = bytearray(message)
        changed[64 + flip % (len(message) - 64)] ^= 1 << flip % 8
        return bytes(changed)

    policy = Policy(dialects=(dialect,))
    async with trio.open_nursery() as nursery:
        dialer = middleman(tmp_path / "exporter.sock", nursery, change)
        async with pair_of(tmp_path, 1, policy=policy, more=(dialer,)) as pair:
            keeper = pair.session.keepers[1]
            for _ in range(8):
                failures = keeper.failures
                await until(lambda failures=failures: keeper.failures > failures)
                keeper.poke()
                assert len(pair.session.channels) == 1
        nursery.cancel_scope.cancel()


async def test_an_exporter_without_multichannel_is_used_with_one(tmp_path: Path) -> None:
    change = on_negotiate(lambda r: replace(r, capabilities=r.capabilities & ~Capabilities.MULTI_CHANNEL), reply=True)
    policy = Policy(Security.NONE)
    async with trio.open_nursery() as nursery:
        dialer = middleman(tmp_path / "exporter.sock", nursery, change)
        async with pair_of(tmp_path, 1, policy=policy, more=(dialer,)) as pair:
            keeper = pair.session.keepers[1]
            await until(lambda: keeper.state is PathState.IDLE)
            assert keeper.why == "the exporter offers no multichannel"
            assert keeper.failures == 0, "it is no failure"
            session = pair.session.session
            pair.session.channels[0].fail("cable pulled")
            await until(lambda: pair.session.session not in (None, session))
        nursery.cancel_scope.cancel()


async def test_a_refusal_that_is_not_signed_keeps_no_other_path_from_binding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody on the path may have said it. The path itself is tried again later."""
    change = on_negotiate(lambda r: replace(r, capabilities=r.capabilities & ~Capabilities.MULTI_CHANNEL), reply=True)
    async with trio.open_nursery() as nursery:
        dialer = middleman(tmp_path / "exporter.sock", nursery, change)
        async with pair_of(tmp_path, 2, policy=Policy(Security.NONE), more=(dialer,)) as pair:
            await until(lambda: pair.session.keepers[2].state is PathState.IDLE)
            session = pair.session.session
            with trio.fail_after(5):
                pair.session.channels[1].fail("cable pulled")
                await until(lambda: len(pair.session.channels) == 2)
            assert pair.session.session is session
            assert pair.session.keepers[2].why == "the exporter offers no multichannel"
        nursery.cancel_scope.cancel()


async def test_an_answer_to_a_bind_without_a_signature_counts_for_its_path_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair_of(tmp_path, 2) as pair:
        session = pair.session.session
        assert session is not None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(binding, "limits", SimpleNamespace(**vars(limits) | {"CHANNELS_PER_SESSION_MAX": 1}))
            patch.setattr(bind, "is_signed", lambda *_: False)
            pair.session.channels[0].fail("cable pulled")
            await until(lambda: any("no further channel" in keeper.why for keeper in pair.session.keepers))
            assert not session.no_more


async def test_an_exporter_that_is_full_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may not have noticed yet that channels of ours are dead."""
    monkeypatch.setattr(limits, "BIND_AGAIN_S", 0.2)
    async with pair_of(tmp_path, 2) as pair:
        session = pair.session.session
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(binding, "limits", SimpleNamespace(**vars(limits) | {"CHANNELS_PER_SESSION_MAX": 1}))
            pair.session.channels[0].fail("cable pulled")
            await until(lambda: session is not None and "no further channel" in session.no_more)
            await trio.sleep(0.5)
            assert len(pair.session.channels) == 1
        await until(lambda: len(pair.session.channels) == 2)
        assert pair.session.session is session


async def test_a_bind_where_nothing_gets_through_holds_nobody_up(tmp_path: Path) -> None:
    """Neither other binds nor, when the session is lost meanwhile, the next login."""
    async with trio.open_nursery() as nursery:
        relays = Relays(functools.partial(trio.open_unix_socket, tmp_path / "exporter.sock"), nursery)

        async def swallowed() -> Transport:
            transport = await relays.dial()
            relays.alive[-1].hold()
            return transport

        async with pair_of(tmp_path, 2, more=(swallowed,)) as pair:
            await until(lambda: len(relays.alive) > 0)
            await trio.sleep(0.05)
            first = pair.session.session
            with trio.fail_after(2):
                pair.session.channels[1].fail("cable pulled")
                await until(lambda: len(pair.session.channels) == 2)
                assert pair.session.session is first
                for channel in pair.session.channels:
                    channel.fail("cable pulled")
                await until(lambda: len(pair.session.channels) == 2)
                assert pair.session.session is not first
        nursery.cancel_scope.cancel()


async def test_a_login_where_nothing_gets_through_holds_the_others_up_for_a_little_only(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        relays = Relays(functools.partial(trio.open_unix_socket, tmp_path / "exporter.sock"), nursery)
        first = trio.Event()

        async def swallowed() -> Transport:
            transport = await relays.dial()
            relays.alive[-1].hold()
            first.set()
            return transport

        async def later() -> Transport:
            await first.wait()
            await trio.sleep(0.1)
            return await connect_unix(tmp_path / "exporter.sock")

        with trio.fail_after(limits.LOGIN_BESIDE_OTHERS_S + 2):
            async with mesh_pair(tmp_path, SIZE, dialers=[swallowed, later]) as pair:
                assert "nothing heard" in pair.session.keepers[0].why
                assert len(pair.session.channels) == 1
        nursery.cancel_scope.cancel()


# --- as long as a session lives --------------------------------------------------------------


async def test_changes_are_told_whatever_channel_was_lost(tmp_path: Path) -> None:
    async with pair_of(tmp_path, 3) as pair:
        session = pair.session.session
        exporter = pair.exporter.exporter
        assert exporter is not None
        [disk] = exporter.disks.all()
        for round_ in range(6):
            await until(lambda: _watching(pair) is not None)
            watching = _watching(pair)
            assert watching is not None
            await trio.sleep(0.02)
            watching.fail("cable pulled")
            await until(lambda: len(pair.session.channels) == 3)
            pair.exporter.access = access = (Access.READ_ONLY, Access.READ_WRITE)[round_ % 2]
            exporter.disks.modified(disk)
            await until(lambda access=access: pair.session.disks[0].access is access)
        assert pair.session.session is session


def _watching(pair: Pair) -> Channel | None:
    """The channel on which CHANGE_NOTIFY waits at the exporter."""
    return next(
        (
            channel
            for channel in pair.session.channels
            if any(slot.command == Command.CHANGE_NOTIFY for slot in channel.in_flight())
        ),
        None,
    )


async def test_a_question_that_was_overtaken_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent before a channel was lost, it came after what was sent later by another: it is refused once."""
    monkeypatch.setattr(limits, "DISKS_REFRESH_S", 0.05)
    refused = 0
    handler, needs = HANDLERS[Command.IOCTL]

    def late_once(request: Request) -> None:
        nonlocal refused
        refused += 1
        if refused == 2:
            raise StatusError(NtStatus.FILE_NOT_AVAILABLE, "late")
        handler(request)

    async with pair_of(tmp_path, 2) as pair:
        session = pair.session.session
        monkeypatch.setitem(HANDLERS, Command.IOCTL, (late_once, needs))
        await until(lambda: refused >= 4)
        assert pair.session.session is session
        assert len(pair.session.channels) == 2


async def test_nonsense_about_interfaces_is_no_end_of_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def nonsense(channel: Channel, tree: TreeConnect) -> tuple[Remote, ...]:
        raise RemoteProtocolError("network interface: reaches outside the output")

    monkeypatch.setattr(news, "query_interfaces", nonsense)
    ways = MadeUpWays(functools.partial(connect_unix, tmp_path / "exporter.sock"), (), (Remote("there"),), asks=True)
    async with mesh_pair(tmp_path, SIZE, ways=ways) as pair:
        await until(lambda: "reaches outside" in caplog.text)
        handle = await pair.port.open(IoClass.APP, writable=True)
        assert await handle.write(0, b"undisturbed") == 11


async def test_a_session_that_ends_before_anything_was_asked_of_it_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its channel is lost in the moment in which the login is done."""
    lost = 0
    connected = RemoteExporter.connected

    def and_lost(self: RemoteExporter, session: InitiatorSession, disks: tuple[DiskInfo, ...]) -> None:
        nonlocal lost
        connected(self, session, disks)
        lost += 1
        if lost <= 3:
            session.channels[0].fail("cable pulled")

    monkeypatch.setattr(RemoteExporter, "connected", and_lost)
    ways = MadeUpWays(functools.partial(connect_unix, tmp_path / "exporter.sock"), (), (Remote("there"),), asks=True)
    async with mesh_pair(tmp_path, SIZE, ways=ways) as pair:
        await until(lambda: pair.session.state is ExporterState.CONNECTED and lost == 4)


async def test_news_of_the_disks_in_the_moment_the_session_ends(tmp_path: Path) -> None:
    async with pair_of(tmp_path, 1) as pair:
        await trio.sleep(0.05)
        for _ in range(3):
            session = pair.session.session
            pair.session.news.ask_disks()
            pair.session.news.ask_addresses()
            for channel in pair.session.channels:
                channel.fail("cable pulled")
            await until(lambda session=session: pair.session.session not in (None, session))
            await trio.sleep(0.05)


# --- its end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [NtStatus.NETWORK_SESSION_EXPIRED, NtStatus.NETWORK_NAME_DELETED])
async def test_a_session_the_exporter_ended_ends_on_all_channels_at_once(tmp_path: Path, status: NtStatus) -> None:
    ended = False
    write, needs = HANDLERS[Command.WRITE]

    def end_once(request: Request) -> None:
        nonlocal ended
        if not ended:
            ended = True
            raise StatusError(status, "ended")
        write(request)

    async with pair_of(tmp_path, 4) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        old = pair.session.session
        assert old is not None
        channels = list(old.channels)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(HANDLERS, Command.WRITE, (end_once, needs))
            assert await handle.write(0, b"again") == 5
        assert "ended our session" in old.why
        assert {channel.why for channel in channels} == {old.why}
        await until(lambda: len(pair.session.channels) == 4)


async def test_a_session_that_is_gone_at_the_exporter_is_made_anew(tmp_path: Path) -> None:
    """There is no key left to sign that answer with: each channel that hears it ends."""
    async with pair_of(tmp_path, 4) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        old, exporter = pair.session.session, pair.exporter.exporter
        assert exporter is not None
        for session in list(exporter.sessions.values()):
            exporter.sessions.end(session, lambda: None)
        assert await handle.write(0, b"again") == 5
        assert pair.session.session is not old
        await until(lambda: len(pair.session.channels) == 4)


async def test_the_session_ends_with_its_last_channel_and_the_next_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[int] = []
    log_in = joining.log_in

    async def noted(
        channel: Channel,
        policy: Policy,
        guid: bytes,
        login: Login,
        previous_session_id: int = 0,
        *,
        to_be_bound: bool = False,
    ) -> Credentials:
        named.append(previous_session_id)
        return await log_in(channel, policy, guid, login, previous_session_id, to_be_bound=to_be_bound)

    monkeypatch.setattr(joining, "log_in", noted)
    async with pair_of(tmp_path, 3) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        disk, first = pair.exporter.disk, pair.session.session
        assert first is not None
        for count in (2, 1):
            # Others take its place at once, but not within these few steps.
            first.channels[0].fail("cable pulled")
            assert len(first.channels) == count
            assert not first.why
        assert first.sequence == 2
        disk.stall(lambda request: request.op == Op.WRITE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.write, 0, b"goes again")
            await until(lambda: disk.stalled == 1)
            for channel in list(first.channels):
                channel.fail("the last cables pulled")
            assert first.why == "the last cables pulled"
            assert pair.session.state is ExporterState.DOWN
            await trio.sleep(0.1)
            assert disk.stalled == 1
            disk.release()
        await until(lambda: len(pair.session.channels) == 3)
        assert named[0] == 0
        assert set(named[1:]) == {first.credentials.session_id}
        assert bytes(disk.data[:10]) == b"goes again"
        exporter = pair.exporter.exporter
        assert exporter is not None
        assert len(exporter.sessions) == 1


# --- loads -----------------------------------------------------------------------------------


async def test_requests_that_left_before_they_were_sent_are_no_load(tmp_path: Path) -> None:
    async with pair_of(tmp_path, 2) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        disk, session = pair.exporter.disk, pair.session.session
        assert session is not None
        session.split = lambda size, now: []
        disk.stall()
        with trio.move_on_after(0.3):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(handle.read, number % 8 * MIB, MIB)
        assert all(channel.outstanding for channel in session.channels)
        disk.release()
        await until(lambda: not any(channel.outstanding for channel in session.channels))
        assert [channel.load.outstanding_bytes for channel in session.channels] == [0, 0]
