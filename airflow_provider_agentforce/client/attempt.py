"""One attempt at a request: sends it, and reads the answer until it is complete."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_provider_agentforce.client import failure_catalogue, json_values, responses
from airflow_provider_agentforce.client.answer_reader import AnswerReader, JsonReader
from airflow_provider_agentforce.client.api_requests import ApiRequest
from airflow_provider_agentforce.client.delivery_policy import Failure
from airflow_provider_agentforce.client.models import Turn
from airflow_provider_agentforce.client.responses import ErrorReply, UnreadableReplyError
from airflow_provider_agentforce.client.transport import Exchange, TransportError

log = logging.getLogger(__name__)

_NOTHING_SAID = ErrorReply("", "")


@dataclass(frozen=True)
class Access:
    """The access to the API.

    :param bearer: the access token; not shown.
    :param api_url: origin of the Agent API.
    :param opaque: whether the token is not a JWT.
    """

    bearer: str = field(repr=False)
    api_url: str
    opaque: bool = False


@dataclass(frozen=True)
class CallOptions:
    """How a request is carried out.

    :param before_send: is called right before the first byte leaves, with the external session key for a
        start, and again before a repetition that has another key; if it raises, no byte leaves.
    :param before_every_attempt: call ``before_send`` before all other repetitions, too.
    :param on_chunk: receives each streamed message (a dict with ``type``) as it arrives.
    :param repeated: this message was sent before, and its delivery is not known.
    :param wait_for_limits: wait and try again if the org refuses because of its limits.
    :param during_cleanup: try for a few seconds only, even after a stop.
    """

    before_send: Callable[[str | None], None] | None = None
    before_every_attempt: bool = False
    on_chunk: Callable[[dict[str, Any]], None] | None = None
    repeated: bool = False
    wait_for_limits: bool = True
    during_cleanup: bool = False


@dataclass(frozen=True)
class Attempt:
    """The result of one attempt: a value, or a failure.

    :param value: the result of the request; with a failure, an answer that was complete when it was cut off.
    :param said: the contents of the error body.
    :param body: the first bytes of an answer that failed; not shown.
    :param detail: the innermost description of the failure on the wire or in the answer.
    :param partial: the readable part of an answer that was cut off.
    """

    value: Any = None
    failure: Failure | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    said: ErrorReply = _NOTHING_SAID
    body: bytes = field(default=b"", repr=False)
    detail: str = ""
    cause: BaseException | None = field(default=None, repr=False)
    partial: Turn | None = None
    access: Access | None = None

    @property
    def asked_to_wait(self) -> float | None:
        """The seconds that the org asks to wait."""
        return responses.retry_after(self.headers.get("retry-after"), self.headers.get("date"), time.time())


class AttemptReader:
    """Makes one attempt, and reads its answer.

    :param access: the access for *exchange*.
    :param redact: removes secrets from the org's words.
    """

    def __init__(
        self,
        request: ApiRequest,
        exchange: Exchange,
        options: CallOptions,
        access: Access | None,
        redact: Callable[[str], str],
    ) -> None:
        self._request = request
        self._exchange = exchange
        self._options = options
        self._access = access
        self._redact = redact
        self._reader: JsonReader | AnswerReader = JsonReader()
        self._answered = False
        self._not_applied = False

    @property
    def in_doubt(self) -> bool:
        """Whether the request has left, and no reply says that it was not acted on."""
        return self._exchange.sent and not self._not_applied

    def attempt(self) -> Attempt:
        """Send the request and read the answer."""
        try:
            with self._exchange:
                self._exchange.send()
                self._read()
            return self._judged()
        except TransportError as error:
            return self._judged(error.failure, error.detail)
        except UnreadableReplyError as error:
            return self._failed(error.failure, str(error))
        except BaseException as error:  # a timeout or kill raised by a signal handler
            if not self._exchange.sent:
                raise
            if self._exchange.status is not None and not self._succeeded:
                self._judged()  # which notes whether the status says that nothing was done
                raise
            return self._failed(Failure.STOPPED, type(error).__name__, error, value=self.whole())

    def whole(self) -> Any:
        """Return the value of an answer that has arrived completely, otherwise ``None``."""
        return self._judged().value if self._answered and self._reader.complete else None

    def _read(self) -> None:
        self._answered = self._succeeded
        if self._answered:
            self._reader = self._request.reader(self._exchange.headers.get("content-type"))
        listener = self._options.on_chunk
        for piece in self._exchange.iter_bytes():
            messages = self._reader.feed(piece)
            if messages and listener is not None:
                began = time.monotonic()
                _pass_on([_redacted(message, self._redact) for message in messages], listener)
                self._exchange.extend(time.monotonic() - began)
            if self._reader.complete:
                return

    @property
    def _succeeded(self) -> bool:
        status = self._exchange.status
        return status is not None and 200 <= status < 300  # noqa: PLR2004

    def _judged(self, broken: Failure | None = None, detail: str = "") -> Attempt:
        status, request = self._exchange.status, self._request
        if status is not None and not (self._answered or self._succeeded):
            # A status that refuses decides, even if the rest of its reply is lost.
            said = responses.error(self._reader.body)
            failure = failure_catalogue.failure_of(
                request.operation,
                status,
                said,
                session_id=request.session_id,
                repeated=self._options.repeated,
            )
            return self._failed(failure, detail, said=said)
        if broken is not None and not self._answered:
            return self._failed(broken, detail)
        try:
            # Its causes are not shown: they may quote the reply.
            value = request.read(self._reader)
            if isinstance(value, Turn):
                value = _without_secrets(value, self._redact)
        except UnreadableReplyError as error:
            # A complete answer counts, however its connection ended.
            if broken is not None:
                return self._failed(broken, detail)
            return self._failed(error.failure, str(error))
        except Exception as error:  # noqa: BLE001 - the call succeeded; nothing may make it look unsent
            return self._failed(Failure.UNREADABLE, type(error).__name__)
        return Attempt(value, None, status, self._exchange.headers, access=self._access)

    def _failed(
        self,
        failure: Failure,
        detail: str,
        cause: BaseException | None = None,
        said: ErrorReply = _NOTHING_SAID,
        value: Any = None,
    ) -> Attempt:
        self._not_applied = failure.rule.delivery.applied is False
        return Attempt(
            value,
            failure,
            self._exchange.status,
            headers=self._exchange.headers,
            said=said,
            body=self._reader.body,
            detail=detail,
            cause=cause,
            partial=self._partial(),
            access=self._access,
        )

    def _partial(self) -> Turn | None:
        turn = self._reader.partial() if isinstance(self._reader, AnswerReader) else None
        return None if turn is None else _without_secrets(turn, self._redact)


def _without_secrets(turn: Turn, redact: Callable[[str], str]) -> Turn:
    """Remove secrets from the org's description of a failure."""
    if not any(map(_tells_of_a_failure, turn.messages)):
        return turn
    messages = [_redacted(message, redact) for message in turn.messages]
    return replace(turn, text=redact(turn.text), messages=messages)


def _redacted(message: dict[str, Any], redact: Callable[[str], str]) -> dict[str, Any]:
    return json_values.mapped(message, redact) if _tells_of_a_failure(message) else message


def _tells_of_a_failure(message: dict[str, Any]) -> bool:
    return message.get("type") in ("Error", "Failure")


def _pass_on(messages: list[dict[str, Any]], listener: Callable[[dict[str, Any]], None]) -> None:
    try:
        for message in messages:
            listener(message)
    except Exception:
        log.exception("on_chunk failed; the answer is not affected.")
