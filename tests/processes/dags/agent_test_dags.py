"""Tests of an agent that wait: two that share one slot, and a task that needs the same one."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG

from airflow_provider_agentforce.operators import ConversationOperator, RunAgentTestOperator

with DAG(
    "agent_tests",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    default_args={"pool": "one_slot", "retries": 0},
):
    RunAgentTestOperator.partial(
        task_id="test", test="Order_Tests_Endless", poke_interval=timedelta(seconds=1), deferrable=True
    ).expand(api=["legacy", None])
    ConversationOperator(task_id="talk", messages=["Hello."], priority_weight=0)
