"""Arrows point downward: recipes -> probes, planning, datasets -> jepa; never sideways or up."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("probes", "planning", "datasets")
ALLOWED = {"jepa": set(), "recipes": set(ROOMS)} | {room: set() for room in ROOMS}


def rooms_imported(path: Path) -> set[str]:
    """Rooms that a file imports, by any spelling."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
            if node.level >= 2:
                names = [f"jepa.{name}" for name in names]
        for name in names:
            parts = name.split(".")
            if parts[0] in (*ROOMS, "recipes", "tests"):
                found.add(f"bare:{parts[0]}")
            if parts[0] == "jepa" and len(parts) > 1 and parts[1] in (*ROOMS, "recipes"):
                found.add(parts[1])
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_point_down(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        wrong = rooms_imported(path) - ALLOWED[room] - {room}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from jepa.probes.knn import KNNProbe", {"probes"}),
        ("from jepa import planning", {"planning"}),
        ("from ..datasets.images import open_images", {"datasets"}),
        ("import datasets", {"bare:datasets"}),
        ("from .knn import KNNProbe", set()),
        ("from jepa.encoder import VisionTransformer", set()),
    ],
)
def test_the_guard_sees_every_spelling(tmp_path, line, found):
    path = tmp_path / "file.py"
    path.write_text(line)
    assert rooms_imported(path) == found
