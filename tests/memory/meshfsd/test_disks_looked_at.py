"""When one disk comes or goes, only that disk is looked at."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshfs.cluster.config_nodes import DiskConfig
from meshfs.disk.discovery.identity import Identity
from meshfs.disk.discovery.scan import DiskFacts
from meshfs.exporter.state.exporter import Exporter
from meshfs.model import Access, Cache
from meshfs.smb.auth import Accounts
from meshfsd import disks
from meshfsd.disks import Disks


def config(number: int) -> DiskConfig:
    return DiskConfig(f"d{number}", Path(f"/dev/d{number}"), Cache.NONE, Access.READ_WRITE, {}, id=f"d{number}")


def facts(path: Path) -> DiskFacts:
    return DiskFacts(path, True, 1, 512, 512, False, False, "", "", f"dev {path}", Identity(str(path)))


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    looked_at: list[str] = []

    def scan(path: Path) -> DiskFacts:
        looked_at.append(path.name)
        return facts(path)

    monkeypatch.setattr(disks, "scan_disk", scan)
    return looked_at


def serving(count: int) -> Disks:
    nothing: Any = None
    served = Disks(Exporter("n1", Accounts({})), nothing, nothing, nothing)
    for number in range(count):
        each: Any = SimpleNamespace(
            config=config(number),
            disk=SimpleNamespace(facts=facts(config(number).path)),
            health=SimpleNamespace(served=True),
        )
        served.served[f"d{number}"] = each
    return served


async def names_of(served: Disks, wanted: Sequence[DiskConfig], again: Sequence[str] | None) -> list[str]:
    found, mistakes = await served.scan(wanted, again)
    assert not mistakes
    return sorted(found)


async def test_a_new_disk_is_looked_at_and_the_others_are_not(looked_at: list[str]) -> None:
    wanted = [config(number) for number in range(27)]
    assert await names_of(serving(26), wanted, ()) == sorted(disk.name for disk in wanted)
    assert looked_at == ["d26"]


async def test_a_disk_that_is_gone_replaced_or_configured_in_another_way_is_looked_at(looked_at: list[str]) -> None:
    served = serving(4)
    served.served["d0"].health.served = False  # type: ignore[misc]
    wanted = [config(0), config(1), replace(config(2), cache=Cache.WRITEBACK), config(3)]
    await names_of(served, wanted, ["d1"])
    assert sorted(looked_at) == ["d0", "d1", "d2"]


async def test_a_reload_looks_at_all_disks(looked_at: list[str]) -> None:
    await names_of(serving(3), [config(number) for number in range(3)], None)
    assert sorted(looked_at) == ["d0", "d1", "d2"]
