"""Tasks of a model that asks Agentforce agents. The model is pydantic-ai's: it calls every tool once."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.providers.common.ai.managed_agents.failover import FailoverManagedAgentClient
from airflow.providers.common.ai.operators.agent import AgentOperator
from airflow.providers.common.ai.toolsets import ManagedAgentToolset
from airflow.sdk import DAG

from airflow_provider_agentforce.hooks.agentforce import AgentforceHook
from airflow_provider_agentforce.toolsets import AgentforceToolset

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
AGENT = AgentforceHook().agent()
GROUP = FailoverManagedAgentClient([AGENT, AgentforceHook("agentforce_standby").agent()])

RETRIES = {"retries": 2, "retry_delay": timedelta(seconds=0)}

for name, toolset in {
    "llm_talks": AgentforceToolset(AGENT, tool_name="ask"),
    "llm_asks_a_group": ManagedAgentToolset(GROUP, tool_name="ask"),
}.items():
    with DAG(name, start_date=BEGIN, schedule=None):
        AgentOperator(task_id="think", prompt="Ask.", llm_conn_id="llm", toolsets=[toolset], **RETRIES)
