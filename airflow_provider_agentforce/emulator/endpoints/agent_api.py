"""The Agent API: sessions, messages, their end, and feedback.

Source: https://developer.salesforce.com/docs/ai/agentforce/references/agent-api?meta=Summary and
its guide pages.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_agentforce.emulator import messages, sse
from airflow_provider_agentforce.emulator.app import API_BASE, OrgRequest, json_response
from airflow_provider_agentforce.emulator.endpoints import bodies
from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.models import SessionRecord, TurnRecord, iso_time, new_session_id
from airflow_provider_agentforce.emulator.org import update_variables
from airflow_provider_agentforce.emulator.server import OrgResponse
from airflow_provider_agentforce.emulator.settings import is_loopback

END_REASONS = ("UserRequest", "Transfer", "Expiration", "Error", "Other")
_JWT_DOTS = 2
# A stream is the last thing on its connection: the server closes it after the end of the turn.
_STREAM_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-store", "connection": "close"}


def _authorize(request: OrgRequest) -> None:
    """Refuse a caller as the gateway of the Agent API does, which looks at the shape of a token first."""
    token = request.credentials("bearer")
    is_jwt = token.startswith("eyJ") and token.count(".") == _JWT_DOTS
    if token and not is_jwt and request.org.settings.reject_opaque:
        raise ApiError("opaque_token")
    request.authorize("unauthorized")


def _links(request: OrgRequest, session: SessionRecord) -> dict[str, Any]:
    """Return ``_links`` as captured in 2026."""
    base = request.org.url + API_BASE
    href = f"{base}/sessions/{session.session_id}"
    return {
        "self": None,
        "messages": {"href": f"{href}/messages"},
        "messagesStream": {"href": f"{href}/messages/stream"},
        "session": {"href": f"{base}/agents/{session.agent_id}/sessions"},
        "end": {"href": href},
    }


async def start(request: OrgRequest) -> OrgResponse:
    """Answer ``POST /agents/{agent_id}/sessions``."""
    _authorize(request)
    org, agent_id = request.org, request.params["agent_id"]
    body = bodies.parse(bodies.StartBody, request.json_object())
    if not _same_place(body.instance_config.endpoint, org.url):
        raise ApiError("wrong_endpoint")
    if org.usable_agent(agent_id).employee and body.bypass_user:
        raise ApiError("employee_agent")
    await request.wait_while_held()
    session = SessionRecord(
        session_id=_seed_session_id() if org.settings.seed else new_session_id(),
        agent_id=agent_id,
        external_session_key=body.external_session_key,
        variables=bodies.values_of(body.variables),
        tz=body.tz,
        bypass_user=bool(body.bypass_user),
        feature_support=body.feature_support,
        greeting=org.script.greeting,
    )
    org.add_session(session)
    if org.settings.seed:
        return json_response(_seed_start(session))
    answer = {
        "sessionId": session.session_id,
        "_links": _links(request, session),
        "messages": messages.greeting_messages(session.greeting),
    }
    return json_response(answer, headers={"x-session-mode": "default"})


def _same_place(endpoint: str, org_url: str) -> bool:
    """Compare up to the name of the loopback host, which has several."""
    here, there = urlsplit(org_url), urlsplit(endpoint)
    try:
        same_port = there.port == here.port
    except ValueError:
        return False
    plain = there.path in ("", "/") and not there.query
    return plain and same_port and there.scheme == here.scheme and is_loopback(there.hostname or "")


async def send(request: OrgRequest) -> OrgResponse:
    """Answer ``POST /sessions/{session_id}/messages`` and ``…/messages/stream``."""
    _authorize(request)
    if request.record.stream:
        _check_accept(request)
    raw = request.json_object()
    body = bodies.parse(bodies.SendBody, raw)
    session = request.lock_session()
    sequence_id = body.message.sequence_id
    request.org.check_message(session, sequence_id)
    await request.wait_while_held()
    sent = bodies.values_of(body.variables)
    update_variables(session, sent)
    turn = messages.ScriptTurn(message=raw["message"], sequence_id=sequence_id, session=session)
    reply = await _act(request, turn)
    record = TurnRecord(
        sequence_id=sequence_id,
        text=turn.text,
        type=turn.type,
        variables=sent,
        messages=reply.messages,
        stream=request.record.stream,
    )
    request.org.add_turn(session, record)
    return _answer(request, session, reply, sequence_id)


async def _act(request: OrgRequest, turn: messages.ScriptTurn) -> messages.ScriptReply:
    try:
        return await request.org.script.reply(turn)
    except messages.ScriptError as error:
        raise ApiError("script_error", detail=str(error)) from error


def _answer(
    request: OrgRequest, session: SessionRecord, reply: messages.ScriptReply, sequence_id: float
) -> OrgResponse:
    settings = request.org.settings
    found = _links(request, session)
    if request.record.stream or (settings.seed and session.feature_support == "Streaming"):
        changes = request.fault.stream if request.fault is not None else None
        reply = replace(reply, stream=reply.stream.but(changes, where="fault"))
        pieces = list(sse.stream(reply, links=found, path=request.api_path))
        response = OrgResponse(headers=dict(_STREAM_HEADERS), pieces=pieces, hold_open=reply.stream.hold_open)
    elif settings.seed:
        response = json_response({"messages": [_seed_message(one, sequence_id) for one in reply.messages]})
    else:
        response = json_response({"messages": reply.messages, "_links": found})
    response.pause = settings.latency if reply.latency is None else reply.latency
    return response


def _check_accept(request: OrgRequest) -> None:
    """Refuse a stream that the caller did not ask for: the reference calls the header required."""
    wanted = [item.partition(";")[0].strip() for item in request.headers.get("accept", "").split(",")]
    if not {"text/event-stream", "text/*", "*/*"} & set(wanted):
        raise ApiError("not_acceptable")


async def end(request: OrgRequest) -> OrgResponse:
    """Answer ``DELETE /sessions/{session_id}``."""
    _authorize(request)
    reason = request.headers.get("x-session-end-reason", "")
    if reason not in END_REASONS:
        detail = f"x-session-end-reason must be one of {', '.join(END_REASONS)}"
        raise ApiError("bad_request", detail=detail)
    session = request.lock_session()
    await request.wait_while_held()
    request.org.end_session(session, reason)
    # The reason is never the one that the caller gave.
    ended = messages.answer_message("SessionEnded", reason="ClientRequest")
    return json_response({"messages": [ended], "_links": _links(request, session)})


async def feedback(request: OrgRequest) -> OrgResponse:
    """Answer ``POST /sessions/{session_id}/feedback``. The documents disagree about the status."""
    _authorize(request)
    raw = request.json_object()
    session = request.lock_session()
    if bodies.parse(bodies.FeedbackBody, raw).feedback_id not in session.feedback_ids():
        raise ApiError("bad_request", detail="no answer of this session has this feedbackId")
    await request.wait_while_held()
    session.feedback.append(raw)
    return OrgResponse(status=request.org.settings.feedback_status)


# The shapes of the original guide, which are older and shorter: https://labs.agentforce.com/docs/agent-api


def _seed_session_id() -> str:
    return f"0Xx5e{secrets.token_hex(5).upper()}"


def _seed_start(session: SessionRecord) -> dict[str, Any]:
    return {
        "sessionId": session.session_id,
        "createdDate": iso_time(session.started_at),
        "status": "ACTIVE",
    }


def _seed_message(message: messages.Message, sequence_id: float) -> messages.Message:
    """Return the one type of message that the guide knows; the others keep their shape."""
    text = message.get("message")
    if message.get("type") != "Inform" or text is None:
        return message
    return {"sequenceId": sequence_id, "type": "Text", "text": text, "role": "Agent"}
