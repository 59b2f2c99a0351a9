"""The Dag under test."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow_provider_agentforce.operators import ConversationOperator

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

with DAG("orders", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None) as dag:
    ask = ConversationOperator(task_id="ask", messages=["Where is order 4711?"])

    @task
    def shipped(answer: dict) -> bool:
        """Tell whether the order is on its way."""
        return "has shipped" in answer["text"]

    shipped(ask.output)
