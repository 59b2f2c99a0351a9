"""Records that are asked about and written, a Dag that begins when they are, and one for a new agent."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_provider_agentforce.operators import ConversationBatchOperator, WriteRecordsOperator
from airflow_provider_agentforce.triggers.agent_published import AgentPublishedTrigger

try:
    from airflow.sdk import CronPartitionTimetable
except ImportError:  # Airflow below 3.3
    CronPartitionTimetable = None

SETTINGS = {
    "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc),
    "default_args": {"retries": 1, "retry_delay": timedelta(seconds=1)},
}
WRITTEN = Asset("written")
PUBLISHED = Asset(
    "published",
    watchers=[
        AssetWatcher(
            "published",
            AgentPublishedTrigger(agent_id="Service_Agent", poke_interval=timedelta(milliseconds=200)),
        )
    ],
)

with DAG("records", schedule=None, **SETTINGS):
    ask = ConversationBatchOperator(
        task_id="ask",
        soql="SELECT Id, Name FROM Account",
        key="Id",
        message="What of {{ record.Name }}?",
        messages_per_session=100,
        retries=2,
        result_path=f"file://{os.environ['AIRFLOW_HOME']}/results/records/{{{{ ti.run_id }}}}",
    )
    WriteRecordsOperator(
        task_id="write",
        results=ask.output,
        sobject="Account",
        fields={"Agent_Summary__c": "{{ row.text }}"},
        outlets=[WRITTEN],
    )

if CronPartitionTimetable is not None:
    # Not due before 2028, so the scheduler starts no run on its own.
    with DAG(
        "records_partitioned", schedule=CronPartitionTimetable("0 0 29 2 *", timezone="UTC"), **SETTINGS
    ):
        ConversationBatchOperator(
            task_id="ask",
            soql="SELECT Id, Name FROM Account LIMIT 2",
            key="Id",
            message="What of {{ record.Name }}?",
            result_path=f"file://{os.environ['AIRFLOW_HOME']}/results/partition/{{{{ ti.run_id }}}}",
            outlets=[Asset("partition")],
        )

with DAG("records_written", schedule=[WRITTEN], **SETTINGS):

    @task
    def extra(triggering_asset_events: dict) -> dict:
        """Return what the event says."""
        (event,) = triggering_asset_events[WRITTEN]
        return event.extra

    extra()

with DAG("agent_published", schedule=[PUBLISHED], **SETTINGS):

    @task
    def events_of(triggering_asset_events: dict) -> list:
        """Return what the events say."""
        return [event.extra for event in triggering_asset_events[PUBLISHED]]

    events_of()
