"""The Testing API: runs of agent tests that a client starts, polls and reads.

Source: https://developer.salesforce.com/docs/ai/agentforce/guide/testing-api-connect.html and a captured
result: texts are HTML-escaped, names carry id suffixes, and a completed run says nothing about passing.
"""

from __future__ import annotations

import html
import json
import secrets
from typing import Any

from airflow_provider_agentforce.emulator.app import OrgRequest, json_response
from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.models import EvaluationRun, new_session_id, salesforce_id
from airflow_provider_agentforce.emulator.server import OrgResponse

_NAME = "aiEvaluationDefinitionName"
_DONE = ("COMPLETED", "TERMINATED")
_TOPIC, _ACTION = "Order_Questions", "Get_Order_Status"
_TOPIC_SUFFIX, _ACTION_SUFFIX = "_16jEM0000000001", "_179EM0000000001"
_UTTERANCE, _ANSWER = "Where's order 123?", "Order 123 has shipped, it's on its way."


def _escaped(text: str) -> str:
    """Escape a text the way the service does, which writes the apostrophe in decimals."""
    return html.escape(text).replace("&#x27;", "&#39;")


async def start(request: OrgRequest) -> OrgResponse:
    """Answer ``POST …/runs``. Every name is a definition; with ``fail`` in it, one of its tests fails."""
    request.authorize("rest_session_expired")
    body = request.json_object()
    if set(body) != {_NAME} or not isinstance(body[_NAME], str) or not body[_NAME]:
        raise ApiError("rest_empty")
    await request.wait_while_held()
    run_id = salesforce_id("4KB" + secrets.token_hex(6).upper())
    run = request.org.test_runs[run_id] = EvaluationRun(definition=body[_NAME])
    return json_response({"runId": run_id, "status": run.status}, status=201)


async def status(request: OrgRequest) -> OrgResponse:
    """Answer ``GET …/runs/{run_id}``."""
    run = await _run(request)
    run.advance()
    return json_response(run.head())


async def results(request: OrgRequest) -> OrgResponse:
    """Answer ``GET …/runs/{run_id}/results``."""
    run = await _run(request)
    cases = _cases(run) if run.status == "COMPLETED" else []
    return json_response({**run.head(), "subjectName": "Service_Agent", "testCases": cases})


async def cancel(request: OrgRequest) -> OrgResponse:
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
