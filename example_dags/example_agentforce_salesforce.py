"""Ask about accounts of the org and write the answers back; another Dag begins when they are written."""

from __future__ import annotations

import os
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from airflow_provider_agentforce.operators import ConversationBatchOperator, WriteRecordsOperator

try:
    from airflow.sdk import DAG, Asset, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.datasets import Dataset as Asset
    from airflow.decorators import task

# [START salesforce]
OUTPUT = Path(os.environ.get("AGENTFORCE_EXAMPLE_OUTPUT", tempfile.gettempdir()))
SUMMARIES = Asset("agentforce_account_summaries")

with DAG(
    dag_id="example_agentforce_salesforce",
    description=__doc__,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    catchup=False,
    tags=["agentforce", "example"],
):
    ask = ConversationBatchOperator(
        task_id="ask",
        soql="SELECT Id, Name, Industry, Owner.Name FROM Account WHERE Agent_Checked__c = false",
        key="Id",
        message="What do you know of account {{ record.Name }} ({{ record.Industry }})?",
        result_path=f"file://{OUTPUT}/agentforce_salesforce/{{{{ run_id }}}}",
    )
    write = WriteRecordsOperator(
        task_id="write",
        results=ask.output,
        sobject="Account",
        fields={
            "Agent_Summary__c": "{{ row.text }}",
            "Agent_Checked__c": "true",
            "Agent_Checked_At__c": "{{ row.started_at }}",
        },
        max_failures=0.05,
        outlets=[SUMMARIES],
        retries=2,
    )
# [END salesforce]

# [START asset]
with DAG(
    dag_id="example_agentforce_salesforce_report",
    description="Say how many summaries were written, whenever they are.",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=[SUMMARIES],
    catchup=False,
    tags=["agentforce", "example"],
):

    @task
    def report(triggering_asset_events: dict | None = None) -> list[str]:
        """Read what the event says: counts and paths, and no text of the agent."""
        events = (triggering_asset_events or {}).get(SUMMARIES, [])
        return [f"{event.extra['written']} written, {event.extra['failed']} failed" for event in events]

    report()
# [END asset]
