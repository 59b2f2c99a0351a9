"""Branch on what the agent's answer is: an answer, a question back, or a case for a person."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow_provider_agentforce.operators import (
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
)

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

with DAG(
    dag_id="example_agentforce_branch",
    description=__doc__,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    catchup=False,
    params={"request": "Please refund order 4711."},
    tags=["agentforce", "example"],
):
    # [START branch]
    start = StartSessionOperator(task_id="start")
    request = SendMessageOperator(task_id="request", session=start.output, text="{{ params.request }}")

    @task.branch
    def by_outcome(answer: dict) -> str:
        """Choose the task for this outcome."""
        ways = {"needs_confirmation": "confirm", "escalated": "hand_over"}
        return ways.get(answer["outcome"], "answered")

    confirm = SendMessageOperator(task_id="confirm", session=request.output, reply=request.output)

    @task
    def hand_over(answer: dict) -> str:
        """Give the case to a person."""
        return f"A person takes over: {answer['text']}"

    @task
    def answered(answer: dict) -> str:
        """Use the answer."""
        return answer["text"]

    end = EndSessionOperator(task_id="end", session=start.output)

    ways = [confirm, hand_over(request.output), answered(request.output)]
    by_outcome(request.output) >> ways >> end.as_teardown(setups=start)
    # [END branch]
