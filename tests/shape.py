"""The shape of the code as a table: `python -m tests.shape`. It fails on no figure; who reads it judges.

`--list one-word [PACKAGE]` names each function of one word as `path:Qual.Name`. PACKAGE may be any folder, such as
`site_agent/dicom`.
"""

from __future__ import annotations

import argparse
import ast
import signal
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("messages", "nets", "site_agent", "coordinator", "deploy")
LONG = 300
"""Lines of a file; one with more is counted."""
ROOM = 16
"""Modules of a folder; one with more is named."""
NOT_COUNTED = {"__init__", "__main__"}
"""Stems that do not fill a room."""


@dataclass(frozen=True, slots=True)
class Module:
    """One parsed file: `path` from the root, with slashes; `dotted` as it is imported."""

    path: str
    dotted: str
    lines: int
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def stem(self) -> str:
        return self.path.rpartition("/")[2].removesuffix(".py")


@dataclass(frozen=True, slots=True)
class Function:
    """A function or method that counts: no dunder, property or command."""

    path: str
    qual: str

    @property
    def name(self) -> str:
        return self.qual.rpartition(".")[2]

    @property
    def place(self) -> str:
        return f"{self.path}:{self.qual}"


def parse_modules(root: Path, packages: Iterable[str] = PACKAGES) -> list[Module]:
    """Every module of the packages, in the order of paths. Raises SyntaxError: a file is not Python."""
    modules = []
    for package in packages:
        for file in sorted((root / package).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            parts = file.relative_to(root).with_suffix("").parts
            dotted = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            path = file.relative_to(root).as_posix()
            modules.append(Module(path, dotted, len(text.splitlines()), ast.parse(text, filename=path)))
    return modules


def is_one_word(name: str) -> bool:
    return "_" not in name.strip("_")


def list_functions(module: Module) -> list[Function]:
    """What counts as a function here, inner functions too."""
    return [
        Function(module.path, qual)
        for qual, node in _definitions(module.tree, "")
        if not isinstance(node, ast.ClassDef)
        and not _is_dunder(node.name)
        and not any(map(_exempts, node.decorator_list))
    ]


def list_classes(module: Module) -> list[str]:
    """Names of the public classes, those inside other classes too."""
    return [
        node.name
        for _, node in _definitions(module.tree, "")
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def _definitions(
    node: ast.AST, prefix: str
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + child.name, child
            yield from _definitions(child, f"{prefix}{child.name}.")
        else:
            yield from _definitions(child, prefix)


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _exempts(decorator: ast.expr) -> bool:
    """A property, one of its parts, a command, or the stub of an overload."""
    named = decorator.func if isinstance(decorator, ast.Call) else decorator
    last = named.attr if isinstance(named, ast.Attribute) else named.id if isinstance(named, ast.Name) else ""
    if isinstance(decorator, ast.Call):
        return isinstance(named, ast.Attribute) and last in {"command", "callback"}
    return last in {"property", "cached_property", "setter", "getter", "deleter", "overload"}


def map_names_to_files(named: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """From (name, path) pairs: in which files each name is defined."""
    files: dict[str, set[str]] = defaultdict(set)
    for name, path in named:
        files[name].add(path)
    return files


def count_rooms(modules: Iterable[Module]) -> dict[str, int]:
    """Modules of each folder."""
    rooms: dict[str, int] = defaultdict(int)
    for module in modules:
        rooms[module.room] += module.stem not in NOT_COUNTED
    return rooms


def map_imports(modules: Sequence[Module], late: bool = False) -> dict[str, set[str]]:
    """What each module imports of the others as it is loaded. `late`: in functions and under TYPE_CHECKING too."""
    known = {module.dotted for module in modules}
    return {one.dotted: set(_imported(one, one.tree.body, known, late)) - {one.dotted} for one in modules}


def _imported(module: Module, body: Iterable[ast.AST], known: set[str], late: bool) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = module.dotted.split(".")[: -node.level + (module.stem == "__init__") or None] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names = {f"{source}.{alias.name}" for alias in node.names}
            yield from names & known
            if source in known and names - known:
                yield source
        elif not late and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imported(module, node.orelse, known, late)
        elif late or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _imported(module, ast.iter_child_nodes(node), known, late)


def find_circles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that all reach one another (strongly connected components of more than one; Tarjan 1972)."""
    found: list[list[str]] = []
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    open_ones: list[str] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        open_ones.append(module)
        for other in sorted(imports.get(module, ())):
            if other not in order:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in open_ones:
                low[module] = min(low[module], order[other])
        if low[module] == order[module]:
            at = open_ones.index(module)
            if len(open_ones) - at > 1:
                found.append(sorted(open_ones[at:]))
            del open_ones[at:]

    for module in sorted(imports):
        if module not in order:
            visit(module)
    return sorted(found)


def format_row(name: str, modules: Sequence[Module]) -> str:
    """One package's figures."""
    functions = [one for module in modules for one in list_functions(module)]
    short = sum(is_one_word(one.name) for one in functions)
    classes = map_names_to_files((one, module.path) for module in modules for one in list_classes(module))
    figures = (
        len(modules),
        sum(module.lines for module in modules),
        sum(module.lines > LONG for module in modules),
        len(functions),
        short,
        f"{100 * short / len(functions):.1f} %" if functions else "-",
        sum(len(files) > 1 for files in classes.values()),
        sum(len(files) > 2 for files in classes.values()),
        sum(count > ROOM for count in count_rooms(modules).values()),
        len(find_circles(map_imports(modules))),
    )
    return f"{name:12}" + "".join(f"{figure:>11}" for figure in figures)


HEADS = (
    "modules",
    "lines",
    "over 300",
    "functions",
    "one word",
    "share",
    "class in 2",
    "class in 3",
    "rooms > 16",
    "circles",
)


def format_table(modules: Sequence[Module], packages: Iterable[str] = PACKAGES) -> str:
    """The whole print. `class in 2`: public class names in more than one module; `class in 3`: in more than two."""
    functions = map_names_to_files((one.name, module.path) for module in modules for one in list_functions(module))
    classes = map_names_to_files((one, module.path) for module in modules for one in list_classes(module))
    rooms = {room: count for room, count in count_rooms(modules).items() if count > ROOM}
    apart = {package: [one for one in modules if one.path.startswith(f"{package}/")] for package in packages}
    return "\n".join(
        [
            " " * 12 + "".join(f"{head:>11}" for head in HEADS),
            *(format_row(package, inside) for package, inside in apart.items()),
            format_row("total", modules),
            "",
            "public class names in more than two modules: "
            + _counted({k: len(v) for k, v in classes.items()}, above=2),
            f"rooms over {ROOM} modules: " + _counted(rooms),
            "circles of modules: " + _joined(find_circles(map_imports(modules))),
            "with imports in functions and for types: " + _joined(find_circles(map_imports(modules, late=True))),
            "function names in most files: " + _counted({k: len(v) for k, v in functions.items()}, above=1, most=10),
            "",
        ]
    )


def _joined(circles: Iterable[Iterable[str]]) -> str:
    return "; ".join(" <> ".join(circle) for circle in circles) or "none"


def _counted(counts: Mapping[str, int], above: int = 0, most: int | None = None) -> str:
    ranked = sorted(((-count, name) for name, count in counts.items() if count > above))[:most]
    return ", ".join(f"{name} {-count}" for count, name in ranked) or "none"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.shape", description="The shape of the code as a table.")
    parser.add_argument("--list", nargs="+", metavar=("one-word", "PACKAGE"), help="name each one instead")
    asked: list[str] | None = parser.parse_args(arguments).list
    root = Path(__file__).resolve().parents[1]
    modules = parse_modules(root)
    if asked is None:
        sys.stdout.write(format_table(modules))
        return
    folder = asked[1].strip("/") if len(asked) == 2 else ""
    inside = [one for one in modules if one.path.startswith(f"{folder}/" if folder else "")]
    if asked[0] != "one-word" or len(asked) > 2 or not inside:
        parser.error("expected: --list one-word, and a folder with modules if not all are meant")
    for module in inside:
        for function in list_functions(module):
            if is_one_word(function.name):
                sys.stdout.write(f"{function.place}\n")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a word
    main()
