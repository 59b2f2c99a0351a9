"""The Agent API in Python. Imports no Airflow, and ``requests`` only when the client is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.client.models import OUTCOMES, Session, Turn
from airflow_provider_agentforce.client.settings import Settings

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient
    from airflow_provider_agentforce.client.open_session import Conversation

__all__ = ["OUTCOMES", "AgentforceClient", "Conversation", "Session", "Settings", "Turn"]


def __getattr__(name: str) -> Any:
    if name == "AgentforceClient":
        from airflow_provider_agentforce.client.client import AgentforceClient  # noqa: PLC0415

        return AgentforceClient
    if name == "Conversation":
        from airflow_provider_agentforce.client.open_session import Conversation  # noqa: PLC0415

        return Conversation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
