"""The org's own trace of a session, as the Session Trace OTel API returns it.

Sources: https://developer.salesforce.com/docs/ai/agentforce/guide/otel-api.html for the call, its window of
72 hours and OTLP; public exporters of such traces for the attributes, the HTML-escaped texts and the error of
an org without a data space. The trace of an unfinished turn is a guess, and so is the status for an org
without Audit and Feedback.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

from markupsafe import escape

from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.exchange import OrgRequest, OrgResponse, json_response
from airflow_provider_agentforce.emulator.models import SessionRecord, TurnRecord
from airflow_provider_agentforce.emulator.trace import LATENCY_MS, action_calls

_MODEL = "sfdc_ai__DefaultGPT4Omni"
_REFUSALS = {
    "no_dataspace": "rest_no_dataspace",
    "no_feedback": "rest_no_feedback",
    "forbidden": "rest_forbidden",
    "missing": "rest_not_found",
}
# The approximate size of a token, in characters.
_CHARACTERS = 4
_NS = 1_000_000_000


async def session_trace(request: OrgRequest) -> OrgResponse:
    """Answer ``GET …/einstein/audit/otel/{session_id}`` of the data API; the session may have ended."""
    request.authorize("rest_session_expired")
    settings = request.org.settings
    if settings.session_tracing in _REFUSALS:
        raise ApiError(_REFUSALS[settings.session_tracing])
    session = request.org.sessions.get(request.params["session_id"])
    age = -1.0 if session is None else time.time() - session.started_at
    if session is None or not settings.trace_delay <= age < settings.trace_window:
        raise ApiError("rest_not_found")
    await request.wait_while_held()
    agent = next(one for one in request.org.agents if one.id[:15] == session.agent_id[:15])
    resource = _attributes({"session.id": session.session_id, "session.actors.0.name": agent.developer_name})
    visible = [
        turn
        for turn in session.turns
        if time.time() - turn.at >= settings.trace_delay and turn.text != settings.trace_without
    ]
    finished = time.time() - 2 * settings.trace_delay
    spans = [
        span
        for turn in visible
        for number in range(turn.applied)
        for span in _spans(session, turn, number, finished=turn.at <= finished)
    ]
    scope = {"scope": {"name": "agentforce"}, "spans": spans}
    return json_response({"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [scope]}]})


def _spans(
    session: SessionRecord, turn: TurnRecord, number: int, *, finished: bool
) -> Iterator[dict[str, Any]]:
    """Yield the spans of a turn: first only the message, and the rest when it is *finished*."""
    place = f"{session.session_id}/{turn.sequence_id:g}/{number}"
    said = [{"user": turn.text}] if turn.text else []
    answers = [str(one["message"]) for one in turn.messages if one.get("message")]
    if finished:
        said += [{"assistant": text} for text in answers]
    messages = {
        f"agent.messages.{role}.{index}.content": text
        for index, one in enumerate(said)
        for role, text in one.items()
    }
    root = _span(place, "turn", (turn.received_at, turn.at if finished else 0.0), messages)
    yield root
    if not finished:
        return
    asked, answered = {"role": "user", "content": turn.text}, "\n".join(answers)
    attributes = {
        "step.type": "LLM_STEP",
        "input.value": {"gen_ai.request.model": _MODEL, "gen_ai.input.messages": [asked]},
        "output.value": {"gen_ai.output.messages": [{"role": "assistant", "content": answered}]},
        "gen_ai.usage.input_tokens": _tokens(turn.text),
        "gen_ai.usage.output_tokens": _tokens(answered),
    }
    yield _span(f"{place}/llm", "llm", (turn.received_at, turn.at), attributes, parent=root)
    for index, (name, value) in enumerate(action_calls(turn)):
        ended = max(turn.at, turn.received_at + LATENCY_MS / 1000)
        attributes = {"step.type": "ACTION_STEP", "step.name": name, "output.value": {"value": str(value)}}
        span = _span(f"{place}/{index}", name, (ended - LATENCY_MS / 1000, ended), attributes, parent=root)
        yield {**span, "status": {"code": 1}}


def _tokens(text: str) -> int:
    return len(text) // _CHARACTERS + 1


def _span(
    place: str,
    name: str,
    times: tuple[float, float],
    attributes: dict[str, Any],
    *,
    parent: dict[str, Any] | None = None,
) -> dict[str, Any]:
    session_id = place.partition("/")[0]
    began, ended = times
    return {
        "traceId": hashlib.sha256(session_id.encode()).hexdigest()[:32],
        "spanId": hashlib.sha256(place.encode()).hexdigest()[:16],
        "parentSpanId": parent["spanId"] if parent else "",
        "name": name,
        "startTimeUnixNano": str(int(began * _NS)),
        "endTimeUnixNano": str(int(ended * _NS)),
        "attributes": _attributes(attributes),
        "status": {},
    }


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    """Return a value in OTLP's JSON form: 64-bit numbers as texts."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": _attributes(value)}}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    return {"stringValue": str(escape(value))}
