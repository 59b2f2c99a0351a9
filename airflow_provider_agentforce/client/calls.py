"""Builds the requests of the Agent API. Pure: takes checked values, returns bytes and headers.

Shapes: https://developer.salesforce.com/docs/ai/agentforce/references/agent-api?meta=Summary and
https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-get-started.html (the token).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import quote, urlencode

BASE_PATH = "/einstein/ai-agent/v1"
DATA_PATH = "/services/data/v63.0"
_JSON = "application/json"
_EVENTS = "text/event-stream"


class Operation(str, Enum):
    """The calls that the client makes, by the names that errors and the retry table use."""

    TOKEN = "token"  # noqa: S105 - the name of an operation
    START = "start"
    SEND = "send"
    END = "end"
    FEEDBACK = "feedback"
    QUERY = "query"


@dataclass(frozen=True)
class Call:
    """One request, complete but for the bearer token.

    :param body: never shown, since the token call's holds the secret and a message may be confidential.
    """

    operation: Operation
    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None = field(default=None, repr=False)


def token(my_domain: str, consumer_key: str, consumer_secret: str) -> Call:
    """Build the client-credentials exchange. The secret goes into the body, never into a URL."""
    form = {
        "grant_type": "client_credentials",
        "client_id": consumer_key,
        "client_secret": consumer_secret,
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": _JSON}
    url = f"{my_domain}/services/oauth2/token"
    return Call(Operation.TOKEN, "POST", url, headers, urlencode(form).encode("ascii"))


def start(
    api: str,
    agent_id: str,
    *,
    my_domain: str,
    external_session_key: str,
    tz: str | None,
    variables: list[dict[str, Any]],
    bypass_user: bool,
    surface_type: str | None,
) -> Call:
    """Build ``POST /agents/{id}/sessions``. Unknown fields are answered with 400, so none is added."""
    body: dict[str, Any] = {
        "externalSessionKey": external_session_key,
        "instanceConfig": {"endpoint": my_domain},
        "streamingCapabilities": {"chunkTypes": ["Text"]},
        "bypassUser": bypass_user,
    }
    if tz is not None:
        body["tz"] = tz
    if variables:
        body["variables"] = variables
    if surface_type is not None:
        body["surfaceConfig"] = {"surfaceType": surface_type}
    return _post(Operation.START, f"{api}{BASE_PATH}/agents/{quote(agent_id, safe='')}/sessions", body)


def send(
    api: str,
    session_id: str,
    *,
    sequence_id: int,
    text: str,
    variables: list[dict[str, Any]],
    in_reply_to: str | None,
    stream: bool,
) -> Call:
    """Build ``POST /sessions/{id}/messages``, or its streaming twin."""
    message: dict[str, Any] = {"sequenceId": sequence_id, "type": "Text", "text": text}
    if in_reply_to is not None:
        message["inReplyToMessageId"] = in_reply_to
    body: dict[str, Any] = {"message": message}
    if variables:
        body["variables"] = variables
    url = _session(api, session_id) + ("/messages/stream" if stream else "/messages")
    return _post(Operation.SEND, url, body, accept=_EVENTS if stream else _JSON)


def end(api: str, session_id: str, reason: str) -> Call:
    """Build ``DELETE /sessions/{id}`` with the header that it requires."""
    headers = {"Accept": _JSON, "x-session-end-reason": reason}
    return Call(Operation.END, "DELETE", _session(api, session_id), headers)


def feedback(api: str, session_id: str, feedback_id: str, rating: str, text: str | None) -> Call:
    """Build ``POST /sessions/{id}/feedback``."""
    body = {"feedbackId": feedback_id, "feedback": rating}
    if text is not None:
        body["text"] = text
    return _post(Operation.FEEDBACK, f"{_session(api, session_id)}/feedback", body)


def query(my_domain: str, soql: str) -> Call:
    """Build the data API's ``GET /query``, which the org's own host serves."""
    url = f"{my_domain}{DATA_PATH}/query?q={quote(soql, safe='')}"
    return Call(Operation.QUERY, "GET", url, {"Accept": _JSON})


def _session(api: str, session_id: str) -> str:
    return f"{api}{BASE_PATH}/sessions/{quote(session_id, safe='')}"


def _post(operation: Operation, url: str, body: dict[str, Any], accept: str = _JSON) -> Call:
    headers = {"Content-Type": _JSON, "Accept": accept}
    return Call(operation, "POST", url, headers, json.dumps(body, ensure_ascii=False).encode("utf-8"))
