"""The requests of the Agent API: each builds its call and reads its answer. Pure.

Shapes: https://developer.salesforce.com/docs/ai/agentforce/references/agent-api?meta=Summary.
"""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from urllib.parse import quote

from typing_extensions import Self

from airflow_provider_agentforce.client import otlp, responses
from airflow_provider_agentforce.client.answer_reader import (
    MAX_BODY_BYTES,
    MAX_TRACE_BYTES,
    AnswerReader,
    JsonReader,
    LongReader,
)
from airflow_provider_agentforce.client.delivery_policy import Operation
from airflow_provider_agentforce.client.messages import Message
from airflow_provider_agentforce.client.models import Session, SessionOptions, Turn
from airflow_provider_agentforce.client.session_trace import SessionTrace

BASE_PATH = "/einstein/ai-agent/v1"
DATA_PATH = "/services/data/v63.0"
# The first version that has it.
TRACE_PATH = "/services/data/v66.0/einstein/audit/otel"
# 2,000 records of a page, or the description of 800 fields with their picklists.
MAX_PAGE = 64 * 1024 * 1024
_JSON = "application/json"
_EVENTS = "text/event-stream"
_ENCODER = json.JSONEncoder(ensure_ascii=False)


@dataclass(frozen=True)
class HttpCall:
    """One request on the wire, complete but for the bearer token.

    :param body: never shown, since the token call's holds the secret and a message may be confidential.
    :param secret: a value made for this call, which must not be shown.
    """

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None = field(default=None, repr=False)
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class ApiRequest(ABC):
    """The common part of all requests.

    :param agent_id: the agent's id, ``None`` if there is none or it is not known.
    :param session_id: the session that the request goes to.
    :param external_session_key: key, in the org's event log, of the session that the request starts.
    :param sequence_id: number of the message that the request sends.
    :param auth: the flow of a token request.
    :cvar doing: the operation in words.
    :cvar max_body: maximum number of bytes of an answer.
    """

    operation: ClassVar[Operation]
    max_body: ClassVar[int] = MAX_BODY_BYTES
    doing: ClassVar[str]
    agent_id: str | None = None
    session_id: str | None = None
    external_session_key: str | None = None
    sequence_id: int | None = None
    auth: str = ""

    @abstractmethod
    def call(self, api_url: str) -> HttpCall:
        """Return the HTTP request.

        :param api_url: origin of the Agent API.
        """

    def reader(self, content_type: str | None) -> JsonReader | AnswerReader:  # noqa: ARG002 - of a send's answer
        """Return a reader for the bytes of a 2xx answer."""
        return JsonReader(self.max_body)

    @abstractmethod
    def read(self, reader: Any) -> Any:
        """Return the value of a 2xx answer.

        :raises UnreadableReplyError: it does not have the documented form.
        """

    def for_attempt(self, losses: int, now: float) -> Self:  # noqa: ARG002 - most are the same each time
        """Return the request of the next attempt.

        :param losses: number of earlier attempts on which the org may have acted.
        :param now: wall clock in seconds.
        """
        return self


@dataclass(frozen=True, kw_only=True)
class StartRequest(ApiRequest):
    """``POST /agents/{id}/sessions``. Unknown fields are answered with 400, so none is added.

    :param my_domain: the org's My Domain.
    :param bypass_user: that of the options, or the value that fits the connection's ``auth``.
    """

    operation = Operation.START
    doing = "Starting a session"
    agent_id: str
    external_session_key: str
    my_domain: str
    bypass_user: bool
    options: SessionOptions

    def for_attempt(self, losses: int, now: float) -> Self:  # noqa: ARG002 - no time is in it
        """Return the request; after a loss its session has a key that is derived from the first."""
        if not losses:
            return self
        key = uuid.uuid5(uuid.UUID(self.external_session_key), str(losses))
        return replace(self, external_session_key=str(key))

    def call(self, api_url: str) -> HttpCall:
        """Return the request."""
        body: dict[str, Any] = {
            "externalSessionKey": self.external_session_key,
            "instanceConfig": {"endpoint": self.my_domain},
            "streamingCapabilities": {"chunkTypes": ["Text"]},
            "bypassUser": self.bypass_user,
        }
        if self.options.tz is not None:
            body["tz"] = self.options.tz
        if self.options.variables:
            body["variables"] = self.options.variables
        if self.options.surface_type is not None:
            body["surfaceConfig"] = {"surfaceType": self.options.surface_type}
        return post(f"{api_url}{BASE_PATH}/agents/{quote(self.agent_id, safe='')}/sessions", body)

    def read(self, reader: JsonReader) -> Session:
        """Return the session."""
        session_id, greeting = responses.start(reader.value)
        return Session(session_id, 0, self.agent_id, self.external_session_key, greeting)


@dataclass(frozen=True, kw_only=True)
class SendRequest(ApiRequest):
    """``POST /sessions/{id}/messages``, or its streaming twin.

    :param agent_version: that of the session, for the turn.
    :param session_key: external key of the session, if it is known.
    """

    operation = Operation.SEND
    doing = "Sending the message"
    agent_version: str | None = None
    session_id: str
    session_key: str | None = None
    sequence_id: int
    message: Message
    stream: bool = False

    def call(self, api_url: str) -> HttpCall:
        """Return the request, the same for every attempt."""
        body: dict[str, Any] = {"message": self.message.body(self.sequence_id)}
        if self.message.variables:
            body["variables"] = self.message.variables
        url = _session(api_url, self.session_id) + ("/messages/stream" if self.stream else "/messages")
        return post(url, body, accept=_EVENTS if self.stream else _JSON)

    def reader(self, content_type: str | None) -> AnswerReader:
        """Return a reader for JSON or a stream, regardless of the request."""
        number, version = self.sequence_id - 1, self.agent_version
        session = Session(self.session_id, number, self.agent_id, agent_version=version)
        asked = self.message.request
        return AnswerReader(content_type, session=session, sequence_id=self.sequence_id, request=asked)

    def read(self, reader: AnswerReader) -> Turn:
        """Return the answer."""
        return reader.turn()


@dataclass(frozen=True, kw_only=True)
class EndRequest(ApiRequest):
    """``DELETE /sessions/{id}`` with the header that it requires."""

    operation = Operation.END
    doing = "Ending the session"
    session_id: str
    reason: str

    def call(self, api_url: str) -> HttpCall:
        """Return the request."""
        headers = {"Accept": _JSON, "x-session-end-reason": self.reason}
        return HttpCall("DELETE", _session(api_url, self.session_id), headers)

    def read(self, reader: JsonReader) -> None:
        """Return nothing."""


@dataclass(frozen=True, kw_only=True)
class FeedbackRequest(ApiRequest):
    """``POST /sessions/{id}/feedback``."""

    operation = Operation.FEEDBACK
    doing = "Submitting the feedback"
    session_id: str
    feedback_id: str
    rating: str
    comment: str | None = field(default=None, repr=False)

    def call(self, api_url: str) -> HttpCall:
        """Return the request."""
        body = {"feedbackId": self.feedback_id, "feedback": self.rating}
        if self.comment is not None:
            body["text"] = self.comment
        return post(f"{_session(api_url, self.session_id)}/feedback", body)

    def read(self, reader: JsonReader) -> None:
        """Return nothing."""


@dataclass(frozen=True, kw_only=True)
class OrgRead(ApiRequest):
    """A ``GET`` from the org's own host."""

    operation = Operation.READ
    url: str

    def call(self, api_url: str) -> HttpCall:  # noqa: ARG002 - the Agent API is another host
        """Return the request."""
        return HttpCall("GET", self.url, {"Accept": _JSON})


@dataclass(frozen=True, kw_only=True)
class QueryRequest(OrgRead):
    """A SOQL query, or the next page of its answer, which is a dict with a list of ``records``."""

    doing = "Querying records"
    max_body = MAX_PAGE

    def read(self, reader: JsonReader) -> dict[str, Any]:
        """Return the page."""
        page = responses.as_object(reader.value)
        records = page.get("records")
        if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
            raise responses.UnreadableReplyError("a JSON object without a list of records")
        return page


@dataclass(frozen=True, kw_only=True)
class AgentQuery(QueryRequest):
    """The query that finds an agent."""

    operation = Operation.QUERY
    doing = "Looking up the agent"


def query_url(host: str, soql: str) -> str:
    """Return the address of a query.

    :param host: the org's My Domain.
    """
    return f"{host}{DATA_PATH}/query?q={quote(soql, safe='')}"


@dataclass(frozen=True, kw_only=True)
class SessionTraceRequest(ApiRequest):
    """``GET …/einstein/audit/otel/{id}``, which the org's own host serves, for 72 hours after the start."""

    operation = Operation.SESSION_TRACE
    # The reader stops first, with a clearer message.
    max_body = MAX_TRACE_BYTES + MAX_BODY_BYTES
    doing = "Reading the session's trace"
    session_id: str
    my_domain: str

    def call(self, api_url: str) -> HttpCall:  # noqa: ARG002 - the org's own host has the traces
        """Return the request."""
        url = f"{self.my_domain}{TRACE_PATH}/{quote(self.session_id, safe='')}"
        return HttpCall("GET", url, {"Accept": _JSON})

    def reader(self, content_type: str | None) -> LongReader:  # noqa: ARG002 - it is JSON
        """Return a reader for a long body."""
        return LongReader(MAX_TRACE_BYTES)

    def read(self, reader: LongReader) -> SessionTrace | None:
        """Return the trace, ``None`` if it is too long to be read."""
        if reader.too_long:
            return None
        return otlp.read_trace(responses.decode_reply(reader.body), self.session_id)


def _session(api_url: str, session_id: str) -> str:
    return f"{api_url}{BASE_PATH}/sessions/{quote(session_id, safe='')}"


def post(url: str, body: dict[str, Any], accept: str = _JSON) -> HttpCall:
    """Return a call with a JSON body."""
    headers = {"Content-Type": _JSON, "Accept": accept}
    return HttpCall("POST", url, headers, _ENCODER.encode(body).encode("utf-8"))
