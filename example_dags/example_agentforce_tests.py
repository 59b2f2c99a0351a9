"""Test an agent before it is asked about many records: the batch begins only if it passes."""

from __future__ import annotations

import os
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationTestOperator,
    RunAgentTestOperator,
)
from airflow_provider_agentforce.sensors import AgentTestSensor

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG

# [START tests]
HERE = Path(__file__).parent
OUTPUT = Path(os.environ.get("AGENTFORCE_EXAMPLE_OUTPUT", tempfile.gettempdir()))

with DAG(
    dag_id="example_agentforce_tests",
    description=__doc__,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    catchup=False,
    tags=["agentforce", "example"],
):
    in_the_org = RunAgentTestOperator(
        task_id="in_the_org",
        test="Order_Tests",  # defined in the org's Testing Center
        poke_interval=timedelta(seconds=1),  # a real run takes minutes: keep the default, a minute
        junit_path=f"file://{OUTPUT}/agentforce_org_tests.xml",
        deferrable=True,
        retries=2,
    )
    conversations = ConversationTestOperator(
        task_id="conversations",
        conversations=f"file://{HERE}/agentforce_conversations/*.yaml",
        repeat=3,
        min_pass_rate=0.6,
        junit_path=f"file://{OUTPUT}/agentforce_conversations.xml",
        result_path=f"file://{OUTPUT}/agentforce_conversations",
        skip_if_passed_within=timedelta(days=7),  # until a new version of the agent is active
        retries=2,
    )
    ask = ConversationBatchOperator(
        task_id="ask",
        records=[{"order": 17}, {"order": 42}],
        key="order",
        message="Where is order {{ record.order }}?",
        result_path=f"file://{OUTPUT}/agentforce_tests/{{{{ run_id }}}}",
    )
    # [END tests]
    # [START sensor]
    # Waits for a run that something else has started, such as a deployment.
    other_run = AgentTestSensor(
        task_id="other_run",
        run_id=in_the_org.output["run_id"],
        poke_interval=timedelta(seconds=1),
    )
    # [END sensor]
    # [START order]
    [other_run, conversations] >> ask
# [END order]
