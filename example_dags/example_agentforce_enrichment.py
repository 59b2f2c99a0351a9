"""Enrich a list of records: one mapped conversation, and so one session, per record."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from airflow_provider_agentforce.operators import ConversationOperator

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

with DAG(
    dag_id="example_agentforce_enrichment",
    description=__doc__,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    catchup=False,
    tags=["agentforce", "example"],
):
    # [START enrichment]
    @task
    def accounts() -> list[dict]:
        """Return the records to enrich; a real Dag reads them from somewhere."""
        return [
            {"id": "001A", "name": "Acme"},
            {"id": "001B", "name": "Globex"},
            {"id": "001C", "name": "Initech"},
        ]

    @task(map_index_template="{{ task.op_kwargs['account']['name'] }}")
    def question(account: dict) -> list[str]:
        """Return the messages of one account's conversation."""
        return [f"What do you know of account {account['name']}?"]

    # Map the conversation, not the sends of one session: those would run at once and out of order.
    ask = ConversationOperator.partial(
        task_id="ask",
        max_active_tis_per_dag=10,
        map_index_template="{{ task.messages[0] }}",
    ).expand(messages=question.expand(account=accounts()))

    @task
    def write(records: list[dict], answers: list[dict]) -> str:
        """Write the enriched records and return the path."""
        rows = [
            {**record, "summary": answer["text"]} for record, answer in zip(records, answers, strict=True)
        ]
        folder = Path(os.environ.get("AGENTFORCE_EXAMPLE_OUTPUT", tempfile.gettempdir()))
        path = folder / "agentforce_accounts.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    write(accounts(), ask.output)
    # [END enrichment]
