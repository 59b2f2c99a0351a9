"""Let functions write the messages: one conversation per order, each written when the order is known."""

from __future__ import annotations

from datetime import datetime, timezone

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

with DAG(
    dag_id="example_agentforce_decorator",
    description=__doc__,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    catchup=False,
    tags=["agentforce", "example"],
    params={"language": "en_US"},
):
    # [START decorator]
    @task
    def late_orders() -> list[dict]:
        """Return the orders to ask about; a real Dag reads them from somewhere."""
        return [{"id": 4711, "customer": "Acme"}, {"id": 4712, "customer": "Globex"}]

    @task.agentforce(
        variables={"$Context.EndUserLanguage": "{{ params.language }}"},
        max_active_tis_per_dag=10,
        map_index_template="{{ task.op_kwargs['order']['customer'] }}",
    )
    def ask(order: dict) -> list[str]:
        """Return the messages of the conversation about one order."""
        return [
            f"What is the status of order {order['id']}?",
            f"Write two sentences to {order['customer']} about it.",
        ]

    @task
    def collect(answers: list[dict]) -> list[str]:
        """Use the last answer of each conversation."""
        return [answer["text"] for answer in answers]

    collect(ask.expand(order=late_orders()))
    # [END decorator]
