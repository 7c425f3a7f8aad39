"""The cluster that tests of meshctl ask about, and the call of meshctl. n1 owns disk0, and n2 owns no disk."""

import pytest

from meshctl.__main__ import main

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


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Return the exit status, the standard output and the standard error of `meshctl ARGUMENTS`."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err
