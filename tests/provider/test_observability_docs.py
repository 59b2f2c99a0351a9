"""The page about metrics and traces names all there is, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import airflow_provider_agentforce

PACKAGE = Path(airflow_provider_agentforce.__file__).parent
PAGE = (PACKAGE.parent / "docs" / "observability.md").read_text()


def in_code(pattern, *folders):
    files = [file for folder in folders for file in (PACKAGE / folder).rglob("*.py")]
    return {name for file in files for name in re.findall(pattern, file.read_text())}


def listed(section):
    """Return the names in the first cells of the tables of a section, as often as they are there."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def rows(section):
    return set(listed(section))


@pytest.mark.parametrize("section", ["Metrics", "Traces"])
def test_nothing_is_listed_twice(section):
    assert sorted(listed(section)) == sorted(rows(section))


def test_every_metric_is_on_the_page_and_every_metric_on_the_page_exists():
    named = in_code(r'"(agentforce\.[a-z]+\.[a-z_]+)"', "instrumentation", "operators", "batch")
    assert named == rows("Metrics")
    assert len(named) > 10


def test_every_attribute_of_a_span_is_on_the_page_and_every_attribute_on_the_page_exists():
    attributes = in_code(r'"((?:gen_ai|agentforce|server|http|error)\.[a-z_.]+)"', "instrumentation")
    spans = {"start_session", "invoke_agent", "end_session", "read_plan"}
    spans |= {"invoke_agent {agent}", "chat {model}", "execute_tool {action}"}
    content = {"gen_ai.input.messages", "gen_ai.output.messages"}
    metrics = rows("Metrics")
    assert attributes - metrics == rows("Traces") - spans | content
    assert all(name in PAGE for name in content)
