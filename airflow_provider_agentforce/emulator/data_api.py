"""The data API of the org: the little SOQL that finds an agent, and runs of agent tests (Testing API).

Sources: https://github.com/forcedotcom/agents (query and records of ``BotDefinition``, ``BotVersions``);
https://developer.salesforce.com/docs/ai/agentforce/guide/testing-api-connect.html and a captured result:
texts are HTML-escaped, names carry id suffixes, and a completed run says nothing about passing. Error
bodies are the list of ``message`` and ``errorCode`` with which the data API answers.
"""

from __future__ import annotations

import html
import json
import re
import secrets
from typing import Any

from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.exchange import OrgRequest, OrgResponse, json_response
from airflow_provider_agentforce.emulator.models import Agent, EvaluationRun, new_session_id, salesforce_id

_QUERY = re.compile(
    r"^\s*SELECT\s+(?P<fields>.+)\s+FROM\s+(?P<type>\w+)\b(?P<rest>[^()]*)$", re.IGNORECASE | re.DOTALL
)
_SUBQUERY = re.compile(r"\([^()]*\)")
_NAME = re.compile(r"\bDeveloperName\s*=\s*'(?P<name>(?:[^'\\]|\\.)*)'", re.IGNORECASE)
_ID = re.compile(r"\bId\s*=\s*'(?P<id>\w+)'", re.IGNORECASE)
_ESCAPE = re.compile(r"\\(.)")

_DEFINITION = "aiEvaluationDefinitionName"
_DONE = ("COMPLETED", "TERMINATED")
_TOPIC, _ACTION = "Order_Questions", "Get_Order_Status"
_TOPIC_SUFFIX, _ACTION_SUFFIX = "_16jEM0000000001", "_179EM0000000001"
_UTTERANCE, _ANSWER = "Where's order 123?", "Order 123 has shipped, it's on its way."


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


def _escaped(text: str) -> str:
    """Escape a text the way the service does, which writes the apostrophe in decimals."""
    return html.escape(text).replace("&#x27;", "&#39;")


async def start_test(request: OrgRequest) -> OrgResponse:
    """Answer ``POST …/runs``. Every name is a definition; with ``fail`` in it, one of its tests fails."""
    request.authorize("rest_session_expired")
    body = request.json_object()
    if set(body) != {_DEFINITION} or not isinstance(body[_DEFINITION], str) or not body[_DEFINITION]:
        raise ApiError("rest_empty")
    await request.wait_while_held()
    run_id = salesforce_id("4KB" + secrets.token_hex(6).upper())
    run = request.org.test_runs[run_id] = EvaluationRun(definition=body[_DEFINITION])
    return json_response({"runId": run_id, "status": run.status}, status=201)


async def test_status(request: OrgRequest) -> OrgResponse:
    """Answer ``GET …/runs/{run_id}``."""
    run = await _run(request)
    run.advance()
    return json_response(run.head())


async def test_results(request: OrgRequest) -> OrgResponse:
    """Answer ``GET …/runs/{run_id}/results``."""
    run = await _run(request)
    cases = _cases(run) if run.status == "COMPLETED" else []
    return json_response({**run.head(), "subjectName": "Service_Agent", "testCases": cases})


async def cancel_test(request: OrgRequest) -> OrgResponse:
    """Answer ``POST …/runs/{run_id}/cancel``."""
    run = await _run(request)
    if run.status not in _DONE:
        run.finish("TERMINATED")
    return json_response({"success": True})


async def _run(request: OrgRequest) -> EvaluationRun:
    request.authorize("rest_session_expired")
    run = request.org.test_runs.get(request.params["run_id"])
    if run is None:
        raise ApiError("rest_not_found")
    await request.wait_while_held()
    return run


def _cases(run: EvaluationRun) -> list[dict[str, Any]]:
    failing = "fail" in run.definition.lower()
    return [_case(run, 1, expected=_ANSWER), _case(run, 2, expected="Sunny." if failing else _ANSWER)]


def _case(run: EvaluationRun, number: int, *, expected: str) -> dict[str, Any]:
    times = {"startTime": run.started, "endTime": run.ended}
    call = {"function": {"name": _ACTION + _ACTION_SUFFIX, "input": {"order": "123"}, "output": {}}}
    return {
        "status": "COMPLETED",
        "testNumber": number,
        **times,
        "inputs": {"utterance": _escaped(_UTTERANCE), "contextVariables": {}, "conversationHistory": []},
        "generatedData": {
            "topic": _TOPIC + _TOPIC_SUFFIX,
            "outcome": _escaped(_ANSWER),
            "actionsSequence": _escaped(f"['{_ACTION + _ACTION_SUFFIX}']"),
            "invokedActions": _escaped(json.dumps([[{**call, "executionLatency": 539}]])),
            "citations": "[ ]",
            "sessionId": new_session_id(),
        },
        "testResults": [
            {"metricLabel": check["name"], "status": "COMPLETED", "errorCode": 0, **check, **times}
            for check in _checks(expected)
        ],
    }


def _checks(expected: str) -> list[dict[str, Any]]:
    good = expected == _ANSWER
    return [
        _check("topic_assertion", _TOPIC + _TOPIC_SUFFIX, _TOPIC, good=True),
        _check("actions_assertion", f"['{_ACTION + _ACTION_SUFFIX}']", f"['{_ACTION}']", good=True),
        _check("output_validation", _ANSWER, expected, good=good, score=5 if good else 2),
        # Measured, not judged: it has a score in milliseconds and no result.
        {"name": "output_latency_milliseconds", "score": 2788},
    ]


def _check(name: str, actual: str, expected: str, *, good: bool, score: int = 1) -> dict[str, Any]:
    return {
        "name": name,
        "actualValue": _escaped(actual),
        "expectedValue": _escaped(expected),
        "score": score,
        "result": "PASS" if good else "FAILURE",
    }
