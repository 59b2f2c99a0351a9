"""What the OpenLineage provider reports of our tasks, as it arrives at a backend."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.utils.state import TaskInstanceState
from http_receiver import Receiver

from airflow_provider_agentforce.operators import ConversationBatchOperator

pytest.importorskip("airflow.providers.openlineage")
HERE = Path(__file__).resolve().parent


class Backend(Receiver):
    """Takes events of OpenLineage."""

    def __init__(self):
        self.events = []
        super().__init__()

    def take(self, body):
        self.events.append(json.loads(body))

    def lineage(self):
        """Return the names of what each task read and wrote, once it was done."""
        found = {}
        for event in self.events:
            task = event["job"]["name"].partition(".")[2]
            if task and event["eventType"] == "COMPLETE":
                found[task] = tuple(
                    {f"{one['namespace']}:{one['name']}" for one in event[side]}
                    for side in ("inputs", "outputs")
                )
        return found


@pytest.fixture
def backend():
    backend = Backend()
    yield backend
    backend.stop()


@pytest.fixture
def lineage_of(dag_command, tmp_path, backend):
    """Run the Dag and return what is reported, with the folder of its files as FOLDER."""

    def run(org):
        records = org.records("Account")[:2]
        lines = [json.dumps({name: record[name] for name in ("Id", "Name")}) for record in records]
        (tmp_path / "accounts.jsonl").write_text("\n".join(lines))
        transport = {"type": "http", "url": backend.url, "endpoint": "api/v1/lineage"}
        status, output = dag_command(
            "lineage",
            org,
            HERE / "dags" / "lineage.py",
            AIRFLOW__OPENLINEAGE__TRANSPORT=json.dumps(transport),
        )
        assert status == 0, output
        return {
            task: tuple({one.replace(str(tmp_path), "FOLDER") for one in side} for side in sides)
            for task, sides in backend.lineage().items()
        }

    return run


def test_the_agent_and_the_files_are_inputs_and_outputs(lineage_of, org):
    lineage = lineage_of(org)
    host = org.url.partition("://")[2]
    agent, files = f"salesforce:{host}/BotDefinition/{org.agent_id}", "file:FOLDER/"
    results = f"{files}results/results"
    assert lineage == {
        "ask": (
            {agent, f"{files}accounts.jsonl"},
            {f"{results}.jsonl", f"{results}.csv", "file:/bucket/report"},
        ),
        "write": ({f"{results}.jsonl"}, {f"salesforce:{host}/Account"}),
        "traces": ({f"{results}.jsonl"}, {f"{files}results/traces.jsonl"}),
        "talk": ({agent, "file:/bucket/read"}, set()),
    }


def test_a_task_that_fails_says_what_it_read(org, run, tmp_path):
    from airflow.providers.openlineage.extractors.manager import ExtractorManager  # noqa: PLC0415

    org.fail("start", error="forbidden")
    (tmp_path / "accounts.jsonl").write_text('{"id": "A1"}')
    ask = ConversationBatchOperator(
        task_id="ask",
        records=f"file://{tmp_path}/accounts.jsonl",
        message="hello",
        result_path=f"file://{tmp_path}/results",
        max_concurrency=1,
    )
    assert run(ask).error is not None
    extract = ExtractorManager().extract_metadata
    found = extract(SimpleNamespace(run_id="r"), ask, TaskInstanceState.FAILED, SimpleNamespace())
    assert f"{tmp_path}/accounts.jsonl" in {one.name for one in found.inputs}
    assert f"{tmp_path}/results/results.jsonl" in {one.name for one in found.outputs}
