"""The config file of a test of meshctl."""

from pathlib import Path

import pytest

from support.meshctl_config import CONFIG


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """Write the config of n1 and n2, and make the folder of their sockets."""
    path = tmp_path / "cluster.toml"
    path.write_text(CONFIG)
    (tmp_path / "run").mkdir()
    return path
