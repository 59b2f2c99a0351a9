"""The Agent API in Python. Imports no Airflow, and ``requests`` only when the client is used.

An ``OpenSession`` numbers the messages of a session and gives each to the ``AgentforceClient``, which makes
an ``ApiRequest`` of it. The ``RequestExecutor`` makes attempts at it, as many as ``delivery_policy``
allows, over ``transport/``; the request's own reader makes a ``Turn`` of the answer, or an error of
``exceptions``. The same executor serves what surrounds the agent: ``agent_tests``, ``records`` (queries and
writes), ``session_trace`` and ``plans``. Limits are those of this process (``concurrency_limiter``) or,
with ``limits_store``, of all that share a Redis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.client.models import OUTCOMES, Session, Turn

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient
    from airflow_provider_agentforce.client.messages import Cancel, Reply, Transfer
    from airflow_provider_agentforce.client.open_session import Conversation
    from airflow_provider_agentforce.client.settings import Settings

__all__ = [
    "OUTCOMES",
    "AgentforceClient",
    "Cancel",
    "Conversation",
    "Reply",
    "Session",
    "Settings",
    "Transfer",
    "Turn",
]

# What is imported when it is used: most Dag files are only parsed.
_MODULES = {
    "AgentforceClient": "client",
    "Cancel": "messages",
    "Conversation": "open_session",
    "Reply": "messages",
    "Settings": "settings",
    "Transfer": "messages",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
