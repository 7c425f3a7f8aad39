"""The tests that pages name, and the tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: A test as the pages name it: `tests/FOLDER/FILE.py::NAME`.
NAMED = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


def names_in(path: str) -> set[str]:
    """Return the names of the tests that pytest collects from a file: functions, and methods as Class::name."""
    names = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}::{each.name}"
                for each in node.body
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return {name for name in names if name.rpartition("::")[2].startswith("test_")}


def missing_tests(text: str) -> list[str]:
    """Return the tests that the text names and that do not exist."""
    return [
        f"{path}::{name}"
        for path, name in NAMED.findall(text)
        if not (ROOT / path).exists() or name not in names_in(path)
    ]


def items_of(text: str) -> list[str]:
    """Return the items of all lists, each as one line with the lines that continue it."""
    found = re.findall(r"^- .*?(?=^- |^#|^$|\Z)", text, re.MULTILINE | re.DOTALL)
    return [" ".join(item.split()) for item in found]


def part_of(text: str, heading: str) -> str:
    """Return the part of a page below a heading of the second level, up to the next such heading."""
    _, found, rest = text.partition(f"\n## {heading}")
    assert found, heading
    return rest.split("\n## ", 1)[0]
