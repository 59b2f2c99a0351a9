"""Enrich a file of accounts in steps: a plan, a sample, a person's approval, the rest, one table."""

# needs: apache-airflow>=3.3
# That is for "airflow dags test"; an Airflow with a triggerer runs it from 3.1 on.
from __future__ import annotations

import csv
import io
import os
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

from airflow.exceptions import AirflowOptionalProviderFeatureException
from pydantic import BaseModel

from airflow_provider_agentforce.operators import ConversationBatchOperator, Sample

try:
    from airflow.providers.standard.operators.hitl import ApprovalOperator
    from airflow.sdk import DAG, ObjectStoragePath, task
except (ImportError, AirflowOptionalProviderFeatureException):
    ApprovalOperator = None  # Airflow below 3.1 cannot ask people, so there this file has no Dag.

ACCOUNTS = Path(__file__).with_name("agentforce_accounts.csv")  # the columns id, name, country
OUTPUT = Path(os.environ.get("AGENTFORCE_EXAMPLE_OUTPUT", tempfile.gettempdir()))


# [START approval]
class Account(BaseModel):
    """What the agent answers about an account."""

    industry: str
    risk: str
    employees: int


QUESTION = {
    "records": f"file://{ACCOUNTS}",
    "key": "id",
    "message": "Give me account {{ record.name }} as JSON with the keys industry, risk and employees.",
    "output_type": Account,
}

# What the person who decides sees, in Markdown.
PREVIEW = """
{{ ti.xcom_pull('plan')['summary'] }}

{% for row in ti.xcom_pull('trial')['sample']['preview'] %}
* **{{ row.key }}**: {{ row.error or row.text }}
{% endfor %}
"""
# [END approval]

if ApprovalOperator is not None:
    with DAG(
        dag_id="example_agentforce_enrichment_sample",
        description=__doc__,
        start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
        schedule=None,
        catchup=False,
        tags=["agentforce", "example"],
    ):
        # [START sample]
        plan = ConversationBatchOperator(
            task_id="plan",
            **QUESTION,
            result_path=f"file://{OUTPUT}/agentforce_plan/{{{{ run_id }}}}",
            dry_run=True,
            agreement_share=0.1,
            credits_per_message=20,
        )
        trial = ConversationBatchOperator(
            task_id="trial",
            **QUESTION,
            result_path=f"file://{OUTPUT}/agentforce_enrichment/{{{{ run_id }}}}",
            sample=Sample(6, by="country"),
        )
        approve = ApprovalOperator(
            task_id="approve",
            subject="Ask about {{ ti.xcom_pull('trial')['sample']['remaining'] }} more accounts?",
            body=PREVIEW,
            defaults="Reject",  # when no one decides
            response_timeout=timedelta(days=1),
        )
        rest = ConversationBatchOperator(
            task_id="rest",
            continue_from=trial.output,
            output_type=Account,  # a type cannot be kept in a file; everything else is taken from the trial
            agreement_share=0.1,
            min_agreement=0.8,
        )

        @task
        def publish(batch: dict) -> str:
            """Write the columns that other tasks need, and return the path."""
            table = ObjectStoragePath(batch["tables"]["csv"]).read_bytes().decode()
            path = OUTPUT / "agentforce_accounts_typed.csv"
            columns = [
                "id",
                "name",
                "country",
                "status",
                "result_industry",
                "result_risk",
                "result_employees",
            ]
            with path.open("w", newline="", encoding="utf-8") as file:
                wanted = csv.DictWriter(file, columns, extrasaction="ignore")
                wanted.writeheader()
                wanted.writerows(csv.DictReader(io.StringIO(table, newline="")))
            return str(path)

        plan >> trial >> approve >> rest
        publish(rest.output)
        # [END sample]
