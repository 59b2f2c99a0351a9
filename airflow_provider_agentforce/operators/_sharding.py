"""Divides a batch among several tasks with Airflow's own mapping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.operators._paths import path_of

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.shard import Shard
    from airflow_provider_agentforce.client.client import AgentforceClient


def shards(n: int) -> list[str]:
    """Return the shards of a batch, to map its task over: ``.expand(shard=shards(5))``.

    Each task asks the records of its shard, writes to its own folder inside ``result_path``, and takes its
    share of the connection's limits.

    :param n: the number of tasks, at most the connection's ``max_concurrent_sessions``.
    :returns: ``["0/5", "1/5", …]``.
    :raises AgentforceInputError: if *n* is not a whole number from 1.
    """
    from airflow_provider_agentforce.batch.shard import Shard  # noqa: PLC0415 - not at parse time

    of = validation.count(n, "shards")
    return [str(Shard(number, of)) for number in range(of)]


def merge_shards(manifests: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the results of all shards of a batch. For a ``@task`` after the mapped batch.

    Writes ``results.jsonl``, the tables, the dead letter and ``agreement.jsonl`` to ``result_path``, which
    contains the folders of the shards. The rows are in the order of the shards, and within a shard in the
    order of the input. Calling it again writes the same files again.

    :param manifests: the output of the mapped :class:`ConversationBatchOperator`.
    :returns: the manifest of the whole batch, like that of a batch without shards.
    :raises AgentforceInputError: if a shard is missing, or they are not of one batch.
    :raises LedgerError: if a file cannot be read or written.
    """
    from airflow_provider_agentforce.batch.merging import merge  # noqa: PLC0415 - not at parse time
    from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415

    with airflow_errors():
        return merge(manifests, lambda uri: path_of(uri, "result_path"))


def with_share(client: AgentforceClient, shard: Shard) -> AgentforceClient:
    """Return a client with the shard's share of the connection's limits, unless a store shares them.

    :raises AgentforceInputError: if there are more shards than the limits allow sessions.
    """
    settings = client.settings
    shares = {
        name: shard.share(getattr(settings, name), f"the connection's {name}")
        for name in ("max_concurrent_sessions", "max_sessions_per_hour")
    }
    if settings.limits_conn_id is None:
        return client.limited_to(**shares)
    client.limiter.expect(shard.of)
    return client


def share_of(limit: int | None, shard: Shard | None, field: str) -> int | None:
    """Return the shard's share of an argument that applies to all shards together."""
    return limit if limit is None or shard is None else shard.share(limit, field)


def folder_of(folder: Any, shard: Shard | None) -> Any:
    """Return the path object of the task's folder.

    :param folder: path object of the batch's folder.
    """
    return folder if shard is None else folder / shard.folder
