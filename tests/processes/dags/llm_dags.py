"""Tasks of a model that asks an Agentforce agent, to be ended while it waits for the answer."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG

if sys.version_info >= (3, 11):  # as the Common AI provider needs
    from airflow.providers.common.ai.operators.agent import AgentOperator
    from airflow.providers.common.ai.toolsets import ManagedAgentToolset

    from airflow_provider_agentforce.hooks.agentforce import AgentforceHook
    from airflow_provider_agentforce.toolsets import AgentforceToolset

    AGENT = AgentforceHook().agent()

    for dag_id, toolset in {"llm_asks": ManagedAgentToolset, "llm_talks": AgentforceToolset}.items():
        for suffix, limit in {"": None, "_in_time": timedelta(seconds=15)}.items():
            with DAG(dag_id + suffix, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None):
                AgentOperator(
                    task_id="think",
                    prompt="Ask.",
                    llm_conn_id="llm",
                    toolsets=[toolset(AGENT, tool_name="ask")],
                    execution_timeout=limit,
                )
