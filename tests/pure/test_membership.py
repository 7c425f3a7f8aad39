"""The membership a config file gives."""

from pathlib import Path

from meshfs.cluster import config
from meshfs.cluster.membership.base import Membership
from meshfs.cluster.membership.static import StaticMembership


async def test_static(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text('[cluster]\nname = "c"\n[[node]]\nname = "n"\naddresses = ["::1"]\n')
    membership: Membership = StaticMembership(config.load(path))
    assert [node.name for node in membership.nodes] == ["n"]
    assert [nodes async for nodes in membership.changes()] == []
