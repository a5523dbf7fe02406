"""The house's rules: a file imports only from rows above it, or from its own folder."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "pyro_vrnn"
LAYERS = {
    "shapes": 0,
    "files": 0,
    "archives": 0,
    "reprs": 0,
    "runs": 0,
    "scores": 1,
    "ops": 1,
    "distributions": 2,
    "data": 2,
    "nn": 3,
    "baselines": 3,
    "models": 4,
    "infer": 5,
    "diagnostics": 6,
    "experiments": 7,
    "cli": 8,
    "__main__": 9,  # calls cli
    "__init__": 8,
}
KNOWS_NO_PYRO = (
    "shapes",
    "files",
    "archives",
    "reprs",
    "runs",
    "scores",
    "ops",
    "data",
    "baselines",
)
FILES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    """Return the folder of a file, or its own name at the top level."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Return the modules a file imports, relative ones refused, lazy ones included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def inner_imports(path: Path) -> set[str]:
    parts = [name.split(".") for name in imports(path)]
    return {p[1] if len(p) > 1 else "" for p in parts if p[0] == "pyro_vrnn"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    here = room(path)
    for there in inner_imports(path):
        assert there in LAYERS, f"{path} imports the root package or an unknown room {there!r}"
        assert there == here or LAYERS[there] < LAYERS[here], f"{path} imports {there}"


@pytest.mark.parametrize(
    "path", [p for p in FILES if room(p) in KNOWS_NO_PYRO], ids=lambda p: str(p.relative_to(ROOT))
)
def test_lower_rooms_know_no_pyro(path):
    assert not [name for name in imports(path) if name.split(".")[0] == "pyro"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_small(path):
    assert len(path.read_text().splitlines()) <= 400


def test_import_is_light():
    code = (
        "import sys, pyro_vrnn; "
        "print([m for m in ('arviz', 'matplotlib', 'pandas', 'statsmodels') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
