"""Enrich a CSV file of accounts: one task asks about all of them, the next one writes the enriched file."""

from __future__ import annotations

import csv
import json
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
    def write(batch: dict) -> str:
        """Write the accounts with what the agent said of them, and return the path."""
        results = ObjectStoragePath(batch["results"]).read_bytes().splitlines()
        rows = {row["key"]: row for row in map(json.loads, results)}
        path = OUTPUT / "agentforce_accounts_enriched.csv"
        with (
            ACCOUNTS.open(newline="", encoding="utf-8") as source,
            path.open("w", newline="", encoding="utf-8") as target,
        ):
            enriched = csv.writer(target, lineterminator="\n")
            enriched.writerow(["id", "name", "country", "status", "summary"])
            for account in csv.DictReader(source):
                row = rows[account["id"]]
                enriched.writerow([*account.values(), row["status"], row["text"]])
        return str(path)

    write(ask.output)
# [END batch]
