"""A batch that mapped tasks share, and its one result."""

import os
from datetime import datetime, timezone

from airflow.sdk import DAG, task

from airflow_provider_agentforce.operators import ConversationBatchOperator, merge_shards, shards

FOLDER = os.environ.get("AGENTFORCE_EXAMPLE_OUTPUT", "/data")

with DAG("shards", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None):

    @task
    def records():
        return [{"id": f"A{number}"} for number in range(12)]

    @task
    def merged(manifests):
        return merge_shards(manifests)

    batch = ConversationBatchOperator.partial(
        task_id="batch",
        records=records(),
        message="Tell me of {{ record.id }}.",
        key="id",
        result_path=f"file://{FOLDER}/{{{{ run_id }}}}",
    ).expand(shard=shards(3))
    merged(batch.output)
