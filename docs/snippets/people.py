"""A conversation in which a person decides."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow_provider_agentforce._compat import can_ask
from airflow_provider_agentforce.operators import ConversationOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG

if can_ask():
    with DAG("docs_people", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None):
        # [START decide]
        from airflow_provider_agentforce.delivery import Ask

        refund = ConversationOperator(
            task_id="refund",
            messages=["Please refund order 4711.", "Thank you. Please send the customer a mail about it."],
            on_needs_confirmation=Ask(timeout=timedelta(minutes=10)),
            retries=2,
        )
        # [END decide]
