"""Enrich a CSV file of accounts: one task asks about all of them, the next one picks columns of its table."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from airflow_provider_agentforce.operators import ConversationBatchOperator

try:
    from airflow.sdk import DAG, ObjectStoragePath, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task
    from airflow.io.path import ObjectStoragePath

# [START batch]
ACCOUNTS = Path(__file__).with_name("agentforce_accounts.csv")  # the columns id, name, country
OUTPUT = Path(os.environ.get("AGENTFORCE_EXAMPLE_OUTPUT", tempfile.gettempdir()))

with DAG(
    dag_id="example_agentforce_batch",
    description=__doc__,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    catchup=False,
    tags=["agentforce", "example"],
):
    ask = ConversationBatchOperator(
        task_id="ask",
        records=f"file://{ACCOUNTS}",
        key="id",
        message="What do you know of account {{ record.name }}?",
        result_path=f"file://{OUTPUT}/agentforce_batch/{{{{ run_id }}}}",
        max_concurrency=10,
    )

    @task
    def publish(batch: dict) -> str:
        """Write the columns that other tasks need, and return the path."""
        table = ObjectStoragePath(batch["tables"]["csv"]).read_bytes().decode()
        path = OUTPUT / "agentforce_accounts_enriched.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            wanted = csv.DictWriter(file, ["id", "name", "country", "status", "text"], extrasaction="ignore")
            wanted.writeheader()
            wanted.writerows(csv.DictReader(io.StringIO(table, newline="")))
        return str(path)

    publish(ask.output)
# [END batch]
