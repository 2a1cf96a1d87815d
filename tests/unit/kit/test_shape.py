"""The table of the code's shape, on small trees."""

from __future__ import annotations

from pathlib import Path

import pytest
import shape


def tree(root: Path, files: dict[str, str]) -> list[shape.Module]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return shape.parse_modules(root, sorted({name.split("/")[0] for name in files}))


def test_methods_and_inner_functions_count_and_dunders_properties_and_commands_do_not(tmp_path: Path) -> None:
    text = """
class Store:
    def __init__(self): ...
    def read(self):
        def inner(): ...
    async def _write_all(self): ...
    @property
    def size(self): ...
    @size.setter
    def size(self, value): ...
    @functools.cached_property
    def digest(self): ...
    @functools.cache
    def kept(self): ...
@app.command("list")
def listed(): ...
@app.callback()
def start(): ...
if True:
    def later(): ...
"""
    (module,) = tree(tmp_path, {"one/store.py": text})
    places = [function.place for function in shape.list_functions(module)]
    assert places == [
        "one/store.py:Store.read",
        "one/store.py:Store.read.inner",
        "one/store.py:Store._write_all",
        "one/store.py:Store.kept",
        "one/store.py:later",
    ]


@pytest.mark.parametrize(
    ("name", "one"), [("read", True), ("_read", True), ("read_", True), ("read_all", False), ("_read_all", False)]
)
def test_a_name_is_one_word_without_an_underscore_inside(name: str, one: bool) -> None:
    assert shape.is_one_word(name) is one


def test_a_circle_is_found_through_any_way_to_write_an_import(tmp_path: Path) -> None:
    modules = tree(
        tmp_path,
        {
            "one/__init__.py": "",
            "one/a.py": "from one import b\nimport os",
            "one/b.py": "import one.room.c",
            "one/room/__init__.py": "from . import c",
            "one/room/c.py": "from ..a import thing",
            "one/room/d.py": "from .c import other",
        },
    )
    assert shape.map_imports(modules)["one.room"] == {"one.room.c"}
    assert shape.map_imports(modules)["one.room.d"] == {"one.room.c"}
    assert shape.find_circles(shape.map_imports(modules)) == [["one.a", "one.b", "one.room.c"]]


def test_imports_in_functions_and_for_types_make_no_circle_unless_asked_for(tmp_path: Path) -> None:
    late = "if TYPE_CHECKING:\n    from one.a import x\nelse:\n    from one.c import y\n"
    files = {"one/a.py": "def f():\n    import one.b\nfrom one.b import z", "one/b.py": late, "one/c.py": ""}
    imports = shape.map_imports(tree(tmp_path, files))
    assert imports == {"one.a": {"one.b"}, "one.b": {"one.c"}, "one.c": set()}
    assert shape.find_circles(imports) == []
    assert shape.find_circles(shape.map_imports(tree(tmp_path, files), late=True)) == [["one.a", "one.b"]]


def test_the_table_counts_each_package_and_names_what_is_too_much(tmp_path: Path) -> None:
    files = {f"one/m{number}.py": "class Same: ...\ndef read(): ...\n" for number in range(17)}
    files |= {
        "one/__init__.py": "",
        "two/long.py": "class Same: ...\nclass _Own: ...\n" + "x = 1\n" * 299 + "def read_it(): ...\n",
    }
    text = shape.format_table(tree(tmp_path, files), ["one", "two"])
    rows = {line.split()[0]: line.split() for line in text.splitlines()[1:4]}
    assert rows["one"] == ["one", "18", "34", "0", "17", "17", "100.0", "%", "1", "1", "1", "0"]
    assert rows["two"] == ["two", "1", "302", "1", "1", "0", "0.0", "%", "0", "0", "0", "0"]
    assert rows["total"] == ["total", "19", "336", "1", "18", "17", "94.4", "%", "1", "1", "1", "0"]
    assert "public class names in more than two modules: Same 18\n" in text
    assert "rooms over 16 modules: one 17\n" in text
    assert "function names in most files: read 17\n" in text


def test_an_empty_package_has_no_share(tmp_path: Path) -> None:
    assert shape.format_row("one", tree(tmp_path, {"one/__init__.py": ""})).split()[5:7] == ["0", "-"]


def test_the_list_names_each_function_of_one_word_in_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    shape.main(["--list", "one-word", "nets/"])
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(
        line.startswith("nets/") and shape.is_one_word(line.rpartition(".")[2].rpartition(":")[2]) for line in lines
    )


@pytest.mark.parametrize("asked", [["two-words"], ["one-word", "nowhere"], ["one-word", "nets", "deploy"]])
def test_what_cannot_be_listed_is_told(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        shape.main(["--list", *asked])
    assert "expected: --list one-word" in capsys.readouterr().err
