"""Sphinx configuration: Markdown by MyST, API pages from docstrings of the installed package."""

from __future__ import annotations

from importlib.metadata import version as installed_version

from sphinx.application import Sphinx
from sphinx.util.inspect import TypeAliasForwardRef

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

# The name of an alias also inside of a union, where autodoc shows its repr.
TypeAliasForwardRef.__repr__ = lambda alias: alias.name


def skip_fields(
    app: Sphinx, what: str, name: str, member: object, skip: bool, options: object
) -> bool | None:
    """The fields of a named tuple are told by its own docstring, not each by its number."""
    is_field = (getattr(member, "__doc__", None) or "").startswith("Alias for field number")
    return True if is_field else None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-skip-member", skip_fields)
