"""Agents as tools of an LLM agent. Needs the extra ``common-ai``.

``agentforce`` takes what a model wants to say to ``hooks``, which keeps a session for it, and gives the model
the agent's answer.
"""

from airflow_provider_agentforce.toolsets.agentforce import AgentforceToolset

__all__ = ["AgentforceToolset"]
