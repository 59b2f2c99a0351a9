"""People in the loop: a person answers the agent's questions, and takes over what it escalates."""

# needs: apache-airflow>=3.3
# That is for "airflow dags test"; an Airflow with a triggerer runs it from 3.1 on.
from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.exceptions import AirflowOptionalProviderFeatureException

from airflow_provider_agentforce.operators import (
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
)

try:
    from airflow.providers.standard.operators.hitl import HITLBranchOperator, HITLEntryOperator
    from airflow.sdk import DAG, Param, task
except (ImportError, AirflowOptionalProviderFeatureException):
    HITLBranchOperator = None  # Airflow below 3.1 cannot ask people, so there this file has no Dag.

# The session waits as long as the person does, and Salesforce does not say how long a session may be idle.
# Users report 15 minutes.
ANSWER_WITHIN = timedelta(minutes=10)

if HITLBranchOperator is not None:
    with DAG(
        dag_id="example_agentforce_person",
        description=__doc__,
        start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
        schedule=None,
        catchup=False,
        params={"request": "Please refund order 4711."},
        tags=["agentforce", "example"],
    ):
        # [START person]
        start = StartSessionOperator(task_id="start")
        request = SendMessageOperator(task_id="request", session=start.output, text="{{ params.request }}")

        @task.branch
        def by_outcome(answer: dict) -> str:
            """Choose who acts next."""
            ways = {"needs_input": "ask", "needs_confirmation": "decide", "escalated": "hand_over"}
            return ways.get(answer["outcome"], "answered")

        # The agent asks a question: a person writes the next message.
        ask = HITLEntryOperator(
            task_id="ask",
            subject="The agent asks",
            body=request.output["text"],
            params={"answer": Param("", type="string", title="Your answer")},
            options=["Send"],  # without a default: when no one answers, nothing is sent
            response_timeout=ANSWER_WITHIN,
        )
        tell = SendMessageOperator(
            task_id="tell",
            session=request.output,
            text="{{ ti.xcom_pull('ask')['params_input']['answer'] }}",
        )

        # The agent wants to act: a person approves or declines. When no one decides, it is declined.
        decide = HITLBranchOperator(
            task_id="decide",
            subject="The agent asks for your approval",
            body=request.output["text"],
            options=["approve", "decline"],  # the tasks that follow
            defaults=["decline"],
            response_timeout=ANSWER_WITHIN,
        )
        approve = SendMessageOperator(task_id="approve", session=request.output, reply=request.output)
        decline = SendMessageOperator(task_id="decline", session=request.output, cancel=request.output)

        # The agent escalates: a person gets the case. That needs no session, so the end does not wait for it.
        hand_over = HITLEntryOperator(
            task_id="hand_over",
            subject="The agent hands over: {{ params.request }}",
            body=request.output["text"],
            params={"note": Param("", type="string", title="What you did")},
            options=["Taken over"],
        )

        @task
        def answered(answer: dict) -> str:
            """Use the answer."""
            return answer["text"]

        end = EndSessionOperator(task_id="end", session=start.output)

        way, use = by_outcome(request.output), answered(request.output)
        way >> ask >> tell
        way >> decide >> [approve, decline]
        way >> [hand_over, use]
        [tell, approve, decline, use] >> end.as_teardown(setups=start)
        # [END person]
