"""smbclient and sg_ses at the enclosures of a running meshfsd: a folder of images, and the bays of a listed disk."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshfs.limits import MIB
from meshfs.ses.build import unbundle
from meshfs.ses.configuration import ElementPlace, parse_configuration
from meshfs.ses.page import PageCode
from meshfs.ses.status import Lamps, pack_control, parse_status
from meshlab.cluster.cluster import LocalCluster, LocalFolder
from support.commands import run, until

pytestmark = pytest.mark.peers


class Stage:
    """Runs meshfsd of node n1 with the bays of one disk and a folder of one image, at which node n3 may only read."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        images = folder / "images"
        images.mkdir()
        (images / "03-a.img").write_bytes(bytes(MIB))
        node = cluster.add_node("n1", [cluster.image("disk0", MIB)])
        # The rights of single nodes are a table, which the settings of LocalFolder cannot hold.
        node.folders.append(LocalFolder("shelf", images, {"slots": 4}))
        cluster.add_node("n2")
        cluster.add_node("n3")
        cluster.write()
        text = cluster.config.read_text().replace("slots = 4", 'slots = 4\nnodes = { n3 = "ro" }')
        cluster.config.write_text(text)
        cluster.keygen()
        cluster.start_exporter("n1")

    def smbclient(self, command: str, node: str = "n2") -> str:
        owner = self.cluster.nodes["n1"]
        words = ("password", str(self.cluster.config), "--node", node, "--to", "n1")
        password = self.cluster.meshctl(*words).stdout.strip()
        line = ["smbclient", f"//{owner.address}/enclosures", "-p", str(owner.port), "-U", f"{node}%{password}"]
        return run(*line, "-c", command, status=None, timeout_s=60)

    def pages(self, name: str) -> bytes:
        output = self.smbclient(f"get {name} {self.folder}/pages")
        assert "NT_STATUS" not in output, output
        return (self.folder / "pages").read_bytes()

    def control_page(self, name: str, slot: int, lamps: Lamps) -> Path:
        pages = unbundle(self.pages(name))
        configuration = parse_configuration(pages[PageCode.CONFIGURATION])
        status = parse_status(pages[PageCode.STATUS], configuration)
        path = self.folder / "control"
        path.write_bytes(pack_control(configuration, status, {ElementPlace(0, slot - 1): lamps}))
        return path

    def sg_ses(self, name: str, *options: str) -> str:
        self.pages(name)
        return run("sg_ses", f"--inhex={self.folder}/pages", "--raw", "--raw", "--status", *options)

    def status(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.cluster.control("n1")["enclosures"]
        return found


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with LocalCluster(tmp_path / "cluster") as cluster:
        yield Stage(cluster, tmp_path)


def test_sg_ses_decodes_the_pages_of_a_folder_and_of_bays(stage: Stage) -> None:
    assert re.findall(r"(shelf|bays) +[NR]+ +\d+", stage.smbclient("ls")) == ["bays", "shelf"]
    shown = stage.sg_ses("shelf", "--page=2")
    assert len(re.findall(r"status: Not installed", shown)) == 3, shown
    texts = stage.sg_ses("shelf", "--page=7")
    assert re.findall(r"slot\d\d", texts) == ["slot01", "slot02", "slot03", "slot04"]
    assert "MESHFS" in stage.sg_ses("bays", "--page=1")
    assert [(each["name"], each["state"], each["slots"], each["disks"]) for each in stage.status()] == [
        ("bays", "ok", 1, 1),
        ("shelf", "ok", 4, 1),
    ]


def test_a_lamp_is_switched_and_lasts_over_a_restart_and_a_crash(stage: Stage) -> None:
    page = stage.control_page("shelf", 3, Lamps(locate=True, fault=True))
    assert "NT_STATUS" not in stage.smbclient(f"put {page} shelf")
    shown = stage.sg_ses("shelf", "--page=2")
    assert len(re.findall(r"Ident=1", shown)) == 1
    stage.cluster.exporters["n1"].process.kill()
    stage.cluster.exporters["n1"].process.wait()
    stage.cluster.start_exporter("n1")
    assert stage.sg_ses("shelf", "--page=2") == shown
    assert "Ident=1" not in stage.sg_ses("bays", "--page=2")


def test_a_node_with_ro_and_a_page_of_another_configuration_are_refused(stage: Stage) -> None:
    page = stage.control_page("shelf", 3, Lamps(locate=True))
    assert "NT_STATUS_ACCESS_DENIED" in stage.smbclient(f"put {page} shelf", "n3")
    assert "NT_STATUS_FILE_INVALID" in stage.smbclient(f"put {page} bays")
    page.write_bytes(page.read_bytes()[:-1])
    assert "NT_STATUS_INVALID_PARAMETER" in stage.smbclient(f"put {page} shelf")
    assert "Ident=1" not in stage.sg_ses("shelf", "--page=2")


def test_a_reload_changes_slots_and_rights_and_takes_enclosures_away(stage: Stage) -> None:
    cluster = stage.cluster
    page = stage.control_page("shelf", 3, Lamps(locate=True))
    text = cluster.config.read_text()
    cluster.config.write_text(text.replace("slots = 4", "slots = 6"))
    os.kill(cluster.exporters["n1"].pid, signal.SIGHUP)
    until(lambda: [each["slots"] for each in stage.status()] == [1, 6], "the folder has more slots", 10)
    assert "NT_STATUS_FILE_INVALID" in stage.smbclient(f"put {page} shelf")
    cluster.config.write_text(text.replace('name = "n1"', 'name = "n1"\nenclosures = "none"', 1))
    os.kill(cluster.exporters["n1"].pid, signal.SIGHUP)
    until(lambda: [each["name"] for each in stage.status()] == ["shelf"], "no bays are left", 10)
    assert "NT_STATUS_OBJECT_NAME_NOT_FOUND" in stage.smbclient(f"get bays {stage.folder}/pages")


def test_a_folder_that_is_away_is_a_problem_of_meshctl_status(stage: Stage) -> None:
    images = stage.folder / "images"
    images.rename(stage.folder / "away")
    until(lambda: [each["state"] for each in stage.status()] == ["ok", "gone"], "the folder is gone", 10)
    problems = [each for each in stage.cluster.control("n1")["problems"] if each["code"].startswith("enclosure-")]
    assert json.dumps(problems).count("No such file or directory") == 1
    assert [(each["code"], each["subject"]) for each in problems] == [("enclosure-gone", "enclosure n1/shelf")]
    (stage.folder / "away").rename(images)
    until(lambda: [each["state"] for each in stage.status()] == ["ok", "ok"], "the folder is back", 10)
