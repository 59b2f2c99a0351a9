"""The little SOQL that finds an agent by its name or id.

Source of query and record shape: https://github.com/forcedotcom/agents (``BotDefinition``, ``BotVersions``).
Error bodies are the list of ``message`` and ``errorCode`` with which the data API answers.
"""

from __future__ import annotations

import re
from typing import Any

from airflow_provider_agentforce.emulator.app import OrgRequest, json_response
from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.models import Agent, salesforce_id
from airflow_provider_agentforce.emulator.server import OrgResponse

_QUERY = re.compile(
    r"^\s*SELECT\s+(?P<fields>.+)\s+FROM\s+(?P<type>\w+)\b(?P<rest>[^()]*)$", re.IGNORECASE | re.DOTALL
)
_SUBQUERY = re.compile(r"\([^()]*\)")
_NAME = re.compile(r"\bDeveloperName\s*=\s*'(?P<name>(?:[^'\\]|\\.)*)'", re.IGNORECASE)
_ID = re.compile(r"\bId\s*=\s*'(?P<id>\w+)'", re.IGNORECASE)
_ESCAPE = re.compile(r"\\(.)")


async def query(request: OrgRequest) -> OrgResponse:
    """Answer ``GET /services/data/v{version}/query``. Any valid token will do here, opaque ones too."""
    request.authorize("rest_session_expired")
    agents, names = _select(request.query.get("q", ""), request.org.agents)
    await request.wait_while_held()
    version = request.params["version"]
    records = [_record(agent, names, version=version) for agent in agents]
    return json_response({"totalSize": len(records), "done": True, "records": records})


def _select(soql: str, agents: list[Agent]) -> tuple[list[Agent], list[str]]:
    """Return the agents a query asks for, and the names of the wanted fields."""
    parts = _QUERY.match(soql)
    if parts is None:
        raise ApiError("rest_malformed_query", detail="unexpected token in the query")
    if parts["type"].lower() != "botdefinition":
        raise ApiError("rest_invalid_type", detail=f"sObject type '{parts['type']}' is not supported.")
    plain = [name.strip() for name in _SUBQUERY.sub("", parts["fields"]).split(",") if name.strip()]
    names = [*plain, *(["BotVersions"] if _SUBQUERY.search(parts["fields"]) else [])]
    return [agent for agent in agents if _is_wanted(agent, parts["rest"])], names


def _is_wanted(agent: Agent, conditions: str) -> bool:
    name = _NAME.search(conditions)
    if name is not None:
        return agent.developer_name.lower() == _ESCAPE.sub(r"\1", name["name"]).lower()
    record_id = _ID.search(conditions)
    # The short form of an id names the same record.
    return record_id is None or agent.id[:15] == record_id["id"][:15]


def _record(agent: Agent, names: list[str], *, version: str) -> dict[str, Any]:
    path = f"/services/data/v{version}/sobjects"
    known = _fields(agent, path)
    record: dict[str, Any] = {
        "attributes": {"type": "BotDefinition", "url": f"{path}/BotDefinition/{agent.id}"},
    }
    for name in names:
        if name not in known:
            raise ApiError("rest_invalid_field", detail=f"No such column '{name}' on entity 'BotDefinition'.")
        record[name] = known[name]
    return record


def _fields(agent: Agent, path: str) -> dict[str, Any]:
    version_id = salesforce_id("0X9" + agent.id[3:15])
    version = {
        "attributes": {"type": "BotVersion", "url": f"{path}/BotVersion/{version_id}"},
        "Id": version_id,
        "Status": "Active" if agent.active else "Inactive",
        "VersionNumber": 1,
    }
    return {
        "Id": agent.id,
        "DeveloperName": agent.developer_name,
        "MasterLabel": agent.label,
        "BotUserId": None if agent.employee else salesforce_id("005" + agent.id[3:15]),
        "Type": "InternalCopilot" if agent.employee else "ExternalCopilot",
        "AgentType": "AgentforceEmployeeAgent" if agent.employee else "EinsteinServiceAgent",
        "AgentTemplate": None,
        "BotVersions": {"totalSize": 1, "done": True, "records": [version]},
    }
