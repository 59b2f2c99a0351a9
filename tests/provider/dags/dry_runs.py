"""Dry runs, and a write, with an asset for each."""

from __future__ import annotations

import os
from datetime import datetime, timezone

from airflow.sdk import DAG, Asset

from airflow_provider_agentforce.operators import ConversationBatchOperator, WriteRecordsOperator

RESULTS = f"file://{os.environ['AIRFLOW_HOME']}/dry_runs/{{{{ ti.run_id }}}}"
BATCH = {
    "soql": "SELECT Id, Name FROM Account",
    "key": "Id",
    "message": "What of {{ record.Name }}?",
    "messages_per_session": 100,
}
WRITE = {"sobject": "Account", "fields": {"Agent_Summary__c": "{{ row.text }}"}}

with DAG("dry_runs", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):
    plan = ConversationBatchOperator(
        task_id="plan",
        dry_run=True,
        result_path=f"{RESULTS}/plan",
        outlets=[Asset("dry_runs_planned")],
        **BATCH,
    )
    ask = ConversationBatchOperator(task_id="ask", result_path=f"{RESULTS}/asked", **BATCH)
    tried = WriteRecordsOperator(
        task_id="try", results=ask.output, dry_run=True, outlets=[Asset("dry_runs_tried")], **WRITE
    )
    written = WriteRecordsOperator(
        task_id="write", results=ask.output, outlets=[Asset("dry_runs_written")], **WRITE
    )
    plan >> ask >> tried >> written
