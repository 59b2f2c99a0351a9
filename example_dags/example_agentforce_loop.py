"""Ask in other words until the agent has an answer: a loop of conversations."""

# needs: apache-airflow>=3.4.0b1
from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from airflow_provider_agentforce.operators import ConversationOperator

try:
    from airflow.sdk import DAG, LoopDecision, task, task_group
except ImportError:
    LoopDecision = None  # Airflow below 3.4 has no loops, so there this file has no Dag.

if LoopDecision is not None:
    with DAG(
        dag_id="example_agentforce_loop",
        description=__doc__,
        start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
        schedule=None,
        catchup=False,
        params={
            "wordings": [
                "Which order is missing?",
                "Order 4711 was paid and did not arrive. What is its status?",
                "What is the status of order 4711?",
            ]
        },
        tags=["agentforce", "example"],
    ):
        # [START loop]
        @task_group
        def attempts() -> None:
            """Ask once, in a session that ends with this iteration."""
            ConversationOperator(task_id="ask", messages=["{{ params.wordings[loop.index] }}"])

        def answered(*, loop: Any) -> LoopDecision:
            """Continue while the agent asks a question."""
            outcome = loop.result["outcome"]
            return LoopDecision(stop=outcome == "answered", reason=f"outcome: {outcome}")

        @task
        def use(ti: Any) -> str:
            """Use the last answer; the value of a loop's task is a list, with one item per iteration."""
            return ti.xcom_pull("attempts.ask")[-1]["text"]

        # If the last wording has no answer, either, the loop fails.
        attempts.loop(max_iterations=3, until=answered) >> use()
        # [END loop]
