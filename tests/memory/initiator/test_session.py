"""Sessions: logins through a middleman who changes bytes, reconnecting, and the status that meshctl shows."""

import socket
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import trio

from meshfs import limits
from meshfs.errors import KeyFileError, RemoteProtocolError
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.remote.states import ExporterState
from meshfs.initiator.remote.status import exporter_status
from meshfs.initiator.session.address import Remote
from meshfs.initiator.session.commands import RemoteOpen
from meshfs.initiator.session.negotiation import Policy
from meshfs.model import IoClass, Security
from meshfs.smb.auth import Login
from meshfs.smb.constants import Cipher, Command, Dialect, SigningAlgorithm
from meshfs.smb.messages import (
    Encryption,
    NegotiateResponse,
    PreauthIntegrity,
    SessionSetupResponse,
    Signing,
)
from meshfs.transport.base import Transport
from meshfs.transport.stream import StreamTransport, connect_unix
from meshlab.fakes.mesh_pair import PASSWORD
from meshlab.smb.fixed_ways import Dialer
from support.middleman import Change, last_setup, middleman, on_negotiate, unsigned, with_cipher, with_signing
from support.sessions import exporter_at, make_session
from support.waiting import until

# --- a middleman -----------------------------------------------------------------------------


def _guest(message: bytes) -> bytes:
    return message[:64] + replace(SessionSetupResponse.unpack(message[64:]), session_flags=1).pack()


def _without(kind: type) -> Callable[[NegotiateResponse], NegotiateResponse]:
    return lambda r: replace(r, contexts=tuple(c for c in r.contexts if not isinstance(c, kind)))


CHANGES: dict[str, Change] = {
    "weaker signing asked": on_negotiate(with_signing(SigningAlgorithm.AES_CMAC), reply=False),
    "other cipher asked": on_negotiate(with_cipher(Cipher.AES_128_CCM), reply=False),
    "older dialect asked": on_negotiate(lambda r: replace(r, dialects=(Dialect.SMB_3_0,), contexts=()), reply=False),
    "other security mode asked": on_negotiate(lambda r: replace(r, security_mode=r.security_mode ^ 2), reply=False),
    "signing dropped from the reply": on_negotiate(_without(Signing), reply=True),
    "encryption dropped from the reply": on_negotiate(_without(Encryption), reply=True),
    "no integrity in the reply": on_negotiate(_without(PreauthIntegrity), reply=True),
    "dialect never offered": on_negotiate(lambda r: replace(r, dialect=Dialect.SMB_2_1, contexts=()), reply=True),
    "smaller sizes": on_negotiate(lambda r: replace(r, max_read_bytes=65536), reply=True),
    "absurd sizes": on_negotiate(lambda r: replace(r, max_read_bytes=1), reply=True),
    "other guid": on_negotiate(lambda r: replace(r, server_guid=bytes(16)), reply=True),
    "unsigned end of the login": last_setup(unsigned),
    "forged end of the login": last_setup(lambda m: m[:48] + bytes(16) + m[64:]),
    "guest": last_setup(_guest),
}


@pytest.mark.parametrize("security", [Security.SIGN, Security.NONE])
@pytest.mark.parametrize("name", CHANGES)
async def test_a_changed_login_never_connects(tmp_path: Path, name: str, security: Security) -> None:
    async with exporter_at(tmp_path / "sock", security) as (_, nursery):
        dialer = middleman(tmp_path / "sock", nursery, CHANGES[name])
        session = make_session([dialer], Policy(security))
        nursery.start_soon(session.run)
        await until(lambda: session.failures >= 2 or session.state is ExporterState.CONNECTED)
        assert session.state is ExporterState.DOWN
        assert session.why


async def test_a_middleman_who_changes_nothing_is_no_problem(tmp_path: Path) -> None:
    async with exporter_at(tmp_path / "sock") as (_, nursery):
        session = make_session([middleman(tmp_path / "sock", nursery, lambda reply, message: message)])
        nursery.start_soon(session.run)
        await until(lambda: session.state is ExporterState.CONNECTED)


@pytest.mark.parametrize("dialects", [(Dialect.SMB_3_0,), (Dialect.SMB_3_0, Dialect.SMB_3_0_2)], ids=["3.0", "3.0.2"])
async def test_changed_capabilities_of_an_older_dialect_are_found(
    tmp_path: Path, dialects: tuple[Dialect, ...]
) -> None:
    """FSCTL_VALIDATE_NEGOTIATE_INFO finds the change."""
    change = on_negotiate(lambda r: replace(r, capabilities=r.capabilities & ~0x40), reply=True)
    async with exporter_at(tmp_path / "sock") as (_, nursery):
        session = make_session([middleman(tmp_path / "sock", nursery, change)], Policy(dialects=dialects))
        nursery.start_soon(session.run)
        await until(lambda: session.failures >= 1 or session.state is ExporterState.CONNECTED)
        assert "changed on its way" in session.why


def _first_login_reply_succeeds(reply: bool, message: bytes) -> bytes:
    early = reply and message[12] == Command.SESSION_SETUP and message[8:12] != bytes(4)
    return message[:8] + bytes(4) + message[12:] if early else message


async def test_a_success_status_in_the_middle_of_a_login_is_refused(tmp_path: Path) -> None:
    async with exporter_at(tmp_path / "sock") as (_, nursery):
        session = make_session([middleman(tmp_path / "sock", nursery, _first_login_reply_succeeds)])
        nursery.start_soon(session.run)
        await until(lambda: session.failures >= 1 or session.state is ExporterState.CONNECTED)
        assert session.state is ExporterState.DOWN


@pytest.mark.parametrize("seed", range(8))
async def test_any_flipped_bit_of_a_login_is_noticed(tmp_path: Path, seed: int) -> None:
    """The keys or the signature depend on each byte of NEGOTIATE and SESSION_SETUP."""
    random = Random(seed)
    cases = 12
    countdown = 0
    flipped = False

    def change(reply: bool, message: bytes) -> bytes:
        nonlocal countdown, flipped
        if message[12] not in (Command.NEGOTIATE, Command.SESSION_SETUP) or flipped:
            return message
        countdown -= 1
        if countdown > 0:
            return message
        flipped = True
        changed = bytearray(message)
        changed[random.randrange(len(message))] ^= 1 << random.randrange(8)
        return bytes(changed)

    async with exporter_at(tmp_path / "sock") as (_, nursery):
        for _ in range(cases):
            countdown, flipped = random.randint(1, 6), False
            session = make_session([middleman(tmp_path / "sock", nursery, change)])
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as attempts:
                    attempts.start_soon(session.run)
                    await until(
                        lambda session=session: session.failures >= 1 or session.state is ExporterState.CONNECTED
                    )
                    assert session.state is ExporterState.DOWN, countdown
                    scope.cancel()


@pytest.mark.parametrize("output", [b"", b"garbage", b"[1]", b'[{"id": 1}]', b"[" * 100000, b'{"a": "b"}'])
async def test_a_list_of_disks_that_is_none_is_a_reason_to_be_down(
    tmp_path: Path, output: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshfs.exporter.commands.ioctl.encode_disks", lambda disks: output)
    async with exporter_at(tmp_path / "sock") as (_, nursery):
        session = make_session([lambda: connect_unix(tmp_path / "sock")])
        nursery.start_soon(session.run)
        await until(lambda: session.failures >= 1 or session.state is ExporterState.CONNECTED)
        assert session.state is ExporterState.DOWN
        assert "list of disks" in session.why


# --- down, and up again -----------------------------------------------------------------------


async def test_a_wrong_password_is_named_and_tried_again_slowly(tmp_path: Path) -> None:
    async with exporter_at(tmp_path / "sock") as (_, nursery):
        session = make_session([lambda: connect_unix(tmp_path / "sock")], password="wrong")
        assert session.state is ExporterState.CONNECTING
        nursery.start_soon(session.run)
        await until(lambda: session.failures >= 1)
        assert "refused our login" in session.why
        await trio.sleep(0.7)
        # The delays double: at least 0.05, 0.1, 0.2 and 0.4 s.
        assert 2 <= session.failures <= 6
        assert session.state is ExporterState.DOWN


async def test_a_missing_key_is_named_and_used_when_it_is_there(tmp_path: Path) -> None:
    there = False

    def login() -> Login:
        if not there:
            raise KeyFileError("n1.pub: missing")
        return Login("n2", PASSWORD, "demo")

    async with exporter_at(tmp_path / "sock") as (_, nursery):
        session = make_session([lambda: connect_unix(tmp_path / "sock")], login=login)
        nursery.start_soon(session.run)
        await until(lambda: session.failures >= 1)
        assert session.why == "n1.pub: missing"
        there = True
        await until(lambda: session.state is ExporterState.CONNECTED)


async def test_attempts_back_off_at_every_address(autojump_clock: trio.testing.MockClock) -> None:
    times: list[list[float]] = [[], []]

    def refusing(number: int) -> Dialer:
        async def dial() -> Transport:
            times[number].append(trio.current_time())
            raise ConnectionRefusedError(111, "Connection refused")

        return dial

    session = make_session([refusing(0), refusing(1)])
    with trio.move_on_after(60):
        await session.run()
    assert times[0][0] == times[1][0], "both are tried at once"
    for attempts in times:
        gaps = [later - earlier for earlier, later in pairwise(attempts)]
        assert gaps[0] <= 2 * limits.RECONNECT_DELAY_MIN_S
        assert max(gaps) <= limits.RECONNECT_DELAY_MAX_S
        assert min(gaps[10:]) >= limits.RECONNECT_DELAY_MAX_S / 2
    assert session.why == "cannot connect: Connection refused"
    assert session.failures == sum(map(len, times))


async def test_an_exporter_that_accepts_and_says_nothing_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    kept: list[socket.socket] = []

    async def dial() -> Transport:
        ours, theirs = socket.socketpair()
        kept.append(theirs)
        return StreamTransport(ours)

    session = make_session([dial])
    with trio.move_on_after(limits.HANDSHAKE_TIMEOUT_S + 1):
        await session.run()
    assert "took longer" in session.why
    for sock in kept:
        sock.close()


async def test_the_new_login_names_the_old_session(tmp_path: Path) -> None:
    """The exporter ends the old session, although the old connection may still be open there."""
    async with exporter_at(tmp_path / "sock") as (exporter, nursery):
        session = make_session([lambda: connect_unix(tmp_path / "sock")])
        nursery.start_soon(session.run)
        await until(lambda: session.state is ExporterState.CONNECTED)
        inner = exporter.exporter
        assert inner is not None
        (old,) = inner.sessions
        first = session.channels[0]
        # The mount gives the connection up, and the exporter does not notice.
        keep = first.transport.close
        first.transport.close = lambda: None  # type: ignore[method-assign]
        first.fail("cable pulled")
        await until(lambda: session.channels not in ([], [first]))
        assert old not in inner.sessions
        assert len(inner.sessions) == 1
        keep()


async def test_all_channels_lost_at_once_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that the loss of the first channel wakes finds that there is no other channel either."""

    async def nothing_new(*_: object) -> tuple[Remote, ...]:
        return ()

    monkeypatch.setattr("meshfs.initiator.remote.news.query_interfaces", nothing_new)
    async with exporter_at(tmp_path / "sock") as (_, nursery):
        session = make_session([lambda: connect_unix(tmp_path / "sock")] * 2, asks=True)
        nursery.start_soon(session.run)
        for _ in range(3):
            await until(lambda: len(session.channels) == 2)
            # Wait until all queries of the session wait again.
            await trio.testing.wait_all_tasks_blocked()
            first, second = session.channels
            first.fail("cable pulled")
            second.fail("cable pulled")
            assert session.state is ExporterState.DOWN


async def test_an_answer_that_makes_no_sense_is_a_reason_to_be_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def misunderstood(*_: object) -> None:
        raise RemoteProtocolError("no such thing")

    monkeypatch.setattr("meshfs.initiator.remote.followed_list.wait_for_change", misunderstood)
    async with exporter_at(tmp_path / "sock") as (_, nursery):
        session = make_session([lambda: connect_unix(tmp_path / "sock")], asks=True)
        nursery.start_soon(session.run)
        await until(lambda: session.why == "the exporter broke the protocol: no such thing")


#: The status of an exporter that is connected and idle, without counts of bytes and times.
CONNECTED = {
    "node": "n1",
    "state": "connected",
    "why": "",
    "retry_in_s": None,
    "failures": 0,
    "waiting": [],
    "away_s": None,
    "failing_fast": False,
    "hung_disks": [],
    "bad_signatures": 0,
    "nonces_repeated": 0,
}
#: The status of its channel, without the address of the socket.
CHANNEL = {
    "transport": "unix",
    "local": "-",
    "state": "connected",
    "dialect": "3.1.1",
    "signing": "AES-GMAC",
    "cipher": "none",
    "outstanding": 0,
    "failures": 0,
    "losses": 0,
    "interface": "",
    "number": 0,
    "speed_bits_s": 0,
    "rdma": False,
    "selected": True,
    "why": "",
    "retry_in_s": None,
    "sent_bytes_s": 0,
    "received_bytes_s": 0,
    "local_address": "",
    "remote_address": "way-0",
    "measured_bytes_s": None,
    "bad_signatures": 0,
}


async def test_the_status_of_an_exporter_and_its_channels(tmp_path: Path) -> None:
    async with exporter_at(tmp_path / "sock") as (exporter, nursery):
        session = make_session([lambda: connect_unix(tmp_path / "sock")])
        nursery.start_soon(session.run)
        # After the login, the mount queries what may have changed since.
        await until(lambda: session.state is ExporterState.CONNECTED and not session.channels[0].outstanding)
        status = exporter_status(session, trio.current_time())
        (channel,) = status.pop("channels")
        assert status.pop("since_s") >= 0
        sent_bytes, received_bytes = status.pop("sent_bytes"), status.pop("received_bytes")
        assert status == CONNECTED
        assert channel.pop("sent_bytes") == sent_bytes > 500
        assert channel.pop("received_bytes") == received_bytes > 500
        assert channel == CHANNEL | {"remote": str(tmp_path / "sock")}
        await exporter.stop()
        await until(lambda: session.state is ExporterState.DOWN and session.retry_at is not None)
        status = exporter_status(session, trio.current_time())
        (channel,) = status["channels"]
        assert channel["state"] in ("down", "connecting")
        assert (channel["failures"], channel["outstanding"]) == (status["failures"], 0)
        assert channel["losses"] == 1, "a failed attempt to connect is no loss"
        assert status["retry_in_s"] is not None
        assert status["failures"] > 0
        assert status["sent_bytes"] >= sent_bytes, "bytes of ended channels stay counted"
        assert status["received_bytes"] >= received_bytes
        assert [info.name for info in session.disks] == ["disk0"], "the last list of disks stays known"


def changes_at_once(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let every wait for a change of the disks end at once. Return the list of the times of these waits."""
    asked: list[float] = []

    async def at_once(_: Channel, root: RemoteOpen) -> None:
        if root.tree.share != IoClass.APP.share:
            # The enclosures never change here.
            await trio.sleep_forever()
        asked.append(trio.current_time())
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr("meshfs.initiator.remote.followed_list.wait_for_change", at_once)
    return asked


async def test_an_exporter_whose_disks_change_all_the_time_is_not_asked_in_a_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = changes_at_once(monkeypatch)
    async with exporter_at(tmp_path / "sock") as (_, nursery):
        session = make_session([lambda: connect_unix(tmp_path / "sock")])
        nursery.start_soon(session.run)
        await until(lambda: session.state is ExporterState.CONNECTED)
        await trio.sleep(1.0)
    assert 1 <= len(asked) <= 2 + 1.0 / limits.CHANGES_PAUSE_S * 2


async def test_an_exporter_whose_list_is_long_is_asked_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longer a list is, the longer the mount needs to take it over, and does no I/O meanwhile."""
    asked = changes_at_once(monkeypatch)
    monkeypatch.setattr(limits, "CHANGES_PAUSE_S", 0.0)
    monkeypatch.setattr(limits, "CHANGES_PAUSE_PER_DISK_S", 60.0)
    async with exporter_at(tmp_path / "sock") as (_, nursery):
        session = make_session([lambda: connect_unix(tmp_path / "sock")])
        nursery.start_soon(session.run)
        await until(lambda: session.state is ExporterState.CONNECTED)
        await trio.sleep(0.5)
    assert len(asked) == 1
