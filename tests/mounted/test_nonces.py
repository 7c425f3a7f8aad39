"""Processes that tests start record their nonces, as the test process does (tests/support/nonces.py)."""

import os
from pathlib import Path

import pytest

from meshlab.cluster.cluster import LocalCluster
from support import nonces

pytestmark = pytest.mark.mounted


def test_exporters_and_mounts_record_their_nonces(mesh: LocalCluster) -> None:
    path = mesh.mountpoint("n2") / "disk/by-node/n1/direct"
    with path.open("r+b", buffering=0) as file:
        assert file.write(b"x" * 4096) == 4096
    folder = Path(os.environ[nonces.FOLDER_VARIABLE])
    pids = {int(each.name.partition("-")[0]) for each in folder.glob("*.nonces")}
    started = {mesh.exporters["n1"].pid, mesh.mounts["n2"].pid}
    assert started <= pids
    assert nonces.repeats(folder) == []
