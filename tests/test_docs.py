"""What the README and the docs show is code that runs, and what they point to exists."""

from __future__ import annotations

import os
import re
import runpy
import textwrap
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from airflow_provider_agentforce import operators
from airflow_provider_agentforce.emulator import Emulator

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPETS = sorted((ROOT / "docs" / "snippets").glob("*.py"))
# docs/emulator.md has tests of its own, which run its blocks as they stand.
SHOWN = [page for page in PAGES if page.name != "emulator.md"]

BLOCK = re.compile(r"(?:<!-- source: (?P<source>\S+) -->\n)?```(?P<kind>\w*)\n(?P<code>.*?)\n```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]+)\)")
OUTSIDE = re.compile(r"\]\((https?://[^)\s]*)\)")
ERROR = re.compile(r"^\| (?:… )?`(?P<words>[^`]+)`", re.MULTILINE)


def region(source: str) -> str:
    path, _, name = source.partition("#")
    text = (ROOT / path).read_text()
    if name:
        found = re.search(rf"# \[START {name}\]\n(.*?)\n *# \[END {name}\]", text, re.DOTALL)
        assert found, f"{path} has no region {name}"
        text = found.group(1)
    return textwrap.dedent(text).strip("\n")


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.name)
def test_every_python_block_stands_in_a_file_that_a_test_runs(page):
    for block in BLOCK.finditer(page.read_text()):
        if block["kind"] not in {"python", "yaml"}:
            continue
        assert block["source"], f"{page.name} shows code of nowhere: {block['code'][:80]}"
        path = block["source"].partition("#")[0]
        assert path.startswith(("example_dags/", "docs/snippets/")), path
        assert block["code"] == region(block["source"]), f"{page.name} differs from {block['source']}"


# It starts an Airflow of its own. tests/provider/test_testing_docs.py runs the same tests in ours.
COSTLY = {"run_tests.py"} if not os.environ.get("CI") else set()


@pytest.mark.parametrize(
    "snippet", [one for one in SNIPPETS if one.name not in COSTLY], ids=lambda snippet: snippet.name
)
def test_a_snippet_runs_against_the_emulator(snippet, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    # Other tests of this process may have named the bundles of their own Dags.
    monkeypatch.delenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", raising=False)
    with Emulator() as org:
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection())
        monkeypatch.setenv("EMULATOR_URL", org.url)
        runpy.run_path(str(snippet), run_name="__main__")
        assert org.open_sessions == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_project_leads_somewhere(page):
    for target in LINK.findall(page.read_text()):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor and linked.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_named_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)`", page.read_text())) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_to_the_world_is_a_whole_https_address(page):
    for address in OUTSIDE.findall(page.read_text()):
        parts = urlsplit(address)
        assert parts.scheme == "https", f"{page.name} links to {address}"
        assert re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.netloc), f"{page.name} links to {address}"


def test_the_page_of_errors_quotes_what_the_package_really_says():
    page = (ROOT / "docs" / "errors.md").read_text().partition("## Airflow and")[0]
    ours = page.partition("## The org refuses")[0] + page.partition("## The agent acted")[2]
    code = "".join(path.read_text() for path in (ROOT / "airflow_provider_agentforce").rglob("*.py"))
    quoted = [words["words"] for words in ERROR.finditer(ours)]
    assert quoted
    assert [words for words in quoted if words not in code] == []


@pytest.mark.parametrize("name", [name for name in operators.__all__ if name.endswith("Operator")])
def test_a_how_to_shows_each_operator_in_an_example_dag(name):
    pages = [ROOT / "docs" / "batch.md", *(ROOT / "docs" / "how-to").glob("*.md")]
    blocks = [block for page in pages for block in BLOCK.finditer(page.read_text())]
    shown = [block for block in blocks if f"{name}(" in block["code"] or f"{name}." in block["code"]]
    assert any(block["source"].startswith("example_dags/") for block in shown)
