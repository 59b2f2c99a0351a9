"""The Dags of ``mapped.py``: the same records as a mapped task each, and in one task."""

from __future__ import annotations

import os
from datetime import datetime, timezone

from airflow.sdk import DAG

from airflow_provider_agentforce.operators import ConversationBatchOperator, ConversationOperator

RECORDS = int(os.environ.get("AGENTFORCE_BENCHMARK_RECORDS", "1"))
AT_ONCE = int(os.environ.get("AGENTFORCE_BENCHMARK_AT_ONCE", "1"))
RESULTS = os.environ.get("AGENTFORCE_BENCHMARK_RESULTS", "/tmp")  # noqa: S108 - set by the benchmark
START = datetime(2026, 1, 1, tzinfo=timezone.utc)

with DAG("mapped", schedule=None, start_date=START, max_active_tasks=AT_ONCE):
    ConversationOperator.partial(task_id="ask").expand(
        messages=[
            [f"M-{number} is the order of Customer {number}. Where is it?"] for number in range(RECORDS)
        ]
    )

with DAG("batched", schedule=None, start_date=START):
    ConversationBatchOperator(
        task_id="ask",
        records=[{"id": f"B-{number}", "name": f"Customer {number}"} for number in range(RECORDS)],
        message="{{ record.id }} is the order of {{ record.name }}. Where is it?",
        key="id",
        max_concurrency=AT_ONCE,
        result_path=f"{RESULTS}/{{{{ run_id }}}}",
    )
