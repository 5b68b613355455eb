"""What CONTRIBUTING.md says of the code: its map names every folder, and arrows between rooms go down only."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "omnicap_cli"
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
FOLDERS = [path.parent for path in MODULES.values() if path.name == "__init__.py" and path.parent != PACKAGE]
# the rooms of the package from the top down; those of one line don't know each other
ROWS = (
    {"__main__"},
    {"app"},
    {"commands"},
    {"jobs"},
    {"terminal"},
    {"evaluation", "cluster"},
    {"training", "datasets", "exports", "engines"},
    {"media"},
    {"core"},
    {"errors", "__init__"},
)
HEIGHT = {room: -number for number, row in enumerate(ROWS) for room in row}


def name_in_map(folder: Path) -> str:
    return f"{folder.relative_to(ROOT)}/"


def room_of(module: str) -> str:
    """The part of the package that a module belongs to."""
    return ([*module.split("."), "__init__"])[1]


@cache
def imports(*, in_other_processes: bool = True) -> dict[str, set[str]]:
    """Which modules of the package each of them imports, wherever in it; or starts as the target of a process."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{module}: relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name in MODULES else str(node.module) for name in names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif in_other_processes and isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = [node.value.partition(":")[0]] if re.fullmatch(r"omnicap_cli[\w.]*(:\w+)?", node.value) else []
            found[module] |= {name for name in names if name.partition(".")[0] == "omnicap_cli"}
    return found


def test_the_map_names_every_folder_and_no_other():
    named = re.findall(r"^\| `(omnicap_cli/[\w/]*)` \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(map(name_in_map, FOLDERS))


@pytest.mark.parametrize("folder", FOLDERS, ids=name_in_map)
def test_each_folder_says_what_lives_there_and_what_it_may_import(folder):
    """And imports nothing else, but for what is inside itself, and errors."""
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""
    what, _, may = said.partition("\n\n")
    assert 1 <= len(re.findall(r"\.(?=\s|$)", what)) <= 2
    assert may.startswith("May import ")
    own = ".".join(folder.relative_to(ROOT).parts)
    allowed = {f"omnicap_cli.{name}" for name in re.findall(r"`([\w.]+)`", may)} | {own, "omnicap_cli.errors"}
    inside = {module for module in MODULES if (PACKAGE / Path(*module.split(".")[1:])).is_relative_to(folder)}
    deeper = [f".{name}" for name in sorted({each.name for each in folder.iterdir() if each in FOLDERS})]
    wrong = [
        f"{module} imports {other}"
        for module in sorted(inside)
        if not any(module.startswith(own + name + ".") for name in deeper)  # they say so themselves
        for other in sorted(imports()[module])
        if other != "omnicap_cli" and not any(other == each or other.startswith(each + ".") for each in allowed)
    ]
    assert not wrong


def test_arrows_between_rooms_go_down():
    upward = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in sorted(others)
        if room_of(module) != room_of(other) and HEIGHT[room_of(module)] <= HEIGHT[room_of(other)]
    ]
    assert not upward


def test_no_module_waits_for_itself():
    """Neither modules nor the rooms of core import each other in a circle."""
    rooms: dict[str, set[str]] = defaultdict(set)
    for module, others in imports().items():
        parts = module.split(".")
        for other in others:
            if parts[1:2] == ["core"] == other.split(".")[1:2] and len(parts) > 3:
                rooms[parts[2]] |= {other.split(".")[2]} - {parts[2]}
    assert not circle_in(rooms)
    assert not circle_in(imports(in_other_processes=False))


def circle_in(arrows: dict[str, set[str]]) -> list[str]:
    """One circle, if there is any."""
    done: set[str] = set()

    def walk(place: str, way: list[str]) -> list[str]:
        if place in way:
            return way[way.index(place) :]
        if place in done:
            return []
        for other in sorted(arrows.get(place, ())):
            if found := walk(other, [*way, place]):
                return found
        done.add(place)
        return []

    return next(filter(None, (walk(place, []) for place in sorted(arrows))), [])


def test_the_top_of_the_package_is_small():
    entries = [path for path in PACKAGE.iterdir() if path.is_file() or path in FOLDERS]
    assert len(entries) <= 17
    assert {path.stem for path in entries if path.is_file()} == {"__init__", "__main__", "app", "errors"}


def test_tests_mirror_the_package():
    """Each folder of tests has the name of a folder of the package, and flat on top are only tests of documents."""
    documents = {"readme", "contributing", *(path.stem.replace("-", "_") for path in (ROOT / "docs").glob("*.md"))}
    flat = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert flat <= documents
    others = {"support", "examples", "gpu", "compatibility"}
    for name in sorted({path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("*.py")}):
        assert not name.parts or name.parts[0] in others or PACKAGE / name in FOLDERS, f"tests/{name} mirrors nothing"


def test_no_file_of_tests_is_long():
    """They are cut by subject, so that one reads from top to bottom, and processes share them evenly."""
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in (ROOT / "tests").rglob("*.py")}
    assert not {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > 500}
