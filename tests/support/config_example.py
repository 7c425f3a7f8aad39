"""The config of an example with two nodes, and its loading."""

from pathlib import Path

from meshfs.cluster import config

EXAMPLE = """\
[cluster]
name = "demo"
keys = "keys"
security = "sign"
io_timeout_s = 30

[[node]]
name = "n1"
addresses = ["10.0.1.1", "10.0.2.1"]
port = 4450
socket = "run/n1.sock"
weight = 1

  [[node.disk]]
  name = "disk0"
  path = "disks/n1-disk0.img"
  cache = "none"
  access = "rw"

  [[node.disk]]
  name = "disk1"
  path = "/dev/sdb"
  cache = "writeback"
  nodes = { n2 = "ro" }

[[node]]
name = "n2"
addresses = ["10.0.1.2"]
"""


def load(folder: Path, text: str) -> config.Config:
    path = folder / "cluster.toml"
    path.write_text(text)
    return config.load(path)
