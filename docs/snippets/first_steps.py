"""Ask an agent about two orders."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow_provider_agentforce.operators import ConversationOperator

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

with DAG(
    dag_id="first_steps",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
):
    ask = ConversationOperator(
        task_id="ask",
        messages=["What is the status of order 4711?", "And of order 4712?"],
    )

    @task
    def show(answer: dict) -> None:
        """Print the answers; your Dag would do something with them."""
        for turn in answer["turns"]:
            print(turn["sequence_id"], turn["text"])

    show(ask.output)
