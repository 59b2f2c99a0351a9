"""Runs of agent tests: both generations of the Testing API.

Sources: https://developer.salesforce.com/docs/ai/agentforce/guide/testing-api-connect.html and a captured
result for the first one (``ai-evaluations``); https://github.com/forcedotcom/agents for its successor
(``ai-testing``). Texts are HTML-escaped, and a completed run says nothing about passing.

The test definitions are a closed set, listed in ``docs/emulator.md``.
"""

from __future__ import annotations

import html
import json
import re
import secrets
from typing import Any, NamedTuple

from airflow_provider_agentforce.emulator.errors import ApiError, soap
from airflow_provider_agentforce.emulator.exchange import OrgRequest, OrgResponse, json_response
from airflow_provider_agentforce.emulator.models import EvaluationRun, new_session_id, new_uuid, salesforce_id

_TOPIC, _ACTION = "Order_Questions", "Get_Order_Status"
_TOPIC_SUFFIX, _ACTION_SUFFIX = "_16jEM0000000001", "_179EM0000000001"
_UTTERANCE, _ANSWER = "Where's order 123?", "Order 123 has shipped, it's on its way."
_SKIPPED = "Skip metric result due to missing expected input"
_FAILED = "The test run ended with an error."
_REASONS = {True: "It says the same.", False: "It says something else."}
_STOPPED = "TERMINATED"


_SESSION_ID = re.compile(r"<(?:\w+:)?sessionId>([^<]+)<")
_METADATA_TYPE = re.compile(r"<(?:\w+:)?type>(\w+)<")


class _Api(NamedTuple):
    """The names in one generation. ``statuses``: new, in progress, ended, ended with an error."""

    parameter: str
    prefix: str
    statuses: tuple[str, str, str, str]
    unknown: str
    definitions: str
    metadata: str


_APIS = {
    "ai-evaluations": _Api(
        "aiEvaluationDefinitionName",
        "4KB",
        ("NEW", "IN_PROGRESS", "COMPLETED", "ERROR"),
        "rest_unknown_evaluation",
        "Order_Tests",
        "AiEvaluationDefinition",
    ),
    "ai-testing": _Api(
        "testDefinitionName",
        "3A2",
        ("CREATED", "IN_PROGRESS", "SUCCESS", "FAILED"),
        "rest_unknown_suite",
        "Order_Suite",
        "AiTestingDefinition",
    ),
}
# The answers that the cases of a definition expect, by the end of its name; None: no expectation.
_DEFINITIONS: dict[str, list[str | None]] = {
    "": [_ANSWER, _ANSWER],
    "_Failing": [_ANSWER, "Sunny."],
    "_Unscored": [_ANSWER, None],
    "_Broken": [],
    "_Endless": [],
    "_Large": [_ANSWER] * 1000,
}


async def start(request: OrgRequest) -> OrgResponse:
    """Answer ``POST …/runs``."""
    api = _api(request)
    body = request.json_object()
    name = body.get(api.parameter)
    if set(body) != {api.parameter} or not isinstance(name, str) or not name:
        raise ApiError("rest_empty")
    kind = name.removeprefix(api.definitions)
    if not name.startswith(api.definitions) or kind not in _DEFINITIONS:
        raise ApiError(api.unknown, definition=name)
    await request.wait_while_held()
    new, going, good, bad = api.statuses
    runs = request.org.test_runs
    if api.prefix == "3A2" and any(run.definition == name and run.ended is None for run in runs.values()):
        # The successor starts no second run of a test; its answer then has no id.
        return json_response({"status": going})
    ahead = [going] if kind == "_Endless" else [going, bad if kind == "_Broken" else good]
    run_id = salesforce_id(api.prefix + secrets.token_hex(6).upper())
    runs[run_id] = EvaluationRun(definition=name, status=new, ahead=ahead, endless=kind == "_Endless")
    return json_response({"runId": run_id, "status": new}, status=201)


async def status(request: OrgRequest) -> OrgResponse:
    """Answer ``GET …/runs/{run_id}``."""
    run = await _run(request)
    run.advance()
    return json_response(_head(run, _api(request)))


async def results(request: OrgRequest) -> OrgResponse:
    """Answer ``GET …/runs/{run_id}/results``."""
    run, api = await _run(request), _api(request)
    expected = _DEFINITIONS[run.definition.removeprefix(api.definitions)]
    done = run.status == api.statuses[2]
    render = _evaluated if api.prefix == "4KB" else _scored
    cases = [render(run, number, text) for number, text in enumerate(expected, 1)] if done else []
    first = {"subjectName": "Service_Agent"}
    own = first if api.prefix == "4KB" else {"summary": {"totalNumberOfTestCases": len(cases)}}
    return json_response({**_head(run, api), **own, "testCases": cases})


async def cancel(request: OrgRequest) -> OrgResponse:
    """Answer ``POST …/runs/{run_id}/cancel``, which the successor does not have."""
    run = await _run(request)
    if _api(request).prefix != "4KB":
        raise ApiError("rest_not_found")
    if run.ended is None:
        run.finish(_STOPPED)
    return json_response({"success": True})


async def list_definitions(request: OrgRequest) -> OrgResponse:
    """Answer ``POST /services/Soap/m/{version}``: of the Metadata API only ``listMetadata``."""
    sent = str(request.record.body)
    session, kind = _SESSION_ID.search(sent), _METADATA_TYPE.search(sent)
    if session is None or not request.org.accepts_token(session[1]):
        raise ApiError("soap_session")
    if kind is None or "listMetadata>" not in sent:
        raise ApiError("soap_operation")
    await request.wait_while_held()
    api = next((api for api in _APIS.values() if api.metadata == kind[1]), None)
    names = [api.definitions + end for end in _DEFINITIONS] if api is not None else []
    found = "".join(
        f"<result><fullName>{name}</fullName><type>{kind[1]}</type>"
        f"<fileName>{kind[1]}s/{name}</fileName></result>"
        for name in names
    )
    listed = f"<listMetadataResponse>{found}</listMetadataResponse>"
    return OrgResponse(headers={"content-type": "text/xml"}, content=soap(listed).encode())


def _api(request: OrgRequest) -> _Api:
    request.authorize("rest_session_expired")
    if request.params["api"] not in _APIS:
        raise ApiError("rest_not_found")
    return _APIS[request.params["api"]]


async def _run(request: OrgRequest) -> EvaluationRun:
    api, run_id = _api(request), request.params["run_id"]
    run = request.org.test_runs.get(run_id)
    if run is None or not run_id.startswith(api.prefix):
        raise ApiError("rest_not_found")
    await request.wait_while_held()
    return run


def _head(run: EvaluationRun, api: _Api) -> dict[str, Any]:
    """Return the fields that status and results share."""
    ended = {"endTime": run.ended} if run.ended else {}
    error = {"errorMessage": _FAILED} if run.status == api.statuses[3] else {}
    return {"status": run.status, "startTime": run.started, **ended, **error}


def _escaped(text: str) -> str:
    """Escape a text like the service, which writes the apostrophe in decimals."""
    return html.escape(text).replace("&#x27;", "&#39;")


def _evaluated(run: EvaluationRun, number: int, expected: str | None) -> dict[str, Any]:
    """Return one case in the shape of the first generation, as captured."""
    times = {"startTime": run.started, "endTime": run.ended}
    topic, action = _TOPIC + _TOPIC_SUFFIX, _ACTION + _ACTION_SUFFIX
    call = {"function": {"name": action, "input": {"order": "123"}, "output": {}}}
    checks = [
        _check("topic_assertion", topic, _TOPIC),
        _check("actions_assertion", f"['{action}']", f"['{_ACTION}']"),
        _output_check(expected),
        # Measured, not judged: it has a score in milliseconds but no result.
        {"name": "output_latency_milliseconds", "score": 2788},
    ]
    return {
        "status": "COMPLETED",
        "testNumber": number,
        **times,
        "inputs": {"utterance": _escaped(_UTTERANCE), "contextVariables": {}, "conversationHistory": []},
        "generatedData": {
            "topic": topic,
            "outcome": _escaped(_ANSWER),
            "actionsSequence": _escaped(f"['{action}']"),
            "invokedActions": _escaped(json.dumps([[{**call, "executionLatency": 539}]])),
            "citations": "[ ]",
            "sessionId": new_session_id(),
        },
        "testResults": [
            {"metricLabel": check["name"], "status": "COMPLETED", "errorCode": 0, **check, **times}
            for check in checks
        ],
    }


def _check(name: str, actual: str, expected: str, *, result: str = "PASS", score: int = 1) -> dict[str, Any]:
    texts = {"actualValue": _escaped(actual), "expectedValue": _escaped(expected)}
    return {"name": name, **texts, "score": score, "result": result}


def _output_check(expected: str | None) -> dict[str, Any]:
    name = "output_validation"
    if expected is None:
        return {"name": name, "result": None, "status": "ERROR", "errorMessage": _SKIPPED}
    same = expected == _ANSWER
    result, score = ("PASS", 5) if same else ("FAILURE", 2)
    checked = _check(name, _ANSWER, expected, result=result, score=score)
    return {**checked, "metricExplainability": _REASONS[same]}


def _scored(_run: EvaluationRun, number: int, expected: str | None) -> dict[str, Any]:
    """Return one case in the shape of the successor: JSON in texts."""
    subject = {"userInput": _UTTERANCE, "response": _ANSWER, "topic": _TOPIC, "sessionId": new_session_id()}
    scores = {
        "Topic": _score("topic_sequence_match", _TOPIC, _TOPIC),
        "Actions": _score("action_sequence_match", f"['{_ACTION}']", f"['{_ACTION}']"),
    }
    if expected is None:
        missing = {"evaluationType": "evaluator.bot_response_rating", "status": "ERROR", "errorCode": 0}
        scores["Outcome"] = {**missing, "errorMessage": _SKIPPED}
    else:
        scores["Outcome"] = _score("bot_response_rating", _ANSWER, expected)
    return {
        "testCaseId": new_uuid(),
        "testNumber": number,
        "subjectResponse": _escaped(json.dumps(subject)),
        "testScorerResults": [
            {"scorerName": name, "scorerResponse": _escaped(json.dumps(score))}
            for name, score in scores.items()
        ],
    }


def _score(kind: str, actual: str, expected: str) -> dict[str, Any]:
    same = actual == expected
    return {
        "evaluationType": f"evaluator.{kind}",
        "actualValue": actual,
        "expectedValue": expected,
        "status": "PASS" if same else "FAIL",
        "reasoning": _REASONS[same],
    }
