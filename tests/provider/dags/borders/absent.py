"""Sessions and connections that are not there."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

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

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
AGAIN = {"retries": 2, "retry_delay": timedelta(0)}


@task
def nothing():
    return None


with DAG("nothing_to_send_in", start_date=BEGIN, schedule=None, default_args=AGAIN):
    SendMessageOperator(task_id="ask", session=nothing(), text="hello")

with DAG("nothing_to_end", start_date=BEGIN, schedule=None, default_args=AGAIN):
    EndSessionOperator(task_id="end", session=nothing())

with DAG("nothing_by_template", start_date=BEGIN, schedule=None, default_args=AGAIN):
    nothing() >> EndSessionOperator(task_id="end", session_id="{{ ti.xcom_pull('nothing') }}")

with DAG("send_by_a_broken_template", start_date=BEGIN, schedule=None, default_args=AGAIN):
    broken = "{{{{ ti.xcom_pull('nothing')['{}'] }}}}"
    nothing() >> SendMessageOperator(
        task_id="ask",
        text="hello",
        session_id=broken.format("session_id"),
        sequence_id=broken.format("sequence_id"),
    )

with DAG("no_connection", start_date=BEGIN, schedule=None, default_args=AGAIN):
    StartSessionOperator(task_id="ask", agentforce_conn_id="typo")
