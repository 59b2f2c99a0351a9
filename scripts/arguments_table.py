"""Write the arguments of the operators as Markdown, from their signatures and docstrings."""

from __future__ import annotations

import inspect
import os
import re
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import generated

from airflow_provider_agentforce import operators
from airflow_provider_agentforce.sensors.agent_tests import AgentTestSensor

DOCS = Path(__file__).resolve().parent.parent / "docs"
CLASSES = [
    *(getattr(operators, name) for name in operators.__all__ if name.endswith("Operator")),
    AgentTestSensor,
]
# All operators take it; the page of the operators says so.
COMMON = "agentforce_conn_id"
# Where a page says more about an argument, of one operator or of all.
MORE = {
    "messages": "operators.md#messages-as-a-function",
    "on_needs_confirmation": "people.md#in-one-task",
    "on_needs_input": "people.md#in-one-task",
    "reply": "people.md",
    "agent_id": "connection.md#agents-by-name",
    "bypass_user": "connection.md#log-in-as-a-named-user",
    "variables": "operators.md#variables",
    "stream": "operators.md#streaming-and-the-log",
    "fail_on": "operators.md#outcomes",
    "output_type": "operators.md#structured-answers",
    "store_requests": "operators.md#what-was-asked",
    "store_plans": "operators.md#what-the-planner-did",
    "budget": "many-workers.md#a-budget",
    "deferrable": "many-workers.md#waiting-without-a-worker-slot",
    "on_unknown_delivery": "delivery.md#how-it-is-resolved",
    "external_session_key": "operators.md#finding-a-session",
    "records": "batch.md#the-input",
    "soql": "how-to/records.md#records-from-a-query",
    "message": "batch.md#the-question",
    "shard": "many-workers.md#shards",
    "max_concurrency": "batch.md#the-orgs-limits",
    "messages_per_session": "batch.md#sharing-sessions",
    "fail_on_partial_error": "batch.md#failures",
    "on_change": "batch.md#what-a-retry-does",
    "reuse": "batch.md#earlier-answers",
    "on_agent_change": "batch.md#the-agents-version",
    "output_formats": "batch.md#the-table",
    "sample": "batch.md#a-sample-first",
    "continue_from": "batch.md#a-sample-first",
    "agreement_share": "batch.md#agreement",
    "min_agreement": "batch.md#agreement",
    "min_pass_rate": "how-to/agent-tests.md#the-verdict",
    "skip_if_passed_within": "how-to/agent-tests.md#what-has-passed",
    "ConversationBatchOperator.deferrable": "batch.md#waiting-without-a-worker",
    "ConversationBatchOperator.dry_run": "batch.md#a-dry-run",
    "ConversationBatchOperator.max_failures": "batch.md#failures",
    "WriteRecordsOperator.dry_run": "how-to/records.md#a-dry-run",
    "WriteRecordsOperator.max_failures": "how-to/records.md#failures",
}

_PARAMETER = re.compile(r"^:param (\w+): (.*?)(?=^:|\Z)", re.MULTILINE | re.DOTALL)
_ROLE = re.compile(r":\w+:`(?:~[\w.]+\.(\w+)|([^`<]+?)(?: <[^>]+>)?)`")
_DEFAULT = re.compile(r" *Default: (.+?)\.(?= |$)")


def table(cls: type, page: Path) -> str:
    """Return the table of an operator, for a page."""
    defaults = defaults_of(cls)
    texts = dict(_PARAMETER.findall(inspect.getdoc(cls) or ""))
    if odd := defaults.keys() ^ texts.keys():
        sys.exit(f"{cls.__name__}: signature and docstring differ: {', '.join(sorted(odd))}")
    rows = []
    for name, text in texts.items():
        if name == COMMON:
            continue
        default, meaning = in_words(defaults[name]), markdown(text)
        if defaults[name] is None and (said := _DEFAULT.search(meaning)):
            default, meaning = said[1], meaning.replace(said[0], "")
        templated = "T" if name in getattr(cls, "template_fields", ()) else ""
        rows.append([linked(cls, name, page), default, templated, meaning.removesuffix(".")])
    return generated.table(["argument", "default", "T", "meaning"], rows)


def defaults_of(cls: type) -> dict[str, Any]:
    """Return the arguments that the classes of this package take, with their defaults."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if base.__module__.startswith("airflow_provider_agentforce") and "__init__" in vars(base):
            for name, parameter in inspect.signature(vars(base)["__init__"]).parameters.items():
                if parameter.kind is parameter.KEYWORD_ONLY:
                    found.setdefault(name, parameter.default)
    return found


def in_words(default: Any) -> str:
    """Return a default as a page shows it."""
    if default is inspect.Parameter.empty:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, timedelta):
        hours, minutes = default.total_seconds() / 3600, default.total_seconds() / 60
        amount, unit = (hours, "hour") if hours >= 1 else (minutes, "minute")
        return f"{amount:g} {unit}{'' if amount == 1 else 's'}"
    text = f'"{default}"' if isinstance(default, str) else repr(default).replace("'", '"')
    return f"`{text}`"


def markdown(text: str) -> str:
    """Return a text of a docstring as one line of Markdown."""
    text = _ROLE.sub(lambda role: f"`{role[1] or role[2]}`", " ".join(text.split()))
    return text.replace("``", "`").replace("|", r"\|")


def linked(cls: type, name: str, page: Path) -> str:
    """Return the name of an argument, with a link to where the docs say more."""
    target = MORE.get(f"{cls.__name__}.{name}", MORE.get(name))
    if target is None:
        return f"`{name}`"
    path, _, anchor = target.partition("#")
    relative = os.path.relpath(DOCS / path, page.resolve().parent)
    address = "" if (DOCS / path) == page.resolve() else relative
    return f"[`{name}`]({address}{'#' if anchor else ''}{anchor})"


if __name__ == "__main__":
    parts = {f"arguments of {cls.__name__}": partial(table, cls) for cls in CLASSES}
    sys.exit(generated.command(str(__doc__), parts))
