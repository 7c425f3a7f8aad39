"""Enclosures of an exporter, as an initiator follows, reads and controls them."""

import errno
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from meshfs.enclosure_info import EnclosureState
from meshfs.exporter.state.offered_enclosure import OfferedEnclosure
from meshfs.initiator.attached.enclosure import RemoteEnclosure
from meshfs.initiator.remote import enclosure_news
from meshfs.model import Access, IoClass
from meshfs.ses.build import Bay
from meshfs.ses.status import Lamps
from meshfs.smb.constants import Command
from meshfs.smb.messages import TreeDisconnectRequest
from meshfs.transport.stream import connect_unix
from meshlab.fakes.enclosure import FakeEnclosureDevice, offer_enclosure
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from support.pairs import errno_of
from support.waiting import until

ID = "enc-n1-shelf"
T = 2.0


class Shelf:
    """Holds a connected pair whose exporter offers one enclosure."""

    def __init__(self, pair: Pair, bays: int = 4) -> None:
        self.pair = pair
        self.rights: dict[str, Access] = {}
        self.device = FakeEnclosureDevice(bays)
        self.port = RemoteEnclosure(ID, pair.session, pair.nursery.start_soon)
        self.offered = self.offer()

    def offer(self) -> OfferedEnclosure:
        assert self.pair.exporter.exporter is not None
        self.offered = offer_enclosure(self.pair.exporter.exporter, self.device, self.rights)
        return self.offered

    def withdraw(self) -> None:
        assert self.pair.exporter.exporter is not None
        self.pair.exporter.exporter.enclosures.withdraw(self.offered.name, lambda _: None)

    def modify(self, **facts: object) -> None:
        assert self.pair.exporter.exporter is not None
        self.offered.update(replace(self.offered.info, **facts))  # type: ignore[arg-type]
        self.pair.exporter.exporter.enclosures.modified(self.offered)

    async def known(self) -> None:
        await until(lambda: any(info.id == ID for info in self.pair.session.enclosures))

    def page(self, bay: int = 1, *, locate: bool = True) -> bytes:
        return self.device.control_page(bay, Lamps(locate=locate))

    @property
    def opens(self) -> int:
        return len(self.offered.opens)


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    async with mesh_pair(tmp_path, io_timeout_s=T) as pair:
        shelf = Shelf(pair)
        await shelf.known()
        yield shelf


# --- news ---------------------------------------------------------------------------------


async def test_enclosures_appear_change_and_disappear_within_the_notice(shelf: Shelf) -> None:
    assert shelf.pair.session.enclosures == (shelf.offered.info,)
    for state in (EnclosureState.FAULT, EnclosureState.GONE, EnclosureState.OK):
        with trio.fail_after(1):
            shelf.modify(state=state)
            await until(lambda state=state: [each.state for each in shelf.pair.session.enclosures] == [state])
    with trio.fail_after(1):
        shelf.withdraw()
        await until(lambda: shelf.pair.session.enclosures == ())
    with trio.fail_after(1):
        shelf.offer()
        await shelf.known()


async def test_an_exporter_without_the_share_is_followed_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exporter of an older version has no such share."""
    monkeypatch.setattr(enclosure_news, "SHARE_ENCLOSURES", "another")
    caplog.set_level("INFO")
    async with mesh_pair(tmp_path, io_timeout_s=T) as pair:
        port = RemoteEnclosure(ID, pair.session, pair.nursery.start_soon)
        await until(lambda: "exporter n1 does not list its enclosures" in caplog.text)
        assert await errno_of(port.read()) == errno.ENODEV
        handle = await pair.port.open(IoClass.APP, writable=True)
        assert await handle.write(0, b"data") == 4
        assert pair.session.session is not None


async def test_a_share_that_is_refused_ends_no_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The list makes no sense. The next attempt is made later, and the disks know nothing of all that."""
    monkeypatch.setattr("meshfs.exporter.kinds.enclosure.facts.encode_enclosures", lambda _: b"[{}]")
    monkeypatch.setattr("meshfs.limits.DISKS_REFRESH_S", 0.05)
    caplog.set_level("INFO")
    async with mesh_pair(tmp_path, io_timeout_s=T) as pair:
        session = pair.session.session
        Shelf(pair)
        await until(lambda: "the list of enclosures makes no sense" in caplog.text)
        await trio.sleep(0.2)
        assert caplog.text.count("the list of enclosures makes no sense") == 1
        assert pair.session.session is session
        monkeypatch.undo()
        await until(lambda: [each.id for each in pair.session.enclosures] == [ID])


async def test_a_share_that_is_disconnected_is_connected_again(shelf: Shelf) -> None:
    session = shelf.pair.session.session
    assert session is not None
    root = session.enclosures
    assert root is not None
    body = TreeDisconnectRequest().pack()
    (channel,) = session.channels
    await channel.answer(channel.start_request(Command.TREE_DISCONNECT, body, tree_id=root.tree.tree_id))
    assert await shelf.port.read() == shelf.device.reading().content
    assert shelf.pair.session.session is session
    assert session.enclosures not in (None, root)


async def test_enclosures_stay_known_while_the_exporter_is_away(shelf: Shelf) -> None:
    await shelf.pair.exporter.stop()
    await until(lambda: shelf.pair.session.session is None)
    assert [each.id for each in shelf.pair.session.enclosures] == [ID]
    await shelf.pair.nursery.start(shelf.pair.exporter.run)
    await until(lambda: shelf.pair.session.enclosures == ())
    shelf.offer()
    await shelf.known()


# --- reading ------------------------------------------------------------------------------


@pytest.mark.parametrize("bays", [1, 24, 255, 3000])
async def test_a_reading_gives_the_pages_of_the_device(tmp_path: Path, bays: int) -> None:
    async with mesh_pair(tmp_path, io_timeout_s=T) as pair:
        shelf = Shelf(pair, min(bays, 255))
        if bays > 255:
            shelf.device.bays = [Bay("x" * 255, number % 256, installed=True) for number in range(bays // 12)]
        await shelf.known()
        assert await shelf.port.read() == shelf.device.reading().content
        assert shelf.device.reads == 1
        await until(lambda: shelf.opens == 0)


async def test_each_reading_gives_what_the_device_has_then(shelf: Shelf) -> None:
    before = await shelf.port.read()
    shelf.device.bays[0] = replace(shelf.device.bays[0], fault=True)
    after = await shelf.port.read()
    assert before != after == shelf.device.reading().content


async def test_readings_end_with_the_errno_of_the_device(shelf: Shelf) -> None:
    shelf.device.hold()
    for error, number in (
        (OSError(errno.EIO, "broken"), errno.EIO),
        (OSError(errno.ENODEV, "gone"), errno.ENODEV),
        (OSError(errno.ETIMEDOUT, "late"), errno.ETIMEDOUT),
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, number, shelf.port.read)
            await until(lambda: shelf.device.held == 1)
            shelf.device.release(error)
    shelf.device.heal()
    assert await shelf.port.read() == shelf.device.reading().content


async def expect(number: int, call: Callable[[], Awaitable[object]]) -> None:
    assert await errno_of(call()) == number


async def test_a_reading_of_a_device_that_hangs_ends_at_the_bound(shelf: Shelf) -> None:
    shelf.device.hold()
    start_s = trio.current_time()
    assert await errno_of(shelf.port.read()) == errno.ETIMEDOUT
    assert trio.current_time() - start_s == pytest.approx(T, abs=0.6)
    shelf.device.heal()
    await until(lambda: shelf.opens == 0)
    assert await shelf.port.read() == shelf.device.reading().content


async def test_a_node_without_the_right_sees_no_enclosure(shelf: Shelf) -> None:
    shelf.rights["n2"] = Access.NONE
    assert await errno_of(shelf.port.read()) == errno.ENODEV
    shelf.modify(vendor="somebody else")
    await until(lambda: shelf.pair.session.enclosures == ())


async def test_the_enclosure_of_an_exporter_that_is_away_fails_as_its_disks_do(shelf: Shelf) -> None:
    await shelf.pair.exporter.stop()
    start_s = trio.current_time()
    for _ in range(10):
        assert await errno_of(shelf.port.read()) == errno.ETIMEDOUT
        assert await errno_of(shelf.port.control(shelf.page())) == errno.ETIMEDOUT
    assert trio.current_time() - start_s == pytest.approx(T, abs=0.6)
    shelf.port.check()
    await shelf.pair.nursery.start(shelf.pair.exporter.run)
    shelf.offer()
    await until(lambda: shelf.pair.session.session is not None)
    assert await shelf.port.read() == shelf.device.reading().content


async def test_a_call_goes_on_when_the_exporter_is_back(shelf: Shelf) -> None:
    await shelf.pair.exporter.stop()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shelf.port.read)
        nursery.start_soon(shelf.port.control, shelf.page())
        await until(lambda: len(shelf.pair.session.waiting) == 2)
        await shelf.pair.nursery.start(shelf.pair.exporter.run)
        shelf.offer()
    assert shelf.device.bays[1].locate


async def test_calls_of_an_enclosure_that_is_removed_fail_at_once(shelf: Shelf) -> None:
    shelf.modify(state=EnclosureState.GONE, why="unplugged")
    await until(lambda: shelf.pair.session.enclosures[0].state is EnclosureState.GONE)
    with pytest.raises(OSError, match="unplugged") as caught:
        shelf.port.check()
    assert caught.value.errno == errno.ENODEV
    shelf.withdraw()
    await until(lambda: shelf.pair.session.enclosures == ())
    start_s = trio.current_time()
    assert await errno_of(shelf.port.read()) == errno.ENODEV
    assert await errno_of(shelf.port.control(shelf.page())) == errno.ENODEV
    shelf.pair.session.remove()
    assert await errno_of(shelf.port.read()) == errno.ENODEV
    assert trio.current_time() - start_s < 0.1


# --- control pages ------------------------------------------------------------------------


async def test_a_control_page_is_carried_out_and_announced(shelf: Shelf) -> None:
    await shelf.port.control(shelf.page(2))
    assert [bay.locate for bay in shelf.device.bays] == [False, False, True, False]
    # The open that wrote has not read the device, and the exporter has read it once after the page.
    assert shelf.device.reads == 1
    await until(lambda: [slot.locate for slot in shelf.pair.session.enclosures[0].slots] == [False, False, True, False])
    await until(lambda: shelf.opens == 0)


async def test_control_pages_that_are_refused_change_nothing(shelf: Shelf) -> None:
    good = shelf.page()
    assert await errno_of(shelf.port.control(good + b"\0")) == errno.EINVAL
    assert await errno_of(shelf.port.control(good[:-4])) == errno.EINVAL
    shelf.device.generation += 1
    assert await errno_of(shelf.port.control(good)) == errno.ESTALE
    shelf.rights["n2"] = Access.READ_ONLY
    assert await errno_of(shelf.port.control(shelf.page())) == errno.EACCES
    assert shelf.device.controls == []
    assert await shelf.port.read() == shelf.device.reading().content


async def test_a_control_page_is_repeated_on_another_channel_of_its_session(tmp_path: Path) -> None:
    dial = functools.partial(connect_unix, tmp_path / "exporter.sock")
    async with mesh_pair(tmp_path, io_timeout_s=T, dialers=[dial, dial]) as pair:
        shelf = Shelf(pair)
        await shelf.known()
        await until(lambda: len(pair.session.channels) == 2)
        shelf.device.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shelf.port.control, shelf.page())
            await until(lambda: shelf.device.held == 1)
            (carrying,) = (each for each in pair.session.channels if any(slot.changes for slot in each.in_flight()))
            carrying.fail("the test ends it")
            await until(lambda: len(pair.session.channels) == 1)
            await trio.sleep(0.1)
            # The replay waits until the first one has ended, so that pages are carried out one after the other.
            assert shelf.device.held == 1
            shelf.device.heal()
        assert shelf.device.controls == [shelf.page()] * 2
        assert [bay.locate for bay in shelf.device.bays] == [False, True, False, False]


async def test_a_control_page_whose_session_is_lost_is_never_repeated(shelf: Shelf) -> None:
    """The page may have been carried out, and others may have changed the lamps since."""
    shelf.device.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect, errno.EIO, functools.partial(shelf.port.control, shelf.page()))
        await until(lambda: shelf.device.held == 1)
        await shelf.pair.exporter.stop()
        await shelf.pair.nursery.start(shelf.pair.exporter.run)
        shelf.offer()
    shelf.device.heal()
    await until(lambda: shelf.pair.session.session is not None)
    await shelf.known()
    assert len(shelf.device.controls) <= 1
    await shelf.port.control(shelf.page(locate=False))
    assert not shelf.device.bays[1].locate


@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_a_control_page_that_was_given_up_never_lands_over_a_newer_one(shelf: Shelf, how: str) -> None:
    shelf.device.hold()
    if how == "timeout":
        assert await errno_of(shelf.port.control(shelf.page())) == errno.ETIMEDOUT
    else:
        with trio.move_on_after(0.2):
            await shelf.port.control(shelf.page())
    assert shelf.device.held == 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shelf.port.control, shelf.page(locate=False))
        await trio.sleep(0.2)
        assert shelf.device.held == 1
        shelf.device.heal()
    assert shelf.device.controls == [shelf.page(), shelf.page(locate=False)]
    assert not shelf.device.bays[1].locate
    await until(lambda: shelf.opens == 0)
