"""Test an agent whenever somebody publishes a new version of it."""

# needs: apache-airflow>=3.0

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow_provider_agentforce.operators import RunAgentTestOperator

try:
    from airflow.sdk import DAG, Asset, AssetWatcher

    from airflow_provider_agentforce.triggers.agent_published import AgentPublishedTrigger
except ImportError:  # Airflow 2 has no watchers
    Asset = None

if Asset is not None:
    # [START published]
    PUBLISHED = Asset(
        "agentforce_agent_published",
        watchers=[AssetWatcher("published", AgentPublishedTrigger(agent_id="Service_Agent"))],
    )

    with DAG(
        dag_id="example_agentforce_published",
        description=__doc__,
        start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
        schedule=[PUBLISHED],
        catchup=False,
        tags=["agentforce", "example"],
    ):
        RunAgentTestOperator(
            task_id="test",
            test="Order_Tests",
            poke_interval=timedelta(seconds=1),  # a real run takes minutes: keep the default, a minute
            deferrable=True,
            retries=2,
        )
    # [END published]
