"""The state that all clients of an org share in a process: its limits, and the agents looked up so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_agentforce.client.agent_lookup import ActiveVersions, AgentIds
from airflow_provider_agentforce.client.concurrency_limiter import ConcurrencyLimiter
from airflow_provider_agentforce.client.settings import Settings

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.limits_store import LimitsStore


class OrgState:
    """The known state of one org.

    :param limits: the store of the limits for all processes; ``None``: this process keeps them itself.
    :ivar limits: the same; all its clients count in this one store.
    :ivar limiter: its open sessions and recent starts, and how many it accepts.
    :ivar agent_ids: the ids of its agents by API name.
    :ivar agent_versions: their active versions.
    """

    def __init__(self, limits: LimitsStore | None = None) -> None:
        self.limits = limits
        self.limiter = ConcurrencyLimiter() if limits is None else _shared(limits)
        self.agent_ids = AgentIds()
        self.agent_versions = ActiveVersions()


def _shared(limits: LimitsStore) -> ConcurrencyLimiter:
    from airflow_provider_agentforce.client.shared_limiter import SharedLimiter  # noqa: PLC0415 - needs an extra

    return SharedLimiter(limits)


_states: dict[tuple[str, ...], OrgState] = {}


def state_of(settings: Settings, limits: LimitsStore | None = None) -> OrgState:
    """Return the state that all clients with this host, consumer key and store of limits share."""
    key = (settings.host, settings.consumer_key, "" if limits is None else limits.name)
    known = _states.get(key)
    # If two threads make a state, the first one's is kept.
    return known or _states.setdefault(key, OrgState(limits))


def forget_orgs() -> None:
    """Forget all orgs, as a new process would. For tests."""
    _states.clear()
