"""The SES devices of a made-up machine: their ids, devices that cannot be asked, and devices that come and go."""

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from meshfs import limits
from meshfs.enclosure.found import SesFound
from meshfsd import ses_finder
from meshfsd.ses_finder import SesEnclosure, SesFinder

SHELF = 0x5000_0000_0000_0001
A = SesFound("0:0:0:0", Path("/dev/sg0"), logical_id=SHELF)
B = SesFound("1:0:0:0", Path("/dev/sg1"), logical_id=SHELF + 1)


class Machine:
    """Stands for the machine. ``logical_ids`` are what the devices answer that the ses driver does not know."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found = [A, B]
        self.logical_ids: dict[Path, int | OSError] = {}
        self.holding: threading.Event | None = None
        self.error: OSError | None = None
        self.closed: list[Path] = []
        self.finder = SesFinder("n1")
        monkeypatch.setattr(ses_finder, "find_ses_devices", self._find)
        monkeypatch.setattr(ses_finder, "SesDevice", self._device)
        monkeypatch.setattr(limits, "DISCOVERY_TIMEOUT_S", 0.3)

    def _find(self) -> list[SesFound]:
        if self.error is not None:
            raise self.error
        return list(self.found)

    def _device(self, name: str, path: Path, logical_id: int | None = None) -> Any:
        def read() -> Any:
            if self.holding is not None:
                self.holding.wait(10)
            answer = self.logical_ids[path]
            if isinstance(answer, OSError):
                raise answer
            primary = SimpleNamespace(logical_id=answer)
            return SimpleNamespace(view=SimpleNamespace(configuration=SimpleNamespace(primary=primary)))

        def close() -> None:
            self.closed.append(path)

        return SimpleNamespace(id=name, name=name, path=path, logical_id=logical_id, read=read, close=close, note="")

    async def find(self) -> list[SesEnclosure]:
        with trio.fail_after(5):
            return list(await self.finder.find())

    async def ids(self) -> list[str]:
        return [each.id for each in await self.find()]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


async def test_devices_have_the_ids_of_their_enclosures_and_stay_the_same_objects(machine: Machine) -> None:
    first = await machine.find()
    assert [each.id for each in first] == ["enc-0x5000000000000001", "enc-0x5000000000000002"]
    assert all(now is before for now, before in zip(await machine.find(), first, strict=True))
    machine.found = [B]
    assert await machine.find() == first[1:]
    machine.found = [A, B]
    assert (await machine.find())[0] is not first[0]


async def test_another_device_at_an_address_is_another_enclosure(machine: Machine) -> None:
    (first, _) = await machine.find()
    machine.found[0] = replace(A, path=Path("/dev/sg7"))
    (again, _) = await machine.find()
    assert again is not first
    assert again.id == first.id


async def test_two_devices_of_one_shelf_have_ids_of_their_own(machine: Machine) -> None:
    machine.found = [A, replace(B, logical_id=SHELF)]
    first, second = await machine.ids()
    assert first == "enc-0x5000000000000001"
    assert second.startswith(f"{first}-")


async def test_without_the_ses_driver_a_device_is_asked_once(machine: Machine) -> None:
    machine.found = [replace(A, logical_id=None)]
    machine.logical_ids[Path("/dev/sg0")] = SHELF
    assert await machine.ids() == ["enc-0x5000000000000001"]
    machine.logical_ids.clear()
    assert await machine.ids() == ["enc-0x5000000000000001"]
    assert machine.closed == [Path("/dev/sg0")]


async def test_a_device_that_fails_or_hangs_is_asked_again_and_holds_up_no_other(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = replace(A, logical_id=None)
    machine.found = [unknown, B]
    machine.logical_ids[Path("/dev/sg0")] = OSError(5, "Input/output error")
    for _ in range(2):
        assert await machine.ids() == ["enc-0x5000000000000002"]
        assert machine.finder.missed
    assert caplog.text.count("/dev/sg0 is not offered: it does not answer") == 1
    machine.logical_ids[Path("/dev/sg0")] = SHELF
    machine.holding = threading.Event()
    assert await machine.ids() == ["enc-0x5000000000000002"]
    machine.holding.set()
    await trio.sleep(0.1)
    assert sorted(await machine.ids()) == ["enc-0x5000000000000001", "enc-0x5000000000000002"]
    assert not machine.finder.missed


async def test_a_device_without_a_node_is_left_out_and_logged_once(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.found = [replace(A, path=None), B]
    for _ in range(2):
        assert await machine.ids() == ["enc-0x5000000000000002"]
    assert caplog.text.count("modprobe sg") == 1
    assert not machine.finder.missed


async def test_while_devices_cannot_be_listed_those_found_before_stay(machine: Machine) -> None:
    before = await machine.find()
    machine.error = OSError(24, "Too many open files")
    assert await machine.find() == before
    assert machine.finder.missed
    machine.error = None
    assert await machine.find() == before
    assert not machine.finder.missed
