"""Batches whose records come from everywhere a Dag can take them, for tests/provider/test_dag_runs.py."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path

from airflow.sdk import DAG, ObjectStoragePath, task

from airflow_provider_agentforce.operators import ConversationBatchOperator

OUT = Path(os.environ.get("AGENTFORCE_EXAMPLE_OUTPUT", "/nowhere"))


def records(of):
    """Return records whose text is data, however much it looks like a template."""
    return [{"id": 1, "text": f"{of} {{{{ 7 * 7 }}}}"}, {"id": "b", "text": f"{of} {{% if %}}"}]


@task
def several(of):
    return records(of)


@task
def lists():
    return [records("mapped 0"), records("mapped 1")]


@task
def one(number):
    return records("one of many")[number]


@task
def export(folder):
    path = Path(folder) / "some records.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records("file")))
    return f"file://{path}"


@task
def place(uri):
    return ObjectStoragePath(uri)


@task
def look(batches, mapped):
    """Check what the batches returned."""
    for batch in [*batches, *mapped]:
        assert len(json.dumps(batch)) < 2000, batch
        rows = [json.loads(line) for line in ObjectStoragePath(batch["results"]).read_bytes().splitlines()]
        assert [row["status"] for row in rows] == ["answered"] * 2, rows
        assert batch["counts"] == {"answered": 2}
    assert len({batch["results"] for batch in mapped}) == 2


def batch(task_id, **arguments):
    return ConversationBatchOperator(task_id=task_id, **{**common(task_id), **arguments})


def common(name):
    return {
        "key": "id",
        "message": "{{ record.text }} in {{ ti.task_id }}",
        "variables": {"Said": "{{ record.text }}", "Run": "{{ run_id }}"},
        "result_path": f"file://{OUT}/{{{{ dag.dag_id }}}}/{{{{ run_id }}}}/{name}",
        "max_concurrency": 2,
    }


for dag_id, native in (("batches", False), ("batches_native", True)):
    with DAG(
        dag_id,
        start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
        schedule=None,
        render_template_as_native_obj=native,
    ):
        mapped = ConversationBatchOperator.partial(task_id="mapped", **common("{{ ti.map_index }}")).expand(
            records=lists()
        )
        batches = [
            batch("literal", records=records("literal")),
            batch("xcom", records=several("xcom")),
        ]
        if not native:
            file = export(f"{OUT}/{dag_id}")
            batches += [
                batch("file", records=file),
                batch("path", records=place(file)),
                batch("many", records=one.expand(number=[0, 1])),
            ]
        look([each.output for each in batches], mapped.output)
