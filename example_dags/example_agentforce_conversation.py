"""One conversation in one task; the next task uses the answer."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow_provider_agentforce.operators import ConversationOperator

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

with DAG(
    dag_id="example_agentforce_conversation",
    description=__doc__,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    catchup=False,
    tags=["agentforce", "example"],
):
    # [START conversation]
    ask = ConversationOperator(
        task_id="ask",
        messages=[
            "What is the status of order 4711?",
            "And of order {{ params.second_order }}?",
        ],
        params={"second_order": "4712"},
    )

    @task
    def use(answer: dict) -> str:
        """Read the answer as plain data."""
        lines = [f"{turn['sequence_id']}. {turn['text']}" for turn in answer["turns"]]
        return "\n".join(lines)

    use(ask.output)
    # [END conversation]
