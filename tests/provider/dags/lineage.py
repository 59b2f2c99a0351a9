"""Tasks whose lineage a test looks at."""

import os

from airflow.sdk import DAG, Asset

from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    SessionTraceOperator,
    WriteRecordsOperator,
)

FOLDER = os.environ.get("AGENTFORCE_EXAMPLE_OUTPUT", "/tmp")  # noqa: S108 - not read when the test sets it

with DAG("lineage", schedule=None):
    ask = ConversationBatchOperator(
        task_id="ask",
        records=f"file://{FOLDER}/accounts.jsonl",
        key="Id",
        message="What do you know of account {{ record.Name }}?",
        result_path=f"file://{FOLDER}/results",
        outlets=[Asset("file:///bucket/report")],
    )
    write = WriteRecordsOperator(
        task_id="write",
        results=ask.output,
        sobject="Account",
        fields={"Agent_Summary__c": "{{ row.text }}"},
    )
    traces = SessionTraceOperator(task_id="traces", results=ask.output)
    talk = ConversationOperator(task_id="talk", messages=["hello"], inlets=[Asset("file:///bucket/read")])
    write >> traces >> talk
