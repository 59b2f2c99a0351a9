"""Records of the org in a task of one's own."""

from __future__ import annotations

from datetime import datetime, timezone

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

with DAG("docs_query", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None):
    # [START query]
    @task
    def owners() -> dict[str, str]:
        """Return the owner of each account."""
        from airflow_provider_agentforce.hooks.agentforce import AgentforceHook  # noqa: PLC0415

        soql = "SELECT Name, Owner.Username FROM Account WHERE NumberOfEmployees > 1000"
        return {record["Name"]: record["Owner"]["Username"] for record in AgentforceHook().query(soql)}

    # [END query]

    owners()

if __name__ == "__main__":
    print(owners.function())
