"""The pages' statements about commands, times and limits are compared with the program."""

import argparse
import ast
import json
import re
from pathlib import Path

import pytest

from meshctl.__main__ import build_parser, main
from meshctl.sources import CONFIG_DEFAULT
from meshfs import limits
from support.named_tests import NAMED, ROOT, items_of, missing_tests, part_of

README = (ROOT / "README.md").read_text()
MESHCTL = (ROOT / "docs/admin/meshctl.md").read_text()
PROMISES = (ROOT / "docs/promises.md").read_text()
DURABILITY = (ROOT / "docs/admin/durability.md").read_text()
#: Readers read README to its end only as long as it is short.
README_LINES_MAX = 150
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def verbs() -> dict[str, argparse.ArgumentParser]:
    actions = build_parser()._actions
    (found,) = (action for action in actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def test_every_verb_but_password_and_complete_takes_json() -> None:
    without = {name for name, parser in verbs().items() if "--json" not in parser.format_help()}
    assert without == {"password", "complete"}


def shown_by(page: str) -> set[str]:
    """Return the verbs of meshctl that a page shows at the beginning of a line."""
    return {match[1] for match in re.finditer(r"^ {4}meshctl (flows (?:set|reset)|\w+)", page, re.MULTILINE)}


def test_every_verb_that_the_readme_shows_exists() -> None:
    shown = shown_by(README)
    assert shown
    assert shown <= set(verbs())


def test_the_page_of_meshctl_shows_every_verb() -> None:
    assert shown_by(MESHCTL) == set(verbs())


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= README_LINES_MAX


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Links to files of the repository are checked, without the part behind # and without addresses of the web."""
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(
        r"(?<![\w./*-])((?:meshfs|daemon|tools|tests)/[\w./@-]*\.(?:py|md|sh|service|toml))\b", page.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


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
        ("a call of a disk that hangs", [limits.PROBE_PATIENCE_S]),
        ("stat of a disk", [limits.ASK_DISK_TIMEOUT_S]),
        ("a mount with `wait=`", [limits.MOUNT_WAIT_S, limits.MOUNT_SETTLE_S]),
        ("a mount asked to end", [limits.UNMOUNT_BUSY_S]),
        ("umount", [limits.UMOUNT_FLUSH_TIMEOUT_S]),
        ("a stopping exporter", [limits.DRAIN_TIMEOUT_S]),
    ],
)
def test_the_times_of_the_promises_are_the_limits(row: str, times_s: list[float]) -> None:
    (line,) = re.findall(rf"^\| {row}[^|]*\|(.*)\|$", PROMISES, re.MULTILINE)
    numbers = [float(number) for number in re.findall(r"[\d.]*\d(?= s\b)", line)]
    assert set(times_s) <= set(numbers), line


def quotations(page: str) -> list[str]:
    """Return the words that "Claims of other pages" quotes from a page, one per row of the page's table."""
    table = part_of(PROMISES, "Claims of other pages").partition(f"| [{page}]")[2].split("\n\n", 1)[0]
    rows = [line.removeprefix("| ").rsplit(" | ", 1) for line in table.splitlines()[2:]]
    assert [row for row in rows if not NAMED.search(row[-1])] == []
    return [words for words, _ in rows]


def parts_of(page: str) -> list[str]:
    """Return the paragraphs, list items and rows of tables of a page, each as one line. Headings have no claim."""
    blocks = [block for block in page.split("\n\n") if not block.lstrip().startswith(("#", "|", "-"))]
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    return [" ".join(block.split()) for block in blocks] + rows + items_of(page)


def test_every_test_that_keeps_a_promise_exists() -> None:
    assert missing_tests(PROMISES) == []


def test_every_promise_names_a_test() -> None:
    parts = [part_of(PROMISES, heading) for heading in ("Waiting", "Paths", "Data", "Fairness")]
    promises = [item for part in parts for item in items_of(part)]
    assert len(promises) > 15
    assert [item for item in promises if not NAMED.search(item)] == []


@pytest.mark.parametrize("page", ["README.md", "admin/durability.md"])
def test_the_pages_still_have_the_words_that_are_quoted(page: str) -> None:
    text = " ".join((README if page == "README.md" else DURABILITY).split())
    quoted = quotations(page)
    assert quoted
    assert [words for words in quoted if words not in text] == []


def test_every_promise_of_the_readme_is_quoted() -> None:
    quoted, promises = quotations("README.md"), items_of(part_of(README, "What it promises"))
    assert promises
    assert [item for item in promises if not any(words in item for words in quoted)] == []


def test_every_part_of_the_page_of_durability_is_quoted() -> None:
    quoted = quotations("admin/durability.md")
    parts = [part for part in parts_of(DURABILITY) if not part.startswith("| Call |")]
    assert len(parts) > 10
    assert [part for part in parts if not any(words in part for words in quoted)] == []


def test_every_limit_has_a_reason() -> None:
    """The reason is a comment right above the limit, beside it, or above its group of lines. Units need none."""
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
