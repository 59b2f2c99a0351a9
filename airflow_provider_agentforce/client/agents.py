"""Finds agents by API name or id: the query, and what its answer means. Pure.

Query and records are those of Salesforce's own client, https://github.com/forcedotcom/agents; names as in
https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-agent-id.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_agentforce.client import checks, hints
from airflow_provider_agentforce.client.responses import UnreadableReplyError, decode_object
from airflow_provider_agentforce.exceptions import AgentforceInputError, AgentforceRequestError

_LOOK = (
    "Check the agent's API Name (not its label) in its builder, that the connection is to the right org, and "
    "that the Run As user may see the agent."
)


@dataclass(frozen=True)
class Agent:
    """An agent of the org.

    :param agent_id: BotDefinition id (``0Xx…``).
    :param name: API name (DeveloperName).
    :param active: whether one of its versions is active.
    """

    agent_id: str
    name: str
    active: bool


def query_for(agent: str) -> str:
    """Return the SOQL that finds *agent*, a checked id or API name: neither can hold a quote."""
    field = "Id" if checks.is_agent_id(agent) else "DeveloperName"
    versions = (
        "SELECT Id, Status, VersionNumber FROM BotVersions WHERE IsDeleted = false ORDER BY VersionNumber"
    )
    which = f"WHERE {field} = '{agent}' LIMIT 5"
    return f"SELECT Id, DeveloperName, ({versions}) FROM BotDefinition {which}"  # noqa: S608 - no quote in it


def read(body: bytes) -> list[Agent]:
    """Read the answer to :func:`query_for`.

    :raises UnreadableReplyError: if it is none.
    """
    records = decode_object(body).get("records")
    if not isinstance(records, list) or not all(map(_is_agent, records)):
        raise UnreadableReplyError("a JSON object without records of agents")
    return [Agent(one["Id"], str(one.get("DeveloperName", "")), _is_active(one)) for one in records]


def the_one(agent: str, found: Sequence[Agent], host: str) -> Agent:
    """Return the agent that was looked for.

    :param agent: its id or API name.
    :raises AgentforceInputError: if the org has none of that name, or several.
    :raises AgentforceRequestError: if it is not active.
    """
    if not found:
        what = "id" if checks.is_agent_id(agent) else "API name"
        raise AgentforceInputError(
            f"agent_id: no agent of {host} has the {what} {agent}.", hint=_LOOK, operation="query"
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
            hint=hints.ACTIVATE,
            operation="query",
        )
    return found[0]


def _is_agent(record: Any) -> bool:
    return isinstance(record, dict) and checks.is_agent_id(record.get("Id"))


def _is_active(record: dict[str, Any]) -> bool:
    # A query leaves out the list of a record's children when there are none.
    versions = (record.get("BotVersions") or {}).get("records") or []
    return any(version.get("Status") == "Active" for version in versions)
