"""The client of a trigger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_agentforce._compat import beside_loop

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient


async def client_of(conn_id: str) -> AgentforceClient:
    """Return the client of a connection. Reading the connection and importing the client's libraries may
    block, so both happen in a thread.

    :raises AgentforceInputError: if the connection cannot be used.
    """
    return await beside_loop(_plain_client, conn_id)


def _plain_client(conn_id: str) -> AgentforceClient:
    from airflow_provider_agentforce.hooks.agentforce import AgentforceHook  # noqa: PLC0415 - imported in a thread

    return AgentforceHook(conn_id).plain_client
