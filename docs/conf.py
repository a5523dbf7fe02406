"""Sphinx configuration: MyST pages, API pages by autodoc. Builds without a network."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

project = "pyro_vrnn"
author = "The pyro_vrnn authors"
copyright = author
release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3

autoclass_content = "both"
autodoc_default_options = {"members": True, "show-inheritance": True}
# Otherwise every class without a docstring on a method repeats torch's or Pyro's.
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"

# Examples in docstrings are run by pytest, which knows their module's names.
doctest_test_doctest_blocks = ""

html_theme = "pydata_sphinx_theme"
html_title = "pyro_vrnn"
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False}
