"""Retries at the time that the org asks for, which needs Airflow 3.3 or later."""

from __future__ import annotations

import importlib.util
from datetime import datetime, timedelta, timezone

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)


def has_retry_policies() -> bool:
    """Tell whether this is Airflow 3.3 or later."""
    try:
        return importlib.util.find_spec("airflow.sdk.definitions.retry_policy") is not None
    except ImportError:
        return False


if has_retry_policies():
    from airflow.sdk import DAG
    from airflow_provider_agentforce.operators import ConversationOperator

    with DAG("docs_retry_policy", start_date=BEGIN, schedule=None):
        # [START policy]
        from airflow_provider_agentforce.retry_policy import AgentforceRetryPolicy

        ask = ConversationOperator(
            task_id="ask",
            messages=["How many open cases do we have?"],
            retries=3,
            retry_delay=timedelta(minutes=2),  # when the org does not say how long
            retry_policy=AgentforceRetryPolicy(longest=1800),
        )
        # [END policy]
