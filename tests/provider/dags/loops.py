"""Dags with loops for tests/provider/test_borders.py. There is none below Airflow 3.4."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
)

try:
    from airflow.sdk import DAG, LoopDecision, task_group
except ImportError:
    LoopDecision = None

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
AGAIN = {"retries": 2, "retry_delay": timedelta(0)}
FOLDER = f"file://{os.environ.get('AGENTFORCE_EXAMPLE_OUTPUT', '/nowhere')}"

if LoopDecision is not None:

    def looped(body):
        """Have the tasks of *body* in two iterations of a loop."""
        with DAG(body.__name__, start_date=BEGIN, schedule=None, default_args=AGAIN):
            task_group(body).loop(max_iterations=2)

    @looped
    def batch_in_a_loop():
        ConversationBatchOperator(
            task_id="batch",
            records=[{"q": "a"}, {"q": "b"}],
            message="{{ record.q }}",
            result_path=f"{FOLDER}/{{{{ loop.index }}}}",
        )

    @looped
    def batch_in_a_loop_with_one_folder():
        ConversationBatchOperator(
            task_id="batch", records=[{"q": "a"}], message="{{ record.q }}", result_path=f"{FOLDER}/one"
        )

    @looped
    def conversation_in_a_loop():
        ConversationOperator(task_id="talk", messages=["the same", "in each"])

    @looped
    def session_in_a_loop():
        start = StartSessionOperator(task_id="start")
        send = SendMessageOperator(task_id="send", session=start.output, text="the same")
        EndSessionOperator(task_id="end", session=send.output)

    def fail_once(context, _result):
        """Fail a first try whose answer is recorded."""
        if context["ti"].try_number == 1:
            raise RuntimeError("the first try")

    @looped
    def retries_in_a_loop():
        ConversationOperator(task_id="talk", messages=["the same"], post_execute=fail_once)
