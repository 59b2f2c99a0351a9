"""What all clients of one org share in a process: its limits, and the agents that were looked up."""

from __future__ import annotations

from airflow_provider_agentforce.client.agent_lookup import AgentIds
from airflow_provider_agentforce.client.concurrency_limiter import ConcurrencyLimiter
from airflow_provider_agentforce.client.settings import Settings


class OrgState:
    """What is known of one org.

    :ivar limiter: its open sessions and recent starts, and how many it accepts.
    :ivar agent_ids: the ids of its agents by API name.
    """

    def __init__(self) -> None:
        self.limiter = ConcurrencyLimiter()
        self.agent_ids = AgentIds()


_states: dict[tuple[str, str], OrgState] = {}


def state_of(settings: Settings) -> OrgState:
    """Return the state that all clients with this host and consumer key share."""
    return _states.setdefault((settings.host, settings.consumer_key), OrgState())


def forget_orgs() -> None:
    """Forget all orgs, as a new process would. For tests."""
    _states.clear()
