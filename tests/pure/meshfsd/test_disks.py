"""Which disks stay when the config or the discovery changes, and which disk of two on one device is served."""

from dataclasses import replace
from pathlib import Path

from meshfs.cluster.config import Config, load
from meshfs.cluster.config_nodes import DiskConfig
from meshfs.disk.discovery.identity import Identity
from meshfs.disk.discovery.scan import DiskFacts
from meshfs.model import Access, Cache
from meshfsd.disks import _stays, without_doubles
from meshfsd.served import make_served

LISTED = DiskConfig("disk0", Path("/dev/disk/by-path/p"), Cache.NONE, Access.READ_WRITE, {})
FOUND = DiskConfig("wwn-0xa", Path("/dev/sda"), Cache.NONE, Access.READ_WRITE, {}, id="wwn-0xa")
OTHER = replace(FOUND, name="wwn-0xb", path=Path("/dev/sdb"), id="wwn-0xb")


def cluster_in(folder: Path) -> Config:
    config = '[cluster]\nname = "t"\n[[node]]\nname = "n1"\naddresses = ["10.0.0.1"]\ndisks = "discover"\n'
    (folder / "cluster.toml").write_text(config)
    return load(folder / "cluster.toml")


def facts(device: int) -> DiskFacts:
    return DiskFacts(Path("/dev/x"), True, 1, 512, 512, False, False, "", "", f"dev {device}", Identity(f"{device}"))


def test_a_discovered_disk_on_the_device_of_a_listed_disk_is_left_out() -> None:
    found = {"disk0": facts(1), "wwn-0xa": facts(1), "wwn-0xb": facts(2)}
    assert without_doubles([LISTED, FOUND, OTHER], found) == [LISTED, OTHER]
    assert without_doubles([LISTED, FOUND, OTHER], {}) == [LISTED, FOUND, OTHER]


def test_a_discovered_disk_that_becomes_listed_under_the_same_name_is_served_anew_because_its_id_differs(
    tmp_path: Path,
) -> None:
    served = make_served("n1", FOUND, cluster_in(tmp_path))
    assert _stays(served, FOUND, None)
    assert not _stays(served, replace(FOUND, id=""), None)
