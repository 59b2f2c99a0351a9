"""Finds agents by API name or id: the query, its results, and a cache of ids.

Query and records are those of Salesforce's own client, https://github.com/forcedotcom/agents; names as in
https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-agent-id.html.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.failure_catalogue import ACTIVATE
from airflow_provider_agentforce.client.single_flight import SingleFlight
from airflow_provider_agentforce.client.timing import Deadline
from airflow_provider_agentforce.exceptions import AgentforceInputError, AgentforceRequestError

log = logging.getLogger(__name__)

# An agent that is deleted and created again keeps its name and gets another id.
_KEPT_SECONDS = 600.0
_LOOK = (
    "Check the agent's {} in Setup > Agentforce Agents, that the connection is to the right org, and that "
    "the user (Run As, or username) may see the agent."
)


@dataclass(frozen=True)
class AgentInfo:
    """An agent of the org.

    :param agent_id: BotDefinition id (``0Xx…``).
    :param name: API name (DeveloperName).
    :param active: whether one of its versions is active.
    :param version: id of the active version, ``None`` without one.
    :param newest_version: id of the one that was published last.
    """

    agent_id: str
    name: str
    active: bool
    version: str | None = None
    newest_version: str | None = None


def query_for(agent: str) -> str:
    """Return the SOQL that finds *agent*, a checked id or API name: neither can hold a quote."""
    field = "Id" if validation.is_agent_id(agent) else "DeveloperName"
    versions = (
        "SELECT Id, Status, VersionNumber FROM BotVersions WHERE IsDeleted = false ORDER BY VersionNumber"
    )
    which = f"WHERE {field} = '{agent}' LIMIT 5"
    return f"SELECT Id, DeveloperName, ({versions}) FROM BotDefinition {which}"  # noqa: S608 - no quote in it


def parse_agents(records: Sequence[dict[str, Any]]) -> list[AgentInfo]:
    """Read the records that :func:`query_for` finds; other records are skipped."""
    found = [one for one in records if validation.is_agent_id(one.get("Id"))]
    return [_agent(one) for one in found]


def only_match(agent: str, found: Sequence[AgentInfo], host: str) -> AgentInfo:
    """Return the agent of a lookup.

    :param agent: its id or API name.
    :raises AgentforceInputError: if the org has none of that name, or several.
    :raises AgentforceRequestError: if it is not active.
    """
    if not found:
        by_id = validation.is_agent_id(agent)
        raise AgentforceInputError(
            f"agent_id: no agent of {host} has the {'id' if by_id else 'API name'} {agent}.",
            hint=_LOOK.format("id" if by_id else "API Name (not its label)"),
            operation="query",
        )
    if len(found) > 1:
        ids = ", ".join(one.agent_id for one in found)
        raise AgentforceInputError(
            f"agent_id: several agents of {host} have the API name {agent}.",
            hint=f"Give the id of the right one: {ids}.",
            operation="query",
        )
    if not found[0].active:
        raise AgentforceRequestError(
            f"agent_id: the agent {found[0].name} ({found[0].agent_id}) has no active version.",
            hint=ACTIVATE,
            operation="query",
        )
    return found[0]


def _agent(record: dict[str, Any]) -> AgentInfo:
    # A query omits the list of a record's children if there are none.
    found = record.get("BotVersions")
    records = found.get("records") if isinstance(found, dict) else None
    versions = [one for one in records if isinstance(one, dict)] if isinstance(records, list) else []
    active = [one.get("Id") for one in versions if one.get("Status") == "Active"]
    return AgentInfo(
        record["Id"],
        str(record.get("DeveloperName", "")),
        bool(active),
        active[-1] if active else None,
        versions[-1].get("Id") if versions else None,
    )


class AgentIds:
    """The known agents of one org, shared by all its clients in a process.

    An entry is valid for ten minutes, or until it is forgotten.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, float]] = {}
        self._flights: dict[str, SingleFlight[str]] = {}

    def id_of(self, agent: str, find: Callable[[], str], deadline: Deadline, *, longest: float) -> str:
        """Return the id of *agent*. Concurrent lookups of the same agent share one call and its failure.

        :param find: looks it up, or raises; nothing is cached then.
        :param longest: seconds to wait for another thread's lookup.
        """
        known = self._fresh(agent, deadline)
        if known is not None:
            return known

        def look_up() -> str:
            # Another thread may have found it since.
            known = self._fresh(agent, deadline)
            if known is not None:
                return known
            found = find()
            log.info("The agent %s has the id %s.", agent, found)
            self._known[agent] = (found, deadline.clock() + _KEPT_SECONDS)
            return found

        flight = self._flights.setdefault(agent, SingleFlight())
        return flight.share(look_up, deadline, longest=longest)

    def _fresh(self, agent: str, deadline: Deadline) -> str | None:
        agent_id, until = self._known.get(agent, ("", 0.0))
        return agent_id if deadline.clock() < until else None

    def forget(self, agent_id: str) -> None:
        """Forget the agent with this id, so that it is looked up again."""
        for name in [name for name, entry in list(self._known.items()) if entry[0] == agent_id]:
            self._known.pop(name, None)


class ActiveVersions:
    """The recently read active versions of one org's agents. All times are of the same clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str | None, float]] = {}

    def note(self, agents: Sequence[AgentInfo], until: float) -> None:
        """Store the result of a lookup, and until when it is valid."""
        for one in agents:
            self._seen[one.agent_id] = (one.version, until)

    def is_known(self, agent_id: str, now: float) -> bool:
        """Return whether the agent was looked up recently."""
        return now < self._seen.get(agent_id, (None, 0.0))[1]

    def of(self, agent_id: str, now: float) -> str | None:
        """Return the id of the active version, ``None`` without one or when it is not known."""
        return self._seen[agent_id][0] if self.is_known(agent_id, now) else None
