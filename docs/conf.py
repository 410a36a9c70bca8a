"""Sphinx configuration: Markdown by MyST, API pages from docstrings of the installed package."""

from __future__ import annotations

from importlib.metadata import version as installed_version

project = "fastrnn"
author = project_copyright = "The fastrnn developers"
release = version = installed_version("fastrnn")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"fastrnn {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_type_aliases = {"Array": "Array"}
myst_heading_anchors = 3
nitpicky = False
