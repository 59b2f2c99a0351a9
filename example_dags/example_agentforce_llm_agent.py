"""A model asks an Agentforce agent: the agent is a tool of the model's task, and remembers what was said."""

# needs: apache-airflow-providers-common-ai>=1.0
from __future__ import annotations

from datetime import datetime, timezone

from airflow_provider_agentforce.hooks.agentforce import AgentforceHook

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

try:
    from airflow_provider_agentforce.toolsets import AgentforceToolset
except ImportError:
    AgentforceToolset = None  # Without the extra common-ai this file has no Dag.

if AgentforceToolset is not None:
    with DAG(
        dag_id="example_agentforce_llm_agent",
        description=__doc__,
        start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
        schedule=None,
        catchup=False,
        params={"order": "4711"},
        tags=["agentforce", "example"],
    ):
        # [START llm]
        orders = AgentforceToolset(
            AgentforceHook("agentforce_default").agent(),  # or .agent("Order_Agent")
            tool_name="ask_order_agent",
            description="Knows every order, and can refund one. It may ask a question; then answer it.",
            timeout=120,
        )

        @task.agent(
            llm_conn_id="pydanticai_default",  # a connection of the Common AI provider, with the model
            system_prompt="You check orders. Ask the order agent, and sum up what it says.",
            toolsets=[orders],
        )
        def look_into(params: dict) -> str:
            """Return what the model is asked."""
            return f"What happened to order {params['order']}?"

        look_into()
        # [END llm]
