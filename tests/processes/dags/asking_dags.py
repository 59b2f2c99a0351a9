"""Conversations in which a person decides what the agent asks."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG
from process_dags import gate

from airflow_provider_agentforce.delivery import Ask
from airflow_provider_agentforce.operators import ConversationOperator

SETTINGS = {
    "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc),
    "default_args": {"retries": 1, "retry_delay": timedelta(seconds=1)},
}


def stop(_context):
    """Stop where a notifier is called: the question is asked, and the task does not wait yet."""
    gate("asking")


def decided(dag_id, step):
    """Make a Dag whose second message comes after a person's decision."""
    with DAG(dag_id, schedule=None, **SETTINGS):
        ConversationOperator(
            task_id="talk",
            # Each time it is rendered, the last one is another text.
            messages=["{{ dag_run.conf['request'] }}", "after {{ macros.uuid.uuid4() }}"],
            on_needs_confirmation=step,
            on_needs_input=step,
        )


decided("talk_decided", "ask")
decided("talk_decided_in_time", Ask(timeout=timedelta(seconds=3)))
decided("talk_decided_stopping", Ask(notifiers=[stop]))
