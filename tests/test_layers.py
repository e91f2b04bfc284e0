"""The import rules of docs/architecture.md, read off the syntax trees."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "src" / "hairline"
# A room imports its own modules and those of rooms further right.
ROOMS = (
    "app", "labelling", "shipping", "inspection", "training", "evaluation", "tracking", "model", "data", "config",
    "system",
)  # fmt: skip
# The only places that may import a library, at whatever depth: rooms or modules.
USERS = {
    "hydra": ("app",),
    "omegaconf": ("app", "config"),
    "mlflow": ("tracking",),
    "matplotlib": ("evaluation.figures", "evaluation.galleries"),
    "ray": ("system.cluster",),
}
# The modules that import TensorFlow or Keras when they are loaded; all others import them late or not at all.
HEAVY = {
    "model.cut", "model.optimizers", "training.network_trainer", "data.pipeline",
}  # fmt: skip
# Functions whose result lasts as long as the process: state first (docs/decisions/0008), then what never changes.
CACHED = {
    "app.process.current", "tracking.run._unreachable", "system.cache.hold", "system.redaction._passwords",
    "evaluation.figures._font_characters", "evaluation.figures._character_width", "config.reference._kinds",
    "system.provenance._state",
}  # fmt: skip
MODULES = sorted(path for room in ROOMS for path in (PACKAGE / room).rglob("*.py"))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(parsed(path)))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@functools.cache
def imported(path: Path, *, top_level: bool = False) -> frozenset[str]:
    """Return the dotted names that a module imports."""
    found: set[str] = set()
    for node in parsed(path).body if top_level else nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def test_the_package_holds_the_rooms_and_nothing_else() -> None:
    assert {path.name for path in PACKAGE.iterdir()} - {"__pycache__"} == {*ROOMS, "__init__.py", "py.typed"}
    assert len(MODULES) > 80


def test_a_room_imports_its_own_and_lower_rooms() -> None:
    for path in MODULES:
        room = name_of(path).split(".")[0]
        used = {name.split(".")[1] for name in imported(path) if name.startswith("hairline.")} & set(ROOMS)
        assert used <= set(ROOMS[ROOMS.index(room) :]), path


@pytest.mark.parametrize("library", USERS)
def test_one_place_imports_a_library(library: str) -> None:
    users = {name_of(path) for path in MODULES if library in {name.split(".")[0] for name in imported(path)}}
    assert users
    assert all(user.startswith(USERS[library]) for user in users), users


def test_few_modules_load_tensorflow_or_mlflow() -> None:
    heavy = {"tensorflow", "keras", "mlflow"}
    tops = {name_of(path): {name.split(".")[0] for name in imported(path, top_level=True)} for path in MODULES}
    assert {name for name, libraries in tops.items() if libraries & heavy} <= {*HEAVY, "tracking.serving"}


# The stories read a script's whole settings; functions below them take keyword arguments.
STORIES = {
    "training.train", "training.results", "evaluation.evaluate", "evaluation.compare", "inspection.predict",
    "shipping.export", "shipping.register", "labelling.label",
}  # fmt: skip
SETTINGS = {"Config", "Evaluate", "Compare", "Predict", "Label", "Export", "Register", "Sync"}


def test_functions_below_the_stories_take_no_whole_settings() -> None:
    for path in MODULES:
        if name_of(path).startswith(("app", "config")) or name_of(path) in STORIES:
            continue
        taken = {
            name.id if isinstance(name, ast.Name) else name.attr
            for node in nodes(path)
            if isinstance(node, ast.arg) and node.annotation is not None
            for name in ast.walk(node.annotation)
            if isinstance(name, ast.Name | ast.Attribute)
        }
        assert not taken & SETTINGS, path


def test_modules_keep_no_state() -> None:
    """No function reassigns a name of its module, and no module begins with an empty collection to be filled."""
    for path in MODULES:
        assert not [node for node in nodes(path) if isinstance(node, ast.Global)], path
        for node in parsed(path).body:
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            entries = value.keys if isinstance(value, ast.Dict) else getattr(value, "elts", ["not a collection"])
            assert entries, f"{path}: {ast.unparse(node)}"


def test_few_functions_are_cached() -> None:
    cached = {
        f"{name_of(path)}.{node.name}"
        for path in MODULES
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for decorator in node.decorator_list
        if "cache" in ast.unparse(decorator) and "cached_property" not in ast.unparse(decorator)
    }
    assert cached == CACHED
