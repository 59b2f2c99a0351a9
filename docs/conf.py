"""How Sphinx makes the pages: ``make docs``."""

from __future__ import annotations

import gc
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Autodoc imports Airflow, which makes itself a folder then.
os.environ["AIRFLOW_HOME"] = str(Path(__file__).resolve().parent.parent / ".airflow-docs")

from airflow_provider_agentforce import __version__

# What Sphinx reads stays until the end; each collection would visit all of it.
gc.disable()

PACKAGE = "airflow_provider_agentforce"

project = "airflow-provider-agentforce"
author = "The airflow-provider-agentforce authors"
copyright = author  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["snippets"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = "Agentforce for Airflow"
html_show_sphinx = False
# "Edit this page", where the address of the project is known.
if repository := os.environ.get("REPOSITORY_URL"):
    html_theme_options = {
        "source_repository": repository,
        "source_branch": "main",
        "source_directory": "docs/",
    }

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
# There are none, and looking for them parses each module again.
autodoc_use_type_comments = False
# The extra common-ai is there from Python 3.11 on.
autodoc_mock_imports = [] if find_spec("pydantic_ai") else ["airflow.providers.common.ai", "pydantic_ai"]
add_module_names = False
maximum_signature_line_length = 80
# A name that leads nowhere is an error; those of Python and Airflow are shown without a link.
nitpicky = True
# Parts of the package that only annotations name are shown without a link, too.
_CLIENT = r"agent_lookup|agent_test\w+|attempt|call_events|executor|open_session|responses|timing"
INSIDE = rf"(client\.({_CLIENT})|emulator\.models|operators\._\w+)\.\w+"
nitpick_ignore_regex = [("py:.*", rf"(?!{PACKAGE}\.).*"), ("py:(class|func)", rf"{PACKAGE}\.{INSIDE}")]


def setup(app: Any) -> None:
    """Tell Sphinx about :func:`find_where_it_is_public`."""
    app.connect("missing-reference", find_where_it_is_public)


def find_where_it_is_public(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Link a name to where users import it from, when an annotation has the module that defines it."""
    name = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not name.startswith(PACKAGE):
        return None
    short = f".{name.rpartition('.')[2]}"
    node["refspecific"] = True
    return env.domains["py"].resolve_xref(
        env, node.get("refdoc"), app.builder, node["reftype"], short, node, contnode
    )
