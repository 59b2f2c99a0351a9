"""One session shared by several tasks: start, sends, a rating, and the end, a teardown that always runs."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow_provider_agentforce.operators import (
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
    SubmitFeedbackOperator,
)

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG

with DAG(
    dag_id="example_agentforce_session",
    description=__doc__,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    catchup=False,
    tags=["agentforce", "example"],
):
    # [START session]
    start = StartSessionOperator(
        task_id="start",
        variables={"$Context.EndUserLanguage": "en_US"},
        tz="America/Los_Angeles",
    )
    # A send takes the output of the start, or of the send before it, which has the last message's number.
    first = SendMessageOperator(
        task_id="first", session=start.output, text="What do you know of account Acme?"
    )
    second = SendMessageOperator(
        task_id="second",
        session=first.output,
        text="You said: {{ ti.xcom_pull('first', key='text') }} Which orders are open? See order 4711.",
        stream=True,
    )
    rate = SubmitFeedbackOperator(task_id="rate", turn=second.output, feedback="GOOD", text="clear")
    end = EndSessionOperator(task_id="end", session=start.output)

    start >> first >> second >> rate >> end.as_teardown(setups=start)
    # [END session]
