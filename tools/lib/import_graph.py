"""The modules of a checkout's product, their imports, and the circles among them, for tools/house."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

#: The folders of the product, each a package by its last name.
PACKAGES: Final = ("meshfs", "daemon/meshfsd", "tools/meshctl")
#: The folders of the development kit: a package, and the folder of the scripts behind tools/demo and the like.
KIT: Final = ("tools/meshlab", "tools/lib")
#: The modules in this folder and its packages are imported by their names below it, for example `benchmark.fio`.
SCRIPTS: Final = "tools/lib"
#: In older revisions, the development kit is inside the product's package. It does not count as product.
LEFT_OUT: Final = "meshfs/testing"

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module


@dataclass
class Module:
    """Holds one source file and its syntax tree."""

    name: str
    path: Path
    text: str
    tree: ast.Module
    is_package: bool

    @property
    def lines(self) -> int:
        return self.text.count("\n")


@dataclass
class Imports:
    """Holds the imports of one module: at run time, for the type checker only, and within functions."""

    running: set[str] = field(default_factory=set)
    typing: set[str] = field(default_factory=set)
    in_functions: int = 0


def modules_of(root: Path, packages: Sequence[str] = PACKAGES) -> Iterator[Module]:
    for package in packages:
        top = root / package
        for path in sorted(top.rglob("*.py")):
            if LEFT_OUT in str(path.relative_to(root)):
                continue
            parts = (*(() if package == SCRIPTS else (top.name,)), *path.relative_to(top).with_suffix("").parts)
            is_package = parts[-1] == "__init__"
            text = path.read_text()
            name = ".".join(parts[:-1] if is_package else parts)
            yield Module(name, path.relative_to(root), text, ast.parse(text), is_package)


def imports_of(module: Module, modules: Mapping[str, Module]) -> Imports:
    found = Imports()
    _collect(module.tree, module, modules, found)
    return found


def _collect(
    node: ast.AST,
    module: Module,
    modules: Mapping[str, Module],
    found: Imports,
    *,
    is_typing: bool = False,
    in_function: bool = False,
) -> None:
    in_function = in_function or isinstance(node, Function)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            known = {name for name in _imported(child, modules) if name != module.name}
            (found.typing if is_typing else found.running).update(known)
            found.in_functions += in_function
        else:
            checked = isinstance(child, ast.If) and is_type_checking(child.test)
            _collect(child, module, modules, found, is_typing=is_typing or checked, in_function=in_function)


def _imported(node: ast.Import | ast.ImportFrom, modules: Mapping[str, Module]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in modules)
        return
    for alias in node.names:
        whole = f"{node.module}.{alias.name}"
        if whole in modules:
            yield whole
        elif node.module is not None and node.module in modules:
            yield node.module


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test).split(".")[-1] == "TYPE_CHECKING"


def circles_of(known: Mapping[str, set[str]]) -> list[set[str]]:
    """Return the sets of several nodes that reach each other, by Tarjan's algorithm (1972), without recursion."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles: list[set[str]] = []
    for start in known:
        if start in index:
            continue
        work: list[tuple[str, Iterator[str]]] = [(start, iter(known[start]))]
        index[start] = low[start] = len(index)
        stack.append(start)
        while work:
            node, rest = work[-1]
            following = next(rest, None)
            if following is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    circle = set(stack[stack.index(node) :])
                    del stack[stack.index(node) :]
                    if len(circle) > 1:
                        circles.append(circle)
            elif following not in index:
                index[following] = low[following] = len(index)
                stack.append(following)
                work.append((following, iter(known.get(following, ()))))
            elif following in stack:
                low[node] = min(low[node], index[following])
    return circles


def folder_circles(modules: Mapping[str, Module], known: Mapping[str, set[str]]) -> list[str]:
    """Return the circles among the children of each package. A child stands for all modules below it."""
    found = []
    for package in sorted(name for name, module in modules.items() if module.is_package):
        below: dict[str, set[str]] = defaultdict(set)
        for name, others in known.items():
            child = _child(package, name)
            if child is not None:
                below[child].update(one for other in others if (one := _child(package, other)) and one != child)
        found += [f"{package}: {', '.join(sorted(circle))}" for circle in circles_of(below)]
    return found


def _child(package: str, name: str) -> str | None:
    return name[len(package) + 1 :].split(".")[0] if name.startswith(f"{package}.") else None
