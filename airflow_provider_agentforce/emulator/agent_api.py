"""The Agent API: sessions, messages, their end, and feedback.

Source: https://developer.salesforce.com/docs/ai/agentforce/references/agent-api?meta=Summary and
its guide pages.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_agentforce.emulator import bodies, seed, sse
from airflow_provider_agentforce.emulator.calls import API_BASE, Answer, Call, json_answer
from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.ids import new_session_id
from airflow_provider_agentforce.emulator.messages import (
    end_messages,
    greeting_messages,
    links,
    variable_values,
)
from airflow_provider_agentforce.emulator.models import SessionRecord, TurnRecord
from airflow_provider_agentforce.emulator.org import Org, update_variables
from airflow_provider_agentforce.emulator.replies import Reply, ScriptError, Turn

END_REASONS = ("UserRequest", "Transfer", "Expiration", "Error", "Other")
# A stream is the last thing on its connection: the server closes it after the end of the turn.
_STREAM_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-store", "connection": "close"}


def _links(org: Org, session: SessionRecord) -> dict[str, Any]:
    return links(org.url + API_BASE, agent_id=session.agent_id, session_id=session.session_id)


async def start(call: Call) -> Answer:
    """Answer ``POST /agents/{agent_id}/sessions``."""
    call.authorize()
    body = call.json_object()
    bodies.check_start(body, org_url=call.org.url)
    agent = call.org.usable_agent(call.params["agent_id"])
    bypass_user = body.get("bypassUser") in (True, "true")
    if agent.employee and bypass_user:
        raise ApiError("employee_agent")
    await call.org.wait_while_held("start")
    session = SessionRecord(
        session_id=seed.new_session_id() if call.org.settings.seed else new_session_id(),
        agent_id=call.params["agent_id"],
        external_session_key=body["externalSessionKey"],
        variables=variable_values(body.get("variables")),
        tz=body.get("tz"),
        bypass_user=bypass_user,
        feature_support=body.get("featureSupport"),
        greeting=call.org.script.greeting,
    )
    call.org.add_session(session)
    if call.org.settings.seed:
        return json_answer(seed.start_body(session))
    answer = {
        "sessionId": session.session_id,
        "_links": _links(call.org, session),
        "messages": greeting_messages(session.greeting),
    }
    return json_answer(answer, headers={"x-session-mode": "default"})


async def send(call: Call) -> Answer:
    """Answer ``POST /sessions/{session_id}/messages``."""
    session, reply, body = await _turn(call)
    org = call.org
    if org.settings.seed and session.feature_support == "Streaming":
        return _stream(call, session, reply)
    if org.settings.seed:
        content = seed.send_body(reply.messages, sequence_id=body["message"]["sequenceId"])
    else:
        content = {"messages": reply.messages, "_links": _links(org, session)}
    answer = json_answer(content)
    answer.pause = _latency(org, reply)
    return answer


async def send_stream(call: Call) -> Answer:
    """Answer ``POST /sessions/{session_id}/messages/stream``."""
    session, reply, _ = await _turn(call)
    return _stream(call, session, reply)


def _stream(call: Call, session: SessionRecord, reply: Reply) -> Answer:
    pieces = list(sse.stream(reply, links=_links(call.org, session), path=call.api_path))
    return Answer(headers=dict(_STREAM_HEADERS), pieces=pieces, pause=_latency(call.org, reply))


def _latency(org: Org, reply: Reply) -> float:
    return org.settings.latency if reply.latency is None else reply.latency


async def _turn(call: Call) -> tuple[SessionRecord, Reply, dict[str, Any]]:
    """Check a message, let the agent act on it, and remember the turn."""
    call.authorize()
    if call.record.stream:
        _check_accept(call)
    body = call.json_object()
    bodies.check_send(body)
    session = call.lock_session()
    message = body["message"]
    sequence_id = bodies.sequence_number(message["sequenceId"])
    call.org.check_message(session, sequence_id)
    await call.org.wait_while_held("send")
    sent = variable_values(body.get("variables"))
    update_variables(session, sent)
    reply = await _act(call.org, session, message, sequence_id)
    turn = TurnRecord(
        sequence_id=sequence_id,
        text=_text(message),
        type=message["type"],
        variables=sent,
        messages=reply.messages,
        stream=call.record.stream,
    )
    call.org.add_turn(session, turn)
    return session, reply, body


async def _act(org: Org, session: SessionRecord, message: dict[str, Any], sequence_id: float) -> Reply:
    turn = Turn(
        text=_text(message),
        type=message["type"],
        sequence_id=sequence_id,
        session=session,
        variables=dict(session.variables),
        history=list(session.turns),
    )
    try:
        return await org.script.reply(turn)
    except ScriptError as error:
        raise ApiError("script_error", detail=str(error)) from error


def _text(message: dict[str, Any]) -> str:
    return str(message.get("text") or "")


def _check_accept(call: Call) -> None:
    """Refuse a stream that the caller did not ask for: the reference calls the header required."""
    wanted = [item.partition(";")[0].strip() for item in call.headers.get("accept", "").split(",")]
    if not {"text/event-stream", "text/*", "*/*"} & set(wanted):
        raise ApiError("not_acceptable")


async def end(call: Call) -> Answer:
    """Answer ``DELETE /sessions/{session_id}``."""
    call.authorize()
    reason = call.headers.get("x-session-end-reason", "")
    if reason not in END_REASONS:
        detail = f"x-session-end-reason must be one of {', '.join(END_REASONS)}"
        raise ApiError("bad_request", detail=detail)
    session = call.lock_session()
    await call.org.wait_while_held("end")
    call.org.end_session(session, reason)
    return json_answer({"messages": end_messages(), "_links": _links(call.org, session)})


async def feedback(call: Call) -> Answer:
    """Answer ``POST /sessions/{session_id}/feedback``. The documents disagree about the status."""
    call.authorize()
    body = call.json_object()
    session = call.lock_session()
    bodies.check_feedback(body, known_ids=session.feedback_ids())
    await call.org.wait_while_held("feedback")
    session.feedback.append(body)
    return Answer(status=call.org.settings.feedback_status)
