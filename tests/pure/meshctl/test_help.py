"""Manual pages and completion are made from the help, so every verb and every argument needs one."""

import ast
import re

import pytest

from meshctl.__main__ import build_parser
from meshctl.arguments import arguments_of, positionals_of, text_of, verbs_of
from meshctl.complete import words_after
from meshctl.installing.manual import pages
from meshfs.mount import options, usage
from meshfsd.command_line import build_parser as meshfsd_parser
from support.named_tests import ROOT

MESHCTL = build_parser()
PARSERS = {"meshctl": MESHCTL, "meshfsd": meshfsd_parser()} | {
    f"meshctl {name}": verb.parser for name, verb in verbs_of(MESHCTL).items()
}
SOURCE = (ROOT / "meshfs/mount/options.py").read_text()
PAGES = pages(MESHCTL, meshfsd_parser(), (ROOT / "docs/admin/config.md").read_text())


@pytest.mark.parametrize("name", PARSERS)
def test_every_argument_has_a_help(name: str) -> None:
    parser = PARSERS[name]
    assert [action.dest for action in arguments_of(parser) if not text_of(parser, action)] == []


@pytest.mark.parametrize("name", verbs_of(MESHCTL))
def test_every_verb_has_a_help_of_one_line(name: str) -> None:
    text = verbs_of(MESHCTL)[name].help
    assert text
    assert "\n" not in text
    assert text[0].islower(), "the manual page makes a sentence of it"
    assert not text.endswith(".")


@pytest.mark.parametrize("name", verbs_of(MESHCTL))
def test_the_page_of_meshctl_has_every_verb_with_all_its_arguments(name: str) -> None:
    page = plain(PAGES["man8/meshctl.8"])
    part = page.partition(f'.SS "meshctl {name}"')[2].partition("\n.SS ")[0]
    parser = verbs_of(MESHCTL)[name].parser
    for action in arguments_of(parser):
        text = text_of(parser, action)
        assert text in part or "--help" in action.option_strings, text


def test_the_page_of_the_mount_has_every_option() -> None:
    page = plain(PAGES["man8/meshfs.8"])
    assert [each.name for each in usage.OPTIONS if each.help not in page] == []


def test_every_option_of_the_mount_is_described() -> None:
    """What the help, the page and the completion name is what the mount takes, and nothing is missing."""
    compared = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Compare)]
    taken = {
        constant.value
        for compare in compared
        if isinstance(compare.left, ast.Name) and compare.left.id in ("name", "option")
        for constant in ast.walk(compare)
        if isinstance(constant, ast.Constant)
    }
    assert {each.name for each in usage.OPTIONS} == taken
    for each in usage.OPTIONS:
        value = {"class": "app", "cache": "page", "metrics": "127.0.0.1:1", "io_timeout": "9", "wait_timeout": "9"}
        text = f"{each.name}={value.get(each.name, 'x')}" if each.value else each.name
        options.parse_arguments("meshfs", ["c", "/m", "-o", text])
    options.parse_arguments("meshfs", ["c", "/m", "-o", ",".join(usage.COMMON_OPTIONS)])


def test_the_page_of_the_config_has_every_heading_and_every_line_of_code() -> None:
    page = plain(PAGES["man5/cluster.toml.5"])
    source = (ROOT / "docs/admin/config.md").read_text()
    for heading in re.findall(r"^## (.+)$", source, re.MULTILINE):
        assert f'.SH "{heading.upper()}"' in page
    for line in re.findall(r"^ *[a-z_]+ = .*$", source, re.MULTILINE):
        assert line.strip() in page


def plain(page: str) -> str:
    """Return the page without the escapes of single letters."""
    return page.replace("\\-", "-").replace("\\&", "").replace("\\e", "\\").replace("\\fB", "").replace("\\fR", "")


def test_every_verb_is_completed() -> None:
    for name in verbs_of(MESHCTL):
        *before, last = name.split()
        assert last in [each.word for each in words_after(MESHCTL, "meshctl", [*before, last[:2]]).words]
        parser = verbs_of(MESHCTL)[name].parser
        if name != "complete":
            offered = [each.word for each in words_after(MESHCTL, "meshctl", [*name.split(), "--"]).words]
            options_ = {max(a.option_strings, key=len) for a in arguments_of(parser) if a not in positionals_of(parser)}
            assert options_ == set(offered)
