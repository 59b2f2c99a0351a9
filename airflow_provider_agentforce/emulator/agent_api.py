"""The Agent API: sessions, messages, their end, and feedback.

Source: https://developer.salesforce.com/docs/ai/agentforce/references/agent-api?meta=Summary and its guide
pages. Bodies are as strict as the documents allow: required, unknown and malformed fields are refused.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from airflow_provider_agentforce.emulator import messages
from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.exchange import API_BASE, OrgRequest, OrgResponse, json_response
from airflow_provider_agentforce.emulator.faults import Fault
from airflow_provider_agentforce.emulator.models import (
    SessionRecord,
    TurnRecord,
    is_loopback,
    iso_time,
    new_session_id,
)
from airflow_provider_agentforce.emulator.org import update_variables

END_REASONS = ("UserRequest", "Transfer", "Expiration", "Error", "Other")
_JWT_DOTS = 2
# A stream is the last thing on its connection: the server closes it after the end of the turn.
_STREAM_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-store", "connection": "close"}
# The JSON types of each type's value, besides a text: the base schema allows a text for every type, and
# clients send it. `Id` is not an official type, but public samples use it.
_VALUES: dict[str, tuple[type, ...]] = {
    "Text": (),
    "Id": (),
    "Date": (),
    "DateTime": (),
    "Number": (int, float),
    "Money": (int, float),
    "Boolean": (bool,),
    "Object": (dict,),
    "Json": (dict, list),
    "Ref": (dict,),
    "List": (list,),
}
# The documents have separate texts for errors of these fields.
_DOCUMENTED = {"sequenceId": "invalid_sequence_id", "endpoint": "bad_endpoint"}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


def _check_variable(variable: _Variable) -> _Variable:
    kind, value = variable.type, variable.value
    if kind not in _VALUES:
        raise ValueError(f"{kind} is not a type of variable: one of {', '.join(_VALUES)}")
    boolean = isinstance(value, bool)
    if value is not None and (boolean != (kind == "Boolean") or not isinstance(value, (str, *_VALUES[kind]))):
        raise ValueError(f"the value of the variable {variable.name} is not a {kind}")
    return variable


class _Variable(_Body):
    """A variable as it is sent at a start or with a message."""

    name: Annotated[str, Field(min_length=1)]
    type: str
    value: Any


_Variables = list[Annotated[_Variable, AfterValidator(_check_variable)]] | None


def _values_of(variables: _Variables) -> dict[str, Any]:
    """Return the values of ``variables`` by their names."""
    return {variable.name: variable.value for variable in variables or []}


class _InstanceConfig(_Body):
    endpoint: Annotated[str, Field(pattern=r"^https?://\S+$")]


class _StreamingCapabilities(_Body):
    chunk_types: list[str] = []


def _boolean(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


class _StartBody(_Body):
    """The body of a session start."""

    external_session_key: Annotated[str, Field(min_length=1)]
    instance_config: _InstanceConfig
    tz: str | None = None
    variables: _Variables = None
    # Only two of the values have a meaning; a client in use sends the name of the field.
    feature_support: str | None = None
    streaming_capabilities: _StreamingCapabilities | None = None
    bypass_user: Annotated[bool | None, BeforeValidator(_boolean)] = None
    surface_config: Any = None


def _sequence_number(value: Any) -> Any:
    """Return the number; some clients send it as a text."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


class _MessageBody(_Body):
    sequence_id: Annotated[int | float, BeforeValidator(_sequence_number)]
    in_reply_to_message_id: str | None = None


class _TextBody(_MessageBody):
    type: Literal["Text"]
    text: str


class _ReplyItem(_Body):
    type: Any = None
    property: Any = None
    value: Any = None


class _ReplyBody(_MessageBody):
    type: Literal["Reply"]
    reply: list[_ReplyItem]


class _BareBody(_MessageBody):
    type: Literal["Cancel", "TransferSucceeded"]


class _TransferFailedBody(_MessageBody):
    type: Literal["TransferFailed"]
    reason: Literal["NoAgentAvailable", "Error"]
    description: str | None = None


class _PlanTemplateBody(_MessageBody):
    type: Literal["PlanTemplate"]
    details: dict[str, Any]


class _SendBody(_Body):
    """The body of a message."""

    message: Annotated[
        _TextBody | _ReplyBody | _BareBody | _TransferFailedBody | _PlanTemplateBody,
        Field(discriminator="type"),
    ]
    variables: _Variables = None


class _FeedbackBody(_Body):
    """The body of a feedback."""

    feedback_id: str
    feedback: Literal["GOOD", "BAD"]
    text: str | None = None
    details: Annotated[dict[str, Any], Field(max_length=10)] | None = None


_AnyBody = TypeVar("_AnyBody", bound=_Body)


def _parse(kind: type[_AnyBody], body: dict[str, Any]) -> _AnyBody:
    """Return ``body`` as a value of ``kind``.

    :raises ApiError: 400, with the documented text where there is one.
    """
    if "sequenceId" in body and body.get("message") is None:
        # Fields beside the message are the most common mistake; the server names the one missing inside.
        raise ApiError("missing_sequence_id")
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise _refusal(error.errors()[0]) from None


def _refusal(problem: ErrorDetails) -> ApiError:
    place = [str(part) for part in problem["loc"]]
    documented = next((part for part in place if part in _DOCUMENTED), None)
    field = "type" if problem["type"] == "union_tag_not_found" else documented or place[-1]
    if problem["type"] == "extra_forbidden":
        return ApiError("unrecognized_field", field=field)
    if problem["type"] in ("missing", "union_tag_not_found") or problem["input"] is None:
        return ApiError("missing_property", field=field)
    name = _DOCUMENTED[documented] if documented else "bad_request"
    return ApiError(name, detail=f"{'.'.join(place)}: {problem['msg']}")


def authorize(request: OrgRequest) -> None:
    """Check the token as the gateway of the Agent API does, which looks at its shape first.

    :raises ApiError: the token is opaque, missing or invalid.
    """
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
    authorize(request)
    org, agent_id = request.org, request.params["agent_id"]
    body = _parse(_StartBody, request.json_object())
    if not _same_place(body.instance_config.endpoint, org.url):
        raise ApiError("wrong_endpoint")
    if org.usable_agent(agent_id).employee and body.bypass_user:
        raise ApiError("employee_agent")
    await request.wait_while_held()
    session = SessionRecord(
        session_id=_seed_session_id() if org.settings.seed else new_session_id(),
        agent_id=agent_id,
        external_session_key=body.external_session_key,
        variables=_values_of(body.variables),
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
    """Return whether two addresses are the same, whichever name of the loopback host they use."""
    here, there = urlsplit(org_url), urlsplit(endpoint)
    try:
        same_port = there.port == here.port
    except ValueError:
        return False
    plain = there.path in ("", "/") and not there.query
    return plain and same_port and there.scheme == here.scheme and is_loopback(there.hostname or "")


async def send(request: OrgRequest) -> OrgResponse:
    """Answer ``POST /sessions/{session_id}/messages`` and ``…/messages/stream``."""
    authorize(request)
    if request.record.stream:
        _check_accept(request)
    raw = request.json_object()
    body = _parse(_SendBody, raw)
    session = request.lock_session()
    sequence_id = body.message.sequence_id
    request.org.check_message(session, sequence_id)
    await request.wait_while_held()
    sent = _values_of(body.variables)
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
        received_at=request.record.at,
        got_instead=request.fault.instead if request.fault is not None else None,
    )
    request.org.add_turn(session, record)
    return _answer(request, session, reply, sequence_id)


def note_not_acted(request: OrgRequest, fault: Fault) -> None:
    """Record for the page a message that *fault* kept from the agent."""
    session = request.org.sessions.get(request.params["session_id"])
    body = request.record.body
    message = body.get("message") if isinstance(body, dict) else None
    if session is None or not isinstance(message, dict):
        return
    record = TurnRecord(
        sequence_id=message.get("sequenceId", 0),
        text=str(message.get("text", "")),
        type=str(message.get("type", "")),
        variables={},
        messages=[],
        stream=request.record.stream,
        received_at=request.record.at,
        applied=0,
        got_instead=fault.instead,
    )
    session.not_acted.append(record)
    request.org.changed()


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
        reply = replace(reply, stream=reply.stream.with_changes(changes, where="fault"))
        pieces = list(messages.stream(reply, links=found, path=request.api_path))
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
    authorize(request)
    reason = request.headers.get("x-session-end-reason", "")
    if reason not in END_REASONS:
        detail = f"x-session-end-reason must be one of {', '.join(END_REASONS)}"
        raise ApiError("bad_request", detail=detail)
    session = request.lock_session()
    await request.wait_while_held()
    request.org.end_session(session, reason)
    # The answer never repeats the caller's reason.
    ended = messages.answer_message("SessionEnded", reason="ClientRequest")
    return json_response({"messages": [ended], "_links": _links(request, session)})


async def feedback(request: OrgRequest) -> OrgResponse:
    """Answer ``POST /sessions/{session_id}/feedback``. The documents disagree about the status."""
    authorize(request)
    raw = request.json_object()
    session = request.lock_session()
    if _parse(_FeedbackBody, raw).feedback_id not in session.feedback_ids():
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
    """Return the only type of message in the guide; other types keep their shape."""
    text = message.get("message")
    if message.get("type") != "Inform" or text is None:
        return message
    return {"sequenceId": sequence_id, "type": "Text", "text": text, "role": "Agent"}
