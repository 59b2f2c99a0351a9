"""The data API of the org: its versions, queries of its records, and writes to them.

Sources: https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/intro_rest.htm, and
https://github.com/forcedotcom/agents for the fields of ``BotDefinition`` and ``BotVersion``. Error bodies are
lists of ``message`` and ``errorCode``, like those of the data API.
"""

from __future__ import annotations

import re
from typing import Any

from airflow_provider_agentforce.emulator import soql
from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.exchange import OrgRequest, OrgResponse, json_response
from airflow_provider_agentforce.emulator.models import ORG_ID, USERNAME, Agent, salesforce_id, user_id_of
from airflow_provider_agentforce.emulator.sobjects import SObjectField

# From the first one with the Testing API to the newest of 2026, the first whose SOAP calls accept a JWT.
_VERSIONS = {
    63: "Spring '25",
    64: "Summer '25",
    65: "Winter '26",
    66: "Spring '26",
    67: "Summer '26",
    68: "Winter '27",
}
_LOCATOR = "01gEM00000"
_BATCH_SIZE = re.compile(r"batchSize=(\d{1,6})")
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
    """Answer ``GET /services/data/v{version}``: the resources of this version."""
    request.authorize("rest_session_expired")
    names = ("query", "sobjects")
    return json_response({name: f"{request.record.path}/{name}" for name in names})


async def query(request: OrgRequest) -> OrgResponse:
    """Answer ``GET /services/data/v{version}/query``. Any valid token is accepted here, including opaque
    ones.
    """
    request.authorize("rest_session_expired")
    found = soql.select(request.query.get("q", ""), _tables(request))
    await request.wait_while_held()
    if request.query.get("columns") == "true":
        return json_response({"columnMetadata": _columns(found.records[0]) if found.records else []})
    return _page(request, f"{len(request.org.cursors):05d}", found, 0)


async def query_more(request: OrgRequest) -> OrgResponse:
    """Answer ``GET /services/data/v{version}/query/{locator}``: the next page of a query."""
    request.authorize("rest_session_expired")
    cursor, _, begin = request.params["locator"].rpartition("-")
    found = request.org.cursors.get(cursor.removeprefix(_LOCATOR))
    if found is None or not begin.isdigit():
        raise ApiError("rest_query_locator")
    await request.wait_while_held()
    return _page(request, cursor.removeprefix(_LOCATOR), found, int(begin))


def _page(request: OrgRequest, cursor: str, found: soql.QueryResult, begin: int) -> OrgResponse:
    """Return the records from *begin* on, and the address of the next ones."""
    asked = _BATCH_SIZE.search(request.headers.get("sforce-query-options", ""))
    size = request.org.settings.query_page_size
    end = begin + (min(int(asked[1]), size) if asked else size)
    body: dict[str, Any] = {"totalSize": found.total, "done": end >= len(found.records)}
    if not body["done"]:
        request.org.cursors[cursor] = found
        path = f"/services/data/v{request.params['version']}/query"
        body["nextRecordsUrl"] = f"{path}/{_LOCATOR}{cursor}-{end}"
    return json_response({**body, "records": found.records[begin:end]})


def _columns(record: soql.Record) -> list[dict[str, Any]]:
    """Describe the fields of a record that a query found, including those of its parent and children."""
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


async def describe(request: OrgRequest) -> OrgResponse:
    """Answer ``GET /services/data/v{version}/sobjects/{type}/describe``."""
    request.authorize("rest_session_expired")
    wanted, path = request.params["type"].lower(), f"/services/data/v{request.params['version']}/sobjects"
    sobjects = request.org.records.sobjects.values()
    found = next((one for one in sobjects if one.name.lower() == wanted), None)
    if found is None:
        raise ApiError("rest_not_found")
    await request.wait_while_held()
    return json_response(found.describe(path))


async def collections(request: OrgRequest) -> OrgResponse:
    """Answer ``PATCH /services/data/v{version}/composite/sobjects``: update up to 200 records."""
    return await _written(request, None)


async def collections_by_external_id(request: OrgRequest) -> OrgResponse:
    """Answer ``PATCH …/composite/sobjects/{type}/{field}``: upsert up to 200 records of a type."""
    sobject = request.org.records.sobjects.get(request.params["type"])
    field = sobject.field(request.params["field"]) if sobject else None
    if field is None or not field.external_id:
        raise ApiError("rest_not_found")
    return await _written(request, field)


async def _written(request: OrgRequest, upsert_by: SObjectField | None) -> OrgResponse:
    request.authorize("rest_session_expired")
    body = request.json_object()
    rows = body.get("records")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ApiError("rest_json_parser", detail="records must be a list of objects")
    await request.wait_while_held()
    results = request.org.write(rows, upsert_by=upsert_by, all_or_none=body.get("allOrNone") is True)
    return json_response(results)


def _tables(request: OrgRequest) -> dict[str, list[soql.Record]]:
    """Return all records of the org, by type."""
    path = f"/services/data/v{request.params['version']}/sobjects"
    agents = [_agent(agent, path) for agent in request.org.agents]
    others = {
        "BotDefinition": agents,
        "BotVersion": [version for agent in agents for version in agent["BotVersions"]],
        "User": [_user(name, path) for name in dict.fromkeys((USERNAME, *request.org.owners.values()))],
        "Organization": [_record("Organization", ORG_ID, path, Name="Emulator", IsSandbox=False)],
        "ExternalClientApplication": [
            _record("ExternalClientApplication", salesforce_id("0xIEM0000000001"), path, **_names("Emulator"))
        ],
    }
    return request.org.records.tables(path, others)


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
