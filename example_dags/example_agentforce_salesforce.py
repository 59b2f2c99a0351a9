"""Ask about accounts of the org in steps, and write the answers back, which starts another Dag."""

# needs: apache-airflow>=3.3
# That is for "make demo"; an Airflow with a triggerer runs it from 3.1 on.
from __future__ import annotations

import os
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

from airflow.exceptions import AirflowOptionalProviderFeatureException

from airflow_provider_agentforce.operators import ConversationBatchOperator, WriteRecordsOperator

try:
    from airflow.providers.standard.operators.hitl import ApprovalOperator
    from airflow.sdk import DAG, Asset, task
except (ImportError, AirflowOptionalProviderFeatureException):
    ApprovalOperator = None  # Airflow below 3.1 cannot ask people, so there this file has no Dag.

OUTPUT = Path(os.environ.get("AGENTFORCE_EXAMPLE_OUTPUT", tempfile.gettempdir()))
# What the person who decides sees, in Markdown.
PREVIEW = """
{% for row in ti.xcom_pull('trial')['sample']['preview'] %}
* **{{ row.key }}**: {{ row.error or row.text }}
{% endfor %}
"""

if ApprovalOperator is not None:
    # [START salesforce]
    SUMMARIES = Asset("agentforce_account_summaries")

    with DAG(
        dag_id="example_agentforce_salesforce",
        description=__doc__,
        start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
        schedule=None,
        catchup=False,
        tags=["agentforce", "example"],
    ):
        trial = ConversationBatchOperator(
            task_id="trial",
            soql="SELECT Id, Name, Industry, Owner.Name FROM Account WHERE Agent_Checked__c = false",
            key="Id",
            message="What do you know of account {{ record.Name }} ({{ record.Industry }})?",
            result_path=f"file://{OUTPUT}/agentforce_salesforce/{{{{ run_id }}}}",
            sample=2,
        )
        approve = ApprovalOperator(
            task_id="approve",
            subject="Ask about {{ ti.xcom_pull('trial')['sample']['remaining'] }} more accounts?",
            body=PREVIEW,
            defaults="Reject",  # when no one decides
            response_timeout=timedelta(days=1),
        )
        rest = ConversationBatchOperator(task_id="rest", continue_from=trial.output)
        write = WriteRecordsOperator(
            task_id="write",
            results=rest.output,  # of all records, including those of the trial
            sobject="Account",
            fields={
                "Agent_Summary__c": "{{ row.text }}",
                "Agent_Checked__c": "true",
                "Agent_Checked_At__c": "{{ row.started_at }}",
            },
            max_failures=0.05,
            outlets=[SUMMARIES],
            retries=2,
        )
        trial >> approve >> rest >> write
    # [END salesforce]

    # [START asset]
    with DAG(
        dag_id="example_agentforce_salesforce_report",
        description="Report how many summaries were written, each time.",
        start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
        schedule=[SUMMARIES],
        catchup=False,
        tags=["agentforce", "example"],
    ):

        @task
        def report(triggering_asset_events: dict | None = None) -> str:
            """Read the event, which has counts and paths, but no text of the agent."""
            events = (triggering_asset_events or {}).get(SUMMARIES, [])
            lines = [f"{one.extra['written']} written, {one.extra['failed']} failed\n" for one in events]
            path = OUTPUT / "agentforce_summaries.txt"
            path.write_text("".join(lines), encoding="utf-8")
            return str(path)

        report()
    # [END asset]
