"""The data API of the org: its versions, its few records, and queries of them.

Sources: https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/intro_rest.htm, and
https://github.com/forcedotcom/agents for the fields of ``BotDefinition`` and ``BotVersion``. Error bodies are
the list of ``message`` and ``errorCode`` with which the data API answers.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_agentforce.emulator import soql
from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.exchange import OrgRequest, OrgResponse, json_response
from airflow_provider_agentforce.emulator.models import ORG_ID, USERNAME, Agent, salesforce_id, user_id_of

# From the one in which the Testing API begins to the newest of 2026, the first whose SOAP calls take a JWT.
_VERSIONS = {
    63: "Spring '25",
    64: "Summer '25",
    65: "Winter '26",
    66: "Spring '26",
    67: "Summer '26",
    68: "Winter '27",
}
_CREATED = "2026-01-05T09:00:00.000+0000"


async def versions(_request: OrgRequest) -> OrgResponse:
    """Answer ``GET /services/data``, which needs no token."""
    return json_response(
        [
            {"label": label, "url": f"/services/data/v{number}.0", "version": f"{number}.0"}
            for number, label in _VERSIONS.items()
        ]
    )


async def resources(request: OrgRequest) -> OrgResponse:
    """Answer ``GET /services/data/v{version}``: where this version has what."""
    request.authorize("rest_session_expired")
    names = ("query", "sobjects")
    return json_response({name: f"{request.record.path}/{name}" for name in names})


async def query(request: OrgRequest) -> OrgResponse:
    """Answer ``GET /services/data/v{version}/query``. Any valid token will do here, opaque ones too."""
    request.authorize("rest_session_expired")
    found = soql.select(request.query.get("q", ""), _tables(request))
    await request.wait_while_held()
    if request.query.get("columns") == "true":
        return json_response({"columnMetadata": _columns(found[0]) if found else []})
    return json_response(soql.page(found))


def _columns(record: soql.Record) -> list[dict[str, Any]]:
    """Describe the fields of a record that a query found, those of its parent and of its children too."""
    columns = []
    for name, value in record.items():
        if name == "attributes":
            continue
        joined = value if isinstance(value, dict) else {}
        children = "records" in joined
        columns.append(
            {
                "columnName": name,
                "displayName": name,
                "aggregate": children,
                "joinColumns": _columns(joined["records"][0] if children else joined),
            }
        )
    return columns


async def record(request: OrgRequest) -> OrgResponse:
    """Answer ``GET /services/data/v{version}/sobjects/{type}/{id}``: one record with every field."""
    request.authorize("rest_session_expired")
    table = _tables(request).get(request.params["type"], [])
    found = next((one for one in table if one["Id"][:15] == request.params["id"][:15]), None)
    if found is None:
        raise ApiError("rest_not_found")
    plain = {key: value for key, value in found.items() if not isinstance(value, (dict, list))}
    return json_response({"attributes": found["attributes"], **plain})


def _tables(request: OrgRequest) -> dict[str, list[soql.Record]]:
    """Return every record that the org knows, by type."""
    path = f"/services/data/v{request.params['version']}/sobjects"
    agents = [_agent(agent, path) for agent in request.org.agents]
    return {
        "BotDefinition": agents,
        "BotVersion": [version for agent in agents for version in agent["BotVersions"]],
        "User": [_user(name, path) for name in dict.fromkeys((USERNAME, *request.org.owners.values()))],
        "Organization": [_record("Organization", ORG_ID, path, Name="Emulator", IsSandbox=False)],
        "ExternalClientApplication": [
            _record("ExternalClientApplication", salesforce_id("0xIEM0000000001"), path, **_names("Emulator"))
        ],
    }


def _user(username: str, path: str) -> soql.Record:
    name = username.partition("@")[0]
    return _record("User", user_id_of(username), path, Username=username, Name=name, IsActive=True)


def _record(kind: str, record_id: str, path: str, **fields: Any) -> soql.Record:
    return {
        "attributes": {"type": kind, "url": f"{path}/{kind}/{record_id}"},
        "Id": record_id,
        "IsDeleted": False,
        "CreatedDate": _CREATED,
        "CreatedById": user_id_of(USERNAME),
        "LastModifiedDate": _CREATED,
        "LastModifiedById": user_id_of(USERNAME),
        "SystemModstamp": _CREATED,
        **fields,
    }


def _names(developer_name: str, label: str = "") -> dict[str, str]:
    return {"DeveloperName": developer_name, "MasterLabel": label or developer_name}


def _agent(agent: Agent, path: str) -> soql.Record:
    definition = _record(
        "BotDefinition",
        agent.id,
        path,
        **_names(agent.developer_name, agent.label),
        Description=None,
        BotUserId=None if agent.employee else salesforce_id("005" + agent.id[3:15]),
        Type="InternalCopilot" if agent.employee else "ExternalCopilot",
        AgentType="AgentforceEmployeeAgent" if agent.employee else "EinsteinServiceAgent",
        AgentTemplate=None,
    )
    versions = [_version(agent, number, definition, path) for number in range(1, agent.version + 1)]
    return {**definition, "BotVersions": versions}


def _version(agent: Agent, number: int, definition: soql.Record, path: str) -> soql.Record:
    record_id = agent.id[3:15] if number == 1 else f"{agent.id[3:12]}{number:03}"
    return _record(
        "BotVersion",
        salesforce_id("0X9" + record_id),
        path,
        **_names(f"v{number}"),
        Status="Active" if agent.active and number == agent.version else "Inactive",
        VersionNumber=number,
        BotDefinitionId=agent.id,
        BotDefinition=definition,
        CopilotPrimaryLanguage="en_US",
        CopilotSecondaryLanguages=None,
        ToneType="Neutral",
    )
