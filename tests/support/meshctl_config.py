"""The cluster that tests of meshctl ask about: n1 owns disk0, n2 has none."""

CONFIG = """\
[cluster]
name = "demo"
[[node]]
name = "n1"
addresses = ["10.0.1.1"]
[[node.disk]]
name = "disk0"
path = "disk0.img"
[[node]]
name = "n2"
addresses = ["10.0.1.2"]
"""
