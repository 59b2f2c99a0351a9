"""The Redis connection that a connection's ``limits_conn_id`` names, as a place for the org's limits."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import AirflowNotFoundException
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceInputError,
    AgentforceTransientError,
    shown,
)

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.limits_store import LimitsStore
    from airflow_provider_agentforce.client.settings import Settings


def limits_store(settings: Settings) -> LimitsStore | None:
    """Return the store of the org's limits for all workers, ``None`` if each process keeps them by itself.

    :raises AgentforceInputError: if the connection does not exist or cannot be used, or the extra is missing.
    """
    store = _store(settings)
    if store is not None:
        with suppress(AgentforceTransientError):  # A task can go on without it.
            store.check()
    return store


def limits_problem(settings: Settings) -> AgentforceError | None:
    """Return why the store cannot be used now, ``None`` if it can or there is none."""
    try:
        store = _store(settings)
        if store is not None:
            with closing(store):
                store.check()
    except AgentforceError as error:
        return error
    return None


def _store(settings: Settings) -> LimitsStore | None:
    if settings.limits_conn_id is None:
        return None
    try:
        from airflow.providers.redis.hooks.redis import RedisHook  # noqa: PLC0415 - an extra
        from redis.exceptions import RedisError  # noqa: PLC0415

        from airflow_provider_agentforce.client.limits_store import LimitsStore  # noqa: PLC0415
    except ImportError as error:
        raise AgentforceInputError(
            "limits_conn_id needs Airflow's Redis provider: pip install 'airflow-provider-agentforce[redis]'."
        ) from error
    try:
        hook: Any = RedisHook(settings.limits_conn_id)  # without types
        _check(hook.get_connection(settings.limits_conn_id))
        client = hook.get_conn()
    except AirflowNotFoundException:
        raise AgentforceInputError(
            f"limits_conn_id: the connection {settings.limits_conn_id!r} does not exist."
        ) from None
    except (ValueError, TypeError, RedisError) as error:
        raise AgentforceInputError(
            f"limits_conn_id: the connection {settings.limits_conn_id!r} cannot be used: {error!s:.200}"
        ) from None
    return LimitsStore(
        client,
        f"{settings.host}\n{settings.consumer_key}",
        name=settings.limits_conn_id,
        # Airflow puts the id of the Dag into a task's environment. The sessions of a Dag count together.
        group=os.environ.get("AIRFLOW_CTX_DAG_ID", ""),
    )


def _check(connection: Any) -> None:
    """Refuse what Airflow's Redis provider would ignore, or what cannot keep limits.

    :raises ValueError: with the reason.
    """
    extra, database = connection.extra_dejson, connection.schema
    if extra.get("cluster"):
        raise ValueError("A Redis cluster is not supported. Use a single Redis, with or without replicas.")
    if not connection.host or not connection.port:
        raise ValueError("It needs a host and a port.")
    if connection.conn_type == "rediss" and not extra.get("ssl"):
        raise ValueError("The scheme rediss does not turn on TLS. Use redis, and set the extra ssl.")
    if database and database != str(extra.get("db", 0)):
        raise ValueError(f"Its path {shown(database)} does not select a database. Set the extra db.")
