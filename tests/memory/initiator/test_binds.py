"""Binds of a mount: channels for every policy, binds that somebody changes, and exporters that refuse a bind."""

import functools
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from meshfs import limits
from meshfs.exporter.commands import binding
from meshfs.initiator.remote.states import PathState
from meshfs.initiator.session import bind
from meshfs.initiator.session.negotiation import Policy
from meshfs.limits import MIB
from meshfs.model import IoClass, Security
from meshfs.smb.constants import Capabilities, Cipher, Command, Dialect, SigningAlgorithm
from meshfs.transport.base import Transport
from meshfs.transport.stream import connect_unix
from meshlab.fakes.mesh_pair import mesh_pair
from meshlab.smb.stalling import Relays
from support.middleman import (
    Change,
    first_setup,
    last_setup,
    middleman,
    on_negotiate,
    unsigned,
    with_cipher,
    with_signing,
)
from support.pairs import SIZE, pair_of
from support.waiting import until

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
    """A change makes other keys or a wrong signature. In 3.0 and 3.0.2, FSCTL_VALIDATE_NEGOTIATE_INFO finds it."""
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
            assert keeper.failures == 0, "a path that is not needed has not failed"
            session = pair.session.session
            pair.session.channels[0].fail("cable pulled")
            await until(lambda: pair.session.session not in (None, session))
        nursery.cancel_scope.cancel()


async def test_a_refusal_that_is_not_signed_keeps_no_other_path_from_binding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody on the path may have sent the refusal. So only this path waits, and it is tried again later."""
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


async def test_a_bind_is_tried_again_at_an_exporter_that_was_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter may not have noticed yet that channels of the session are lost."""
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


async def test_a_bind_on_a_silent_path_delays_neither_binds_nor_logins(tmp_path: Path) -> None:
    """Other binds go on. If the session is lost meanwhile, the next login does not wait for the silent bind."""
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


async def test_a_login_on_a_silent_path_delays_the_others_only_a_little(tmp_path: Path) -> None:
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
                assert "other paths wait to log in" in pair.session.keepers[0].why
                assert len(pair.session.channels) == 1
        nursery.cancel_scope.cancel()
