"""Dags for the tests in this folder: whichever worker is free takes their tasks."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG

from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
    shards,
)

SETTINGS = {
    "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc),
    "default_args": {"retries": 1, "retry_delay": timedelta(seconds=1)},
}
STORE = os.environ["AGENTFORCE_STORE"]
# One path, behind which each worker has another folder, as machines have.
OWN_DISK = "file:///proc/self/cwd/disk"


def asked(dag_id, folder):
    """Return the arguments of a batch that asks about thirty records."""
    return {
        "task_id": "batch",
        "records": [{"id": f"A{number}"} for number in range(30)],
        "key": "id",
        "message": "record {{ record.id }}",
        "result_path": f"{folder}/{dag_id}/{{{{ ti.run_id }}}}",
    }


def batch(dag_id, folder, **options):
    """Make a Dag of a batch."""
    with DAG(dag_id, schedule=None, **SETTINGS):
        ConversationBatchOperator(**asked(dag_id, folder), **options)


batch("batch", STORE)
batch("batch_deferred", STORE, deferrable=True)
batch("batch_on_own_disk", OWN_DISK)

with DAG("batch_in_shards", schedule=None, **SETTINGS):
    ConversationBatchOperator.partial(**asked("batch_in_shards", STORE)).expand(shard=shards(2))

with DAG("talk", schedule=None, **SETTINGS):
    ConversationOperator(task_id="talk", messages=["first", "second"])

with DAG("shared", schedule=None, **SETTINGS):
    start = StartSessionOperator(task_id="start")
    first = SendMessageOperator(task_id="first", session=start.output, text="first")
    second = SendMessageOperator(task_id="second", session=first.output, text="second")
    end = EndSessionOperator(task_id="end", session=start.output)
    second >> end.as_teardown(setups=start)
