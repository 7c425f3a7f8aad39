"""The words of the mesh that completion offers come from the mounts and the config of this machine."""

from pathlib import Path

import pytest

from meshctl.completing import mesh
from meshctl.completing.mesh import KnownHere
from meshctl.sources import NoAnswer
from meshfs.telemetry.fields import Fields
from support.meshctl_config import CONFIG

STATUS = {
    "disks": [{"id": "wwn-1", "node": "n1", "name": "disk0", "model": "M"}],
    "enclosures": [
        {"id": "enc-1", "node": "n1", "name": "bays", "product": "P", "slots": [{"name": "03", "disk": "wwn-1"}]}
    ],
    "exporters": [{"node": "n1"}, {"node": "n2"}],
}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> KnownHere:
    """Know two mounts, one of which does not answer."""

    def read(point: Path, patience_s: float) -> Fields:
        assert patience_s < 1, "a user waits"
        if point == Path("/stuck"):
            raise NoAnswer("stuck")
        return Fields(STATUS)

    monkeypatch.setattr(mesh, "mount_points", lambda: [Path("/mesh"), Path("/stuck")])
    monkeypatch.setattr(mesh, "read_mount", read)
    return KnownHere()


def test_the_words_of_a_mesh(known: KnownHere) -> None:
    assert [each.word for each in known.disks()] == ["n1/disk0", "wwn-1"]
    assert [each.word for each in known.enclosures()] == ["enc-1", "n1/bays"]
    assert [each.word for each in known.slots()] == ["enc-1/03"]
    assert [each.word for each in known.mount_points()] == ["/mesh", "/stuck"]


def test_nodes_come_from_the_config_or_else_from_the_mounts(known: KnownHere, tmp_path: Path) -> None:
    config = tmp_path / "cluster.toml"
    assert [each.word for each in known.nodes(config)] == ["n1", "n2"]
    config.write_text(CONFIG.replace('"n2"', '"n3"'))
    assert [each.word for each in known.nodes(config)] == ["n1", "n3"]
    config.write_text("broken = ")
    assert [each.word for each in known.nodes(config)] == ["n1", "n2"]
