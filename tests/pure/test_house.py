"""This checkout keeps the rules that tools/house measures, and tools/house counts what it claims to count.

Each rule is also applied to a small product that breaks it, because a rule that finds nothing there proves nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from house import ROOT, Number, is_fragment, numbers_of
from import_graph import circles_of


@dataclass(frozen=True)
class Rule:
    """Says that a number of tools/house is 0.

    broken    the files of a product that breaks the rule, and `found` what tools/house names there
    allowed   the modules or files that may break the rule, each with the reason
    """

    broken: dict[str, str]
    found: tuple[str, ...]
    allowed: dict[str, str] = field(default_factory=dict)


CHECKED = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from meshfs import b\n"
LONG_FUNCTION = "def long() -> None:\n" + "    print()\n" * 60
RULES = {
    "circles of modules": Rule({"a": "from meshfs import b\n", "b": "from meshfs import a\n"}, ("meshfs.a, meshfs.b",)),
    "circles of folders and modules side by side": Rule(
        {"low__x": "from meshfs.high import y\n", "high__y": "", "high__z": "from meshfs.low import x\n"},
        ("meshfs: high, low",),
    ),
    "imports within functions": Rule(
        {"a": "def f(late: bool) -> None:\n    if late:\n        import json\n"},
        ("meshfs.a: 1",),
        {
            "meshfs.mount.process": "a process without metrics does not load the Prometheus library",
            "meshfsd.node": "a process without metrics does not load the Prometheus library",
        },
    ),
    "blocks of TYPE_CHECKING": Rule({"a": CHECKED, "b": ""}, ("meshfs.a",)),
    "quoted types that name another class": Rule(
        {"a": "class One:\n    two: 'Two'\nclass Two: ...\n"}, ("meshfs.a: Two",)
    ),
    "annotations from __future__": Rule({"a": "from __future__ import annotations\n"}, ("meshfs.a: 1",)),
    "isinstance on kinds of opens outside of kinds/": Rule(
        {
            "exporter__kinds__k": "class Open: ...\nclass Pipe(Open): ...\n",
            "exporter__commands__c": "def f(x: object) -> bool:\n    return isinstance(x, Pipe)\n",
        },
        ("meshfs.exporter.commands.c:2 isinstance(x, Pipe)",),
    ),
    "modules over 420 lines": Rule(
        {"a": "\n" * 421}, ("meshfs/a.py: 421",), {"meshfs/limits.py": "every limit is in one file, with its reason"}
    ),
    "functions over 60 lines": Rule({"a": LONG_FUNCTION}, ("meshfs.a.long: 61",)),
    "modules and packages without a docstring": Rule({"a": "x = 1\n"}, ("meshfs.a",)),
    "public classes without a docstring": Rule({"a": "class One: ...\nclass _Two: ...\n"}, ("meshfs.a.One",)),
    "dict[str, Any]": Rule({"a": "def f(x: dict[str, Any]) -> None: ...\n"}, ("meshfs.a: 1",)),
    "docstrings that do not start with a sentence": Rule(
        {"a": '"""Whether one is there."""\n'}, ("meshfs.a: Whether one is there.",)
    ),
    "class names used twice or more": Rule(
        {"a": "class Same: ...\n", "b": "class Same: ...\n"}, ("Same: meshfs.a, meshfs.b",)
    ),
}


@pytest.fixture(scope="module")
def numbers_here() -> dict[str, Number]:
    return measured(ROOT)


@pytest.mark.parametrize("name", RULES)
def test_this_checkout_keeps_the_rule(name: str, numbers_here: dict[str, Number]) -> None:
    allowed = RULES[name].allowed
    broken = {thing.rsplit(": ", 1)[0]: thing for thing in numbers_here[name].of_what}
    assert [thing for where, thing in broken.items() if where not in allowed] == []
    assert set(allowed) <= set(broken), "an exception that nothing needs any more must go"


@pytest.mark.parametrize("name", RULES)
def test_the_rule_is_seen_where_it_is_broken(name: str, tmp_path: Path) -> None:
    write_product(tmp_path, **RULES[name].broken)
    assert measured(tmp_path)[name].of_what == RULES[name].found


def write_product(root: Path, **files: str) -> None:
    """Write files below meshfs; `a__b` is the module b in the folder a."""
    for folder in ("meshfs", "daemon/meshfsd", "tools/meshctl"):
        (root / folder).mkdir(parents=True)
        (root / folder / "__init__.py").write_text('"""A package of the product."""\n')
    for name, text in files.items():
        path = root / "meshfs" / f"{name.replace('__', '/')}.py"
        for folder in path.relative_to(root / "meshfs").parents:
            (root / "meshfs" / folder).mkdir(parents=True, exist_ok=True)
            (root / "meshfs" / folder / "__init__.py").touch()
        path.write_text(text)


def measured(root: Path) -> dict[str, Number]:
    return {number.name: number for number in numbers_of(root)}


def test_a_circle_through_the_type_checker_alone_is_a_circle(tmp_path: Path) -> None:
    checked = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from meshfs.b import two\n"
    write_product(
        tmp_path,
        a=f"{checked}def one(x: 'int') -> 'two': ...\n",
        b="from meshfs import a\ntwo = a\n",
        c="import meshfs.a\n",
    )
    numbers = measured(tmp_path)
    assert numbers["circles of modules"].of_what == ("meshfs.a, meshfs.b",)
    assert numbers["modules in a circle"].value == "2"
    assert numbers["blocks of TYPE_CHECKING"].of_what == ("meshfs.a",)
    assert numbers["quoted types"].value == "2"


def test_a_quoted_type_that_names_the_class_it_stands_in_is_told_from_others(tmp_path: Path) -> None:
    own = "class One:\n    def same(self) -> 'One': ...\n    def other(self, x: 'list[Two]') -> None: ...\n"
    write_product(tmp_path, a=f"{own}class Two: ...\n")
    numbers = measured(tmp_path)
    assert numbers["quoted types"].value == "2"
    assert numbers["quoted types that name another class"].of_what == ("meshfs.a: list[Two]",)


def test_folders_that_import_each_other_are_a_circle_also_where_no_modules_are_one(tmp_path: Path) -> None:
    write_product(
        tmp_path, low__x="from meshfs.high import y\n", low__z="", high__y="", high__w="from meshfs.low import z\n"
    )
    numbers = measured(tmp_path)
    assert numbers["circles of modules"].value == "0"
    assert numbers["circles of folders and modules side by side"].of_what == ("meshfs: high, low",)


def test_questions_for_the_kind_of_an_open_count_in_both_places(tmp_path: Path) -> None:
    classes = "class Open: ...\nclass Disk(Open): ...\nclass Fast(Disk): ...\n"
    kinds = f"{classes}def f(x: Open) -> bool:\n    return isinstance(x, Fast)\n"
    asks = "def g(x: object) -> bool:\n    return isinstance(x, Disk | str) or isinstance(x, int)\n"
    write_product(tmp_path, exporter__kinds__k=kinds, exporter__commands__c=asks)
    numbers = measured(tmp_path)
    assert numbers["kinds of opens"].of_what == ("Disk", "Fast")
    assert numbers["isinstance on kinds of opens"].value == "2"
    assert numbers["isinstance on kinds of opens outside of kinds/"].value == "1"


def test_lengths_leave_docstrings_out_and_comments_do_not_count_as_code(tmp_path: Path) -> None:
    text = '"""Two\nlines."""\n# A comment.\ndef f() -> int:\n    """Says\n    why."""\n    return 1  # One.\n'
    write_product(tmp_path, a=text, b="class Same: ...\n", c="class Same: ...\n")
    numbers = measured(tmp_path)
    assert numbers["function: median, p90, max"].value.endswith("2")
    assert numbers["comment lines per code line"].value == "25.0 %"
    assert numbers["class names used twice or more"].of_what == ("Same: meshfs.b, meshfs.c",)


@pytest.mark.parametrize(
    ("known", "circles"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}, [{"a", "b", "c"}]),
        ({"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"c"}}, [{"c", "d"}, {"a", "b"}]),
        ({"a": {"a"}}, []),
    ],
)
def test_circles_are_the_sets_that_reach_each_other(known: dict[str, set[str]], circles: list[set[str]]) -> None:
    assert circles_of(known) == circles


@pytest.mark.parametrize(
    ("docstring", "fragment"),
    [
        ("Return the size.", False),
        ("The number of bytes.\n\nmore of it", False),
        ("A request has one of these states:\n\n    a    b", False),
        ("When the channel is lost, send the request again.", False),
        ("When the channel was lost.", True),
        ("Whether the disk is here.", True),
        ("Who waits for the reply.", True),
        ("It is called once.", True),
        ("Sends a frame", True),
        ("", True),
    ],
)
def test_a_docstring_that_does_not_start_with_a_sentence_is_a_fragment(docstring: str, fragment: bool) -> None:
    assert is_fragment(docstring) is fragment
