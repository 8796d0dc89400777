"""How the pages are built: MyST Markdown, docstrings through autodoc, every warning an error."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "clipkit"
author = "The clipkit developers"
release = importlib.metadata.version("clipkit-experiments")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"clipkit {release}"

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # the attributes of a named tuple are described by its docstring alone

# A reference to clipkit that leads nowhere is an error; what lives in other libraries has no page here.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!clipkit\.).*"), (r"py:class", r"clipkit\..*\.T")]  # a type variable has no page


def skip_tuple_fields(
    app: Sphinx, what: str, name: str, member: object, skip: bool, options: dict[str, Any]
) -> bool | None:
    """Leave out ``Alias for field number 0``."""
    return True if type(member).__name__ == "_tuplegetter" else None


def resolve_export(
    app: Sphinx, env: BuildEnvironment, node: nodes.Element, content: nodes.Element
) -> nodes.Element | None:
    """Lead ``clipkit.towers.timm.TimmTower`` to where its package exports it, which is where it is described."""
    target = node.get("reftarget", "")
    package, _, rest = target.partition(".")[2].partition(".")
    exported = f"clipkit.{package}.{rest.partition('.')[2]}"
    if not target.startswith("clipkit.") or target.count(".") < 3 or exported == target:
        return None
    domain = env.get_domain("py")
    arguments = (env, node["refdoc"], app.builder, node["reftype"], exported, node, content)
    return domain.resolve_xref(*arguments)


def setup(app: Sphinx) -> None:
    """Connect the two."""
    app.connect("autodoc-skip-member", skip_tuple_fields)
    app.connect("missing-reference", resolve_export)
