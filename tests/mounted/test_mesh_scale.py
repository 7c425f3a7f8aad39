"""The largest cluster that is supported: 16 nodes of 26 disks, within its bounds of time and memory."""

from pathlib import Path

import pytest

from benchmark.scale import scale

pytestmark = pytest.mark.mounted


def test_sixteen_nodes_of_twenty_six_disks(tmp_path: Path) -> None:
    result = scale(tmp_path)
    assert result["disks"] == 416
    assert result["all_disks_shown_s"] < 5
    assert max(result["ls_lR_s"]) < 2
    assert result["mount_rss_mib"] < 200
