"""What README.md says of commands, times and limits, held against the program."""

import argparse
import ast
import json
import re
from pathlib import Path

import pytest

from meshctl.__main__ import build_parser, main
from meshctl.sources import CONFIG_DEFAULT
from meshfs import limits

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def verbs() -> dict[str, argparse.ArgumentParser]:
    actions = build_parser()._actions
    (found,) = (action for action in actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def test_every_verb_but_password_takes_json() -> None:
    without = {name for name, parser in verbs().items() if "--json" not in parser.format_help()}
    assert without == {"password"}


def test_every_verb_that_the_readme_shows_exists() -> None:
    shown = {match[1] for match in re.finditer(r"^ {4}meshctl (flows (?:set|reset)|\w+)", README, re.MULTILINE)}
    assert shown
    assert shown <= set(verbs())


def test_flows_reads_the_installed_config() -> None:
    assert build_parser().parse_args(["flows"]).config == CONFIG_DEFAULT == Path("/etc/meshfs/cluster.toml")


def test_keygen_tells_programs_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "cluster.toml"
    config.write_text('[cluster]\nname = "c"\n[[node]]\nname = "n1"\naddresses = ["10.0.0.1"]\n')
    for made in ("pair", "nothing"):
        assert main(["keygen", str(config), "--json"]) == 0
        (node,) = json.loads(capsys.readouterr().out)["nodes"]
        assert (node["node"], node["path"]) == ("n1", f"{tmp_path}/keys/n1.key")
        assert node["made"] == made


@pytest.mark.parametrize(
    ("row", "times_s"),
    [
        ("one I/O", [limits.IO_TIMEOUT_S, limits.IO_TIMEOUT_MIN_S]),
        ("a silent channel", [limits.CHANNEL_DEAD_AFTER_S, limits.CHANNEL_DEAD_AFTER_MIN_S]),
        ("a silent exporter", [limits.CHANNEL_PROBE_AFTER_S, limits.CHANNEL_SILENCE_MAX_S]),
        ("a lost exporter", [limits.RECONNECT_DELAY_MIN_S, limits.RECONNECT_DELAY_MAX_S]),
        ("a mount that starts", [limits.MOUNT_SETTLE_S]),
        ("a login", [limits.UNAUTHENTICATED_TIMEOUT_S]),
    ],
)
def test_the_times_of_the_readme_are_the_limits(row: str, times_s: list[float]) -> None:
    (line,) = re.findall(rf"^\| {row}[^|]*\|(.*)\|$", README, re.MULTILINE)
    numbers = [float(number) for number in re.findall(r"[\d.]*\d(?= s\b)", line)]
    assert set(times_s) <= set(numbers), line


def test_every_limit_has_a_reason() -> None:
    """A comment right above it, beside it, or above the group of lines it is in; names of units need none."""
    text = (ROOT / "meshfs/limits.py").read_text()
    lines = text.splitlines()
    found = [node for node in ast.parse(text).body if isinstance(node, ast.AnnAssign)]
    code = {number for node in found for number in range(node.lineno, (node.end_lineno or 0) + 1)}
    without = []
    for node in found:
        first = node.lineno
        while first - 1 in code:
            first -= 1
        commented = lines[first - 2].startswith("#") or "#" in lines[node.lineno - 1]
        if not commented and isinstance(node.target, ast.Name) and node.target.id not in ("KIB", "MIB", "GIB"):
            without.append(node.target.id)
    assert without == []
