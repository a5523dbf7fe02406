"""Every public module has a place in the API pages, and the pages name no module that is not."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pyro_vrnn"
API = ROOT / "docs" / "api"


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _is_public(path: Path) -> bool:
    parts = path.relative_to(PACKAGE).parts
    has_docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is not None
    return has_docstring and not any(part.startswith("_") for part in parts)


PUBLIC = sorted(_module_name(path) for path in PACKAGE.rglob("*.py") if _is_public(path))
NAMED = {
    name: page.name
    for page in sorted(API.glob("*.md"))
    for name in re.findall(
        r"^\.\. automodule:: (\S+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
}


def test_modules_are_found():
    assert "pyro_vrnn.shapes" in PUBLIC


@pytest.mark.parametrize("module", PUBLIC)
def test_public_module_is_on_an_api_page(module):
    assert module in NAMED, f"Expected an automodule directive for {module} in docs/api/*.md."


@pytest.mark.parametrize("module", sorted(NAMED))
def test_module_of_an_api_page_exists(module):
    assert module in PUBLIC, f"Expected {NAMED[module]} to name public modules, got {module}."
