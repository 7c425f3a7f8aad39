"""Which words may follow on a command line of meshctl, meshfsd and meshfs."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from meshctl.__main__ import build_parser
from meshctl.completing import mount, parsed
from meshctl.completing.candidates import Candidate, Candidates
from meshfsd.command_line import build_parser as meshfsd_parser


class Known:
    """Is a mesh of two nodes. The config `other.toml` has other nodes."""

    def disks(self) -> Sequence[Candidate]:
        return [Candidate("n1/disk0"), Candidate("wwn-0x5000", "n1/disk0"), Candidate("n2/strange name")]

    def enclosures(self) -> Sequence[Candidate]:
        return [Candidate("enc-1")]

    def slots(self) -> Sequence[Candidate]:
        return [Candidate("enc-1/03")]

    def nodes(self, config: Path | None) -> Sequence[Candidate]:
        return [Candidate("x1")] if config == Path("other.toml") else [Candidate("n1"), Candidate("n2")]

    def mount_points(self) -> Sequence[Candidate]:
        return [Candidate("/mesh")]


def words(found: Candidates) -> list[str]:
    return [each.word for each in found.words] + ([":files"] if found.files else [])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sta", ["status"]),
        ("flow", ["flows"]),
        ("flows s", ["set"]),
        ("flows ", ["set", "reset", "n1/disk0", "wwn-0x5000"]),
        ("flows set ", ["n1/disk0", "wwn-0x5000", "all"]),
        ("flows set all --flow n", ["n1", "n2"]),
        ("flows set all --limit-iops ", ["none"]),
        ("wait ", ["n1/disk0", "wwn-0x5000"]),
        ("wait n1/disk0 w", ["wwn-0x5000"]),
        ("wait /mesh/d", [":files"]),
        ("wait --timeout 5 n", ["n1/disk0"]),
        ("wait --timeout ", []),
        ("status /m", ["/mesh", ":files"]),
        ("status --js", ["--json"]),
        ("status --json --js", []),
        ("disks --node ", ["n1", "n2"]),
        ("disks --node=n", ["--node=n1", "--node=n2"]),
        ("disks --config other.toml --node ", ["x1"]),
        ("disks --config=other.toml --node ", ["x1"]),
        ("disks --config ", [":files"]),
        ("keygen ", [":files"]),
        ("keygen other.toml --node n1 --node ", ["x1"]),
        ("keygen other.toml --node n1 --no", ["--node"]),
        ("status -- --", [":files"]),
        ("nonsense ", []),
        ("-", ["--help", "--version"]),
    ],
)
def test_meshctl(line: str, expected: list[str]) -> None:
    found = words(parsed.complete(build_parser(), line.split(" "), Known()))
    assert found == expected


def test_options_follow_where_nothing_else_may() -> None:
    assert "--json" in words(parsed.complete(build_parser(), ["keygen", "c.toml", ""], Nothing()))


class Nothing(Known):
    """Is a machine without a mesh."""

    def disks(self) -> Sequence[Candidate]:
        return []

    def mount_points(self) -> Sequence[Candidate]:
        return []


def test_words_have_the_help_of_the_parser() -> None:
    (found,) = parsed.complete(build_parser(), ["keyg"], Known()).words
    assert found.help == "make the missing key pairs of nodes; never overwrite a key"
    (found,) = parsed.complete(build_parser(), ["wait", "--ti"], Known()).words
    assert found.help == "wait at most S seconds (default: 60)"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--log-level ", ["debug", "info", "warning", "error"]),
        ("--node ", ["n1", "n2"]),
        ("--co", ["--config"]),
        ("--config ", [":files"]),
    ],
)
def test_meshfsd(line: str, expected: list[str]) -> None:
    assert words(parsed.complete(meshfsd_parser(), line.split(" "), Known())) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", [":files"]),
        ("c.toml /m", [":files"]),
        ("c.toml /mesh ", ["-o"]),
        ("c.toml /mesh -o no", ["node=", "noexec", "noatime"]),
        ("c.toml /mesh -o node=", ["node=n1", "node=n2"]),
        ("other.toml /mesh -o ro,node=", ["ro,node=x1"]),
        ("c.toml /mesh -o ro,wait=", ["ro,wait=own", "ro,wait=all", "ro,wait=n1/disk0", "ro,wait=wwn-0x5000"]),
        ("c.toml /mesh -o class=", ["class=app", "class=system"]),
        ("c.toml /mesh -o io_timeout=", []),
        ("--v", ["--version"]),
    ],
)
def test_meshfs(line: str, expected: list[str]) -> None:
    assert words(mount.complete(line.split(" "), Known())) == expected
