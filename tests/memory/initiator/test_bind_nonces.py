"""Message ids of binds, which are part of the nonces of AES-GMAC: none is used twice under a session's key."""

import functools
from pathlib import Path

import pytest

from meshfs import limits
from meshfs.exporter.commands import binding
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.state.exporter import Exporter
from meshfs.initiator.session.negotiation import Policy
from meshfs.smb.constants import SigningAlgorithm
from meshfs.smb.messages import SessionSetupRequest
from meshfs.transport.stream import connect_unix
from meshlab.fakes.mesh_pair import mesh_pair
from meshlab.smb.fixed_ways import FixedWays
from support.pairs import bound as all_channels
from support.waiting import until

CHANNELS = 3


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Note (session id, message id) of every signed request of a bind that reaches the exporter."""
    seen: list[tuple[int, int]] = []
    step = binding._step

    def noted(request: Request, session: object, under_way: binding.Bind, body: SessionSetupRequest) -> None:
        seen.append((request.session_id, request.message.message_id))
        step(request, session, under_way, body)  # type: ignore[arg-type]

    monkeypatch.setattr(binding, "_step", noted)
    return seen


def ways(folder: Path) -> FixedWays:
    """Return ways to an exporter of another node, so that a session may have several channels."""
    return FixedWays([functools.partial(connect_unix, folder / "exporter.sock")] * CHANNELS, asks=True)


def first_ids(exporter: Exporter | None) -> list[int]:
    """Return the lowest message id that the first connection of each session has not used yet."""
    assert exporter is not None
    return [session.peer.window._low for session in exporter.sessions.values()]


async def test_no_bind_uses_a_message_id_twice(tmp_path: Path, bound: list[tuple[int, int]]) -> None:
    async with mesh_pair(tmp_path, ways=ways(tmp_path)) as pair:
        await all_channels(pair, CHANNELS)
        session = pair.session.session
        assert session is not None
        assert min(first_ids(pair.exporter.exporter)) > limits.BIND_MESSAGE_IDS
        for _ in range(10):
            lost = pair.session.channels[-1]
            lost.fail("cable pulled")
            await all_channels(pair, CHANNELS, without=lost)
        assert pair.session.session is session
    assert len(bound) == 2 * (CHANNELS - 1 + 10)
    assert len(set(bound)) == len(bound)
    assert max(message_id for _, message_id in bound) < limits.BIND_MESSAGE_IDS


async def test_a_session_whose_bind_ids_are_used_up_is_replaced(
    tmp_path: Path, bound: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BIND_MESSAGE_IDS", 16)
    async with mesh_pair(tmp_path, ways=ways(tmp_path)) as pair:
        sessions = set()
        for _ in range(12):
            await all_channels(pair, CHANNELS)
            assert pair.session.session is not None
            sessions.add(pair.session.session.credentials.session_id)
            pair.session.channels[-1].fail("cable pulled")
            await until(lambda: len(pair.session.channels) < CHANNELS)
        assert len(sessions) > 1
    assert len(set(bound)) == len(bound)
    assert max(message_id for _, message_id in bound) < 16


async def test_other_algorithms_need_no_care(tmp_path: Path, bound: list[tuple[int, int]]) -> None:
    policy = Policy(signing=(SigningAlgorithm.AES_CMAC,))
    async with mesh_pair(tmp_path, ways=ways(tmp_path), policy=policy) as pair:
        await all_channels(pair, CHANNELS)
    assert {message_id for _, message_id in bound} == {1, 2}
