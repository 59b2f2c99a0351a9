"""Looks up agents, and remembers the ids of those that tasks know by their API name.

One query serves all clients and threads of a process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from airflow_provider_agentforce.client import agents, calls, checks
from airflow_provider_agentforce.client.agents import Agent
from airflow_provider_agentforce.client.calling import Caller
from airflow_provider_agentforce.client.calls import Operation
from airflow_provider_agentforce.client.jobs import Job

log = logging.getLogger(__name__)

# An agent that is deleted and made anew keeps its name and gets another id.
_KEPT_SECONDS = 600.0


class Directory:
    """The ids of one org's agents by API name. An entry serves for ten minutes, or until it is forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: dict[str, tuple[str, float]] = {}

    def id_of(self, name: str, find: Callable[[], str]) -> str:
        """Return the id of the agent with *name*.

        :param find: looks it up, or raises, and then nothing is kept; one thread at a time does.
        """
        known = self._known(name)
        if known is not None:
            return known
        with self._lock:
            known = self._known(name)
            if known is not None:
                return known
            found = find()
            log.info("The agent %s has the id %s.", name, found)
            self._ids = {**self._ids, name: (found, time.monotonic() + _KEPT_SECONDS)}
            return found

    def forget(self, agent_id: str) -> None:
        """Have the agent's name looked up anew next time."""
        # Takes no lock, as that is held during a query; an entry that is lost is looked up again.
        self._ids = {name: entry for name, entry in self._ids.items() if entry[0] != agent_id}

    def _known(self, name: str) -> str | None:
        agent_id, until = self._ids.get(name, ("", 0.0))
        return agent_id if time.monotonic() < until else None


def id_of(caller: Caller, directory: Directory, agent: str) -> str:
    """Return the id of *agent*, a checked id or API name.

    :raises AgentforceError: as :func:`agents.the_one`, and as the query.
    """
    if checks.is_agent_id(agent):
        return agent
    host = caller.settings.host
    return directory.id_of(agent, lambda: agents.the_one(agent, find(caller, agent), host).agent_id)


def find(caller: Caller, agent: str) -> list[Agent]:
    """Ask the org for the agents with this checked id or API name.

    :raises AgentforceError: the org gives no answer.
    """
    call = calls.query(caller.settings.host, agents.query_for(agent))
    job = Job(
        Operation.QUERY,
        build=lambda _api, _job: call,
        parse=lambda exchange: agents.read(exchange.body),
    )
    found: list[Agent] = caller.perform(job).value
    return found
