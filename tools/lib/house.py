"""tools/house prints numbers that show whether the code's structure gets better or worse.

    tools/house               the files of this checkout, committed or not
    tools/house a8db2db       the files of a git revision
    tools/house --kit [REV]   the development kit (tools/meshlab, tools/lib) instead of the product
    tools/house -v [REV]      the same, with the files, classes and functions that the numbers count
    tools/house --json [REV]  the same as one JSON object

The numbers cover the product (meshfs, meshfsd, meshctl) or, with --kit, the development kit, without tests. A module
knows another module if it imports it, even if only the type checker sees the import. A circle is a set of modules that
all know each other, directly or through others. Nobody can read, test or replace one module of a circle without the
rest. Lengths of functions and classes do not count docstrings. The numbers come from the syntax tree, so no module is
imported.
"""

import argparse
import ast
import io
import json
import re
import subprocess
import sys
import tempfile
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from import_graph import (
    KIT,
    PACKAGES,
    Documented,
    Function,
    Imports,
    Module,
    circles_of,
    folder_circles,
    imports_of,
    is_type_checking,
    modules_of,
)

ROOT: Final = Path(__file__).resolve().parents[2]
MODULE_LINES_MAX: Final = 420
#: A function of more lines than the first number is worth a look; a test refuses more than the second.
FUNCTION_LINES_MANY: Final = 40
FUNCTION_LINES_MAX: Final = 60
DOCSTRING_WORDS_MIN: Final = 4
#: A docstring that starts with one of these words is a part of a sentence, or its subject has no name.
FRAGMENT_STARTS: Final = (
    "How", "If", "It", "Its", "Nor", "Of", "That", "Them", "They", "Those", "What", "When", "Where", "Whether",
    "Which", "Who", "Whoever", "Whose", "Why",
)  # fmt: skip
#: The class that every kind of open derives from, and the folder where code may ask for a kind.
OPEN: Final = "Open"
KINDS_FOLDER: Final = "meshfs.exporter.kinds."


@dataclass(frozen=True)
class Number:
    """Holds one line of the output. `of_what` lists the counted things, if they can be listed."""

    name: str
    value: str
    of_what: tuple[str, ...] = ()


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/house", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("revision", nargs="?", help="a git revision; without one, the files of this checkout")
    parser.add_argument("--kit", action="store_true", help="measure the development kit instead of the product")
    parser.add_argument("-v", "--verbose", action="store_true", help="name what was counted")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    packages = KIT if options.kit else PACKAGES
    if options.revision is None:
        numbers = numbers_of(ROOT, packages)
    else:
        with tempfile.TemporaryDirectory(prefix="meshfs-house-") as folder:
            try:
                _unpack(options.revision, packages, Path(folder))
            except subprocess.CalledProcessError as error:
                print(f"tools/house: {error.stderr.decode().strip()}", file=sys.stderr)
                return 1
            numbers = numbers_of(Path(folder), packages)
    _print(numbers, as_json=options.json, verbose=options.verbose)
    return 0


def numbers_of(root: Path, packages: Sequence[str] = PACKAGES) -> list[Number]:
    """Measure the product, or other packages, in the checkout at `root`."""
    modules = {module.name: module for module in modules_of(root, packages)}
    imports = {name: imports_of(module, modules) for name, module in modules.items()}
    return [
        *_circle_numbers(modules, imports),
        *_type_numbers(modules),
        *_kind_numbers(modules),
        *_length_numbers(modules),
        *_word_numbers(modules),
        *_name_numbers(modules),
    ]


def _print(numbers: list[Number], *, as_json: bool, verbose: bool) -> None:
    if as_json:
        print(json.dumps({number.name: [number.value, *number.of_what] for number in numbers}, indent=1))
        return
    for number in numbers:
        print(f"{number.name:<64} {number.value:>16}")
        for thing in number.of_what if verbose else ():
            print(f"    {thing}")


def _unpack(revision: str, packages: Sequence[str], folder: Path) -> None:
    """Write the packages' files of a git revision below `folder`. The checkout does not change."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "ls-tree", "-d", "--name-only", revision, *packages], capture_output=True, check=True)
    folders = found.stdout.decode().split()
    archive = subprocess.run([*git, "archive", revision, *folders], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, capture_output=True, check=True)


def _circle_numbers(modules: Mapping[str, Module], imports: Mapping[str, Imports]) -> list[Number]:
    known = {name: one.running | one.typing for name, one in imports.items()}
    circles = circles_of(known)
    folders = folder_circles(modules, known)
    in_functions = [f"{name}: {one.in_functions}" for name, one in imports.items() if one.in_functions]
    return [
        Number("circles of modules", str(len(circles)), tuple(", ".join(sorted(circle)) for circle in circles)),
        Number("modules in a circle", str(sum(map(len, circles)))),
        Number("modules in the largest circle", str(max(map(len, circles), default=0))),
        Number("circles of folders and modules side by side", str(len(folders)), tuple(folders)),
        Number("imports within functions", str(sum(one.in_functions for one in imports.values())), tuple(in_functions)),
    ]


def _type_numbers(modules: Mapping[str, Module]) -> list[Number]:
    checking = [name for name, module in modules.items() for node in ast.walk(module.tree) if _is_checking_block(node)]
    quoted = [(f"{name}: {text}", own) for name, module in modules.items() for text, own in _quoted_types(module.tree)]
    others = [where for where, own in quoted if not own]
    return [
        Number("blocks of TYPE_CHECKING", str(len(checking)), tuple(checking)),
        Number("quoted types", str(len(quoted)), tuple(where for where, _ in quoted)),
        Number("quoted types that name another class", str(len(others)), tuple(others)),
        _text_number("annotations from __future__", modules, "from __future__ import annotations"),
        _text_number("dict[str, Any]", modules, "dict[str, Any]"),
        _text_number("type: ignore", modules, "# type: ignore"),
        _text_number("noqa", modules, "# noqa"),
        _text_number("fmt: skip", modules, "# fmt: skip"),
    ]


def _is_checking_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and is_type_checking(node.test)


def _quoted_types(node: ast.AST, inside: str = "") -> Iterator[tuple[str, bool]]:
    """Yield each annotation that is quoted, as a whole or in part, and whether it names only the enclosing class.

    A class cannot be named in its own body without quotes. Any other quoted name shows a wrong order of definitions.
    """
    for child in ast.iter_child_nodes(node):
        annotation: ast.expr | None = None
        if isinstance(child, Function):
            annotation = child.returns
        elif isinstance(child, ast.arg | ast.AnnAssign):
            annotation = child.annotation
        if annotation is not None:
            yield from ((text, bool(inside) and inside in text) for text in _strings(annotation))
        yield from _quoted_types(child, child.name if isinstance(child, ast.ClassDef) else inside)


def _strings(annotation: ast.expr) -> Iterator[str]:
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).split(".")[-1] == "Literal":
        return
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        yield annotation.value
    for child in ast.iter_child_nodes(annotation):
        if isinstance(child, ast.expr):
            yield from _strings(child)


def _text_number(what: str, modules: Mapping[str, Module], text: str) -> Number:
    counts = {name: module.text.count(text) for name, module in modules.items()}
    return Number(what, str(sum(counts.values())), tuple(f"{name}: {count}" for name, count in counts.items() if count))


def _kind_numbers(modules: Mapping[str, Module]) -> list[Number]:
    """Count the tests for the kind of an open, because each of them must be edited when a kind is added."""
    kinds = _kinds(modules)
    asked = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, module in modules.items()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance" and len(node.args) == 2
        if kinds & {one.id for one in ast.walk(node.args[1]) if isinstance(one, ast.Name)}
    ]
    outside = [one for one in asked if not one.startswith(KINDS_FOLDER)]
    return [
        Number("kinds of opens", str(len(kinds)), tuple(sorted(kinds))),
        Number("isinstance on kinds of opens", str(len(asked)), tuple(asked)),
        Number("isinstance on kinds of opens outside of kinds/", str(len(outside)), tuple(outside)),
    ]


def _kinds(modules: Mapping[str, Module]) -> set[str]:
    bases = {
        node.name: {ast.unparse(base).split("[")[0] for base in node.bases}
        for name, module in modules.items()
        if name.startswith("meshfs.exporter")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    }
    kinds: set[str] = set()
    while more := {name for name, parents in bases.items() if parents & (kinds | {OPEN})} - kinds:
        kinds |= more
    return kinds


def _length_numbers(modules: Mapping[str, Module]) -> list[Number]:
    lengths = [(module.lines, str(module.path)) for module in modules.values() if module.text]
    functions = [(_length(node), f"{name}.{node.name}") for name, node in _functions(modules)]
    classes = [(_length(node), f"{name}.{node.name}") for name, node in _classes(modules)]
    long_modules = sorted((one for one in lengths if one[0] > MODULE_LINES_MAX), reverse=True)
    many = sorted((one for one in functions if one[0] > FUNCTION_LINES_MANY), reverse=True)
    too_many = [one for one in many if one[0] > FUNCTION_LINES_MAX]
    return [
        Number("modules, lines", f"{len(lengths)}, {sum(length for length, _ in lengths)}"),
        Number("module: median, p90, max", _spread(lengths)),
        Number(f"modules over {MODULE_LINES_MAX} lines", str(len(long_modules)), _listed(long_modules)),
        Number("function: median, p90, max", _spread(functions)),
        Number(f"functions over {FUNCTION_LINES_MANY} lines", str(len(many)), _listed(many)),
        Number(f"functions over {FUNCTION_LINES_MAX} lines", str(len(too_many)), _listed(too_many)),
        Number("largest class", _spread(classes).split(", ")[-1], _listed(sorted(classes, reverse=True)[:8])),
    ]


def _functions(modules: Mapping[str, Module]) -> Iterator[tuple[str, Function]]:
    for name, module in modules.items():
        yield from ((name, node) for node in ast.walk(module.tree) if isinstance(node, Function))


def _classes(modules: Mapping[str, Module]) -> Iterator[tuple[str, ast.ClassDef]]:
    for name, module in modules.items():
        yield from ((name, node) for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef))


def _length(node: Function | ast.ClassDef) -> int:
    """Return the number of lines of a function or class, without docstrings and decorators."""
    strings = [one for one in ast.walk(node) if isinstance(one, Function | ast.ClassDef)]
    return (node.end_lineno or 0) - node.lineno + 1 - sum(_docstring_lines(one) for one in strings)


def _docstring_lines(node: Function | ast.ClassDef) -> int:
    if ast.get_docstring(node, clean=False) is None:
        return 0
    return (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


def _spread(lengths: Iterable[tuple[int, str]]) -> str:
    """Return the median, the 90th percentile and the maximum of the lengths."""
    ordered = sorted(length for length, _ in lengths) or [0]
    return f"{round(median(ordered))}, {ordered[9 * (len(ordered) - 1) // 10]}, {ordered[-1]}"


def _listed(lengths: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(f"{name}: {length}" for length, name in lengths)


def _word_numbers(modules: Mapping[str, Module]) -> list[Number]:
    docstrings = [
        (text, f"{name}: {text.splitlines()[0]}")
        for name, module in modules.items()
        for node in ast.walk(module.tree)
        if isinstance(node, Documented) and (text := ast.get_docstring(node)) is not None
    ]
    short = tuple(where for text, where in docstrings if len(text.split()) < DOCSTRING_WORDS_MIN)
    fragments = tuple(where for text, where in docstrings if is_fragment(text))
    bare = tuple(name for name, module in modules.items() if ast.get_docstring(module.tree) is None)
    bare_classes = tuple(
        f"{name}.{node.name}"
        for name, node in _classes(modules)
        if not node.name.startswith("_") and ast.get_docstring(node) is None
    )
    code, comments = _code_and_comments(modules.values())
    one_line = sum("\n" not in text for text, _ in docstrings)
    return [
        Number("comment lines per code line", f"{100 * comments / max(code, 1):.1f} %"),
        Number("docstrings, of them of one line", f"{len(docstrings)}, {one_line}"),
        Number(f"docstrings with fewer than {DOCSTRING_WORDS_MIN} words", str(len(short)), short),
        Number("docstrings that do not start with a sentence", str(len(fragments)), fragments),
        Number("modules and packages without a docstring", str(len(bare)), bare),
        Number("public classes without a docstring", str(len(bare_classes)), bare_classes),
    ]


def is_fragment(docstring: str) -> bool:
    """Return whether a docstring starts with a part of a sentence, as far as a simple rule can tell.

    Its first paragraph must end like a sentence, or with a colon before a list. Its first word must not be one of
    FRAGMENT_STARTS, unless a comma shows that a condition stands before the rest of the sentence.
    """
    first = " ".join(docstring.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.:?])\s", first)[0]
    word = re.match(r"\w*", first)
    starts_badly = word is not None and word[0] in FRAGMENT_STARTS
    if starts_badly and word is not None and word[0] in ("If", "When", "Where"):
        starts_badly = "," not in sentence
    return starts_badly or not first.endswith((".", ":", "?"))


def _code_and_comments(modules: Iterable[Module]) -> tuple[int, int]:
    """Count lines of code, and lines with only a comment. Docstrings and empty lines are neither."""
    code = comments = 0
    layout = (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for module in modules:
        coded, commented = set[int](), set[int]()
        for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
            if token.type == tokenize.COMMENT:
                commented.add(token.start[0])
            elif token.type not in layout:
                coded.update(range(token.start[0], token.end[0] + 1))
        coded -= set(_documented_lines(module.tree))
        code += len(coded)
        comments += len(commented - coded)
    return code, comments


def _documented_lines(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, Documented) and ast.get_docstring(node):
            yield from range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)


def _name_numbers(modules: Mapping[str, Module]) -> list[Number]:
    """Count the class names that occur in several modules, because a reader must find out which class is meant."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, node in _classes(modules):
        if not node.name.startswith("_"):
            places[node.name].append(name)
    twice = {name: where for name, where in places.items() if len(where) > 1}
    return [
        Number(
            "class names used twice or more", str(len(twice)), tuple(f"{k}: {', '.join(v)}" for k, v in twice.items())
        )
    ]


if __name__ == "__main__":
    sys.exit(main())
