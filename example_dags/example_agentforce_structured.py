"""An answer as data: the agent is asked for JSON, and its answer has to fit a type."""

from __future__ import annotations

from datetime import datetime, timezone

from pydantic import BaseModel

from airflow_provider_agentforce.operators import ConversationOperator

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task


# [START type]
class Order(BaseModel):
    """What the agent answers about an order."""

    order: str
    status: str
    items: int


# [END type]

with DAG(
    dag_id="example_agentforce_structured",
    description=__doc__,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    catchup=False,
    tags=["agentforce", "example"],
):
    # [START structured]
    ask = ConversationOperator(
        task_id="ask",
        messages=["Give me order 4711 as JSON with the keys order, status and items."],
        output_type=Order,
    )

    @task
    def use(order: dict) -> str:
        """Work with the data: the keys are there, and items is a number."""
        return f"Order {order['order']} {order['status']}, parcels needed: {1 + order['items'] // 5}"

    use(ask.output["result"])
    # [END structured]
