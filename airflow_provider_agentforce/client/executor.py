"""Carries out one request: attempts, waits, and the error at the end, all as the retry table says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import tenacity

from airflow_provider_agentforce.client import failure_catalogue, json_values, responses
from airflow_provider_agentforce.client.answer_reader import AnswerReader, JsonReader
from airflow_provider_agentforce.client.api_requests import ApiRequest
from airflow_provider_agentforce.client.call_errors import error_of, interrupted, start_interrupted
from airflow_provider_agentforce.client.call_events import CallEvent, Observer, observed
from airflow_provider_agentforce.client.deadline import Deadline
from airflow_provider_agentforce.client.delivery_policy import (
    TABLE,
    Ending,
    Failure,
    Operation,
    Verdict,
    retry_after,
)
from airflow_provider_agentforce.client.models import Session, Turn
from airflow_provider_agentforce.client.plans import PlanRequest, summary_of
from airflow_provider_agentforce.client.redaction import Redactor
from airflow_provider_agentforce.client.responses import ErrorReply, UnreadableReplyError
from airflow_provider_agentforce.client.timing import Timing
from airflow_provider_agentforce.client.transport import Exchange, Transport, TransportError
from airflow_provider_agentforce.exceptions import AgentforceError, DeliveryUnknownError

log = logging.getLogger(__name__)

CLEANUP_SECONDS = 3.0
_CLEANUP_PAUSE = 0.2
_NOTHING_SAID = ErrorReply("", "")


@dataclass(frozen=True)
class Access:
    """What lets a request in.

    :param bearer: the access token; not shown.
    :param api_url: origin of the Agent API.
    :param opaque: whether the token is not a JWT.
    """

    bearer: str = field(repr=False)
    api_url: str
    opaque: bool = False


class AccessSource(Protocol):
    """What gives access: a token source."""

    def access(self, *, refused: Access | None = None, during_cleanup: bool = False) -> Access:
        """Return an access, another one than *refused*."""


@dataclass(frozen=True)
class CallOptions:
    """How a request is carried out.

    :param before_send: is called right before the first byte leaves, with the external session key for a
        start, and again before a repetition that has another key; if it raises, no byte leaves.
    :param on_chunk: is given each streamed message (a dict with ``type``) as it comes.
    :param on_value: is given the value before a signal handler can come between it and the caller.
    :param repeated: this message was sent before, and what became of it is not known.
    :param wait_for_limits: wait and try again when the org refuses for its limits.
    :param during_cleanup: try for a few seconds only, even after a stop.
    """

    before_send: Callable[[str | None], None] | None = None
    on_chunk: Callable[[dict[str, Any]], None] | None = None
    on_value: Callable[[Any], None] | None = None
    repeated: bool = False
    wait_for_limits: bool = True
    during_cleanup: bool = False


_USUAL = CallOptions()


@dataclass(frozen=True)
class Attempt:
    """What one attempt brought: a value, or a failure.

    :param value: what the request returns; with a failure, an answer that was whole when it was cut.
    :param said: what the error body says.
    :param body: the first bytes of an answer that failed; not shown.
    :param detail: innermost words for what went wrong on the wire or in the answer.
    :param partial: what can be read of an answer that was cut.
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
        return retry_after(self.headers.get("retry-after"), self.headers.get("date"), time.time())


@dataclass
class CallState:
    """How far a call has come. Belongs to the thread that makes it.

    :ivar key: external session key of the last attempt at a start.
    :ivar announced: the keys that ``before_send`` was called with.
    :ivar attempts: attempts begun.
    :ivar losses: attempts that may have been acted on, without an answer.
    :ivar renewals: how often the token was renewed because of a 401.
    :ivar refused: the access that the last attempt was refused with.
    :ivar exchange: the exchange under way, ``None`` when it is known that it was not acted on.
    :ivar reading: the reading of the last exchange.
    :ivar last: the last attempt that came to an end.
    """

    request: ApiRequest
    options: CallOptions
    began: float
    api_url: str = ""
    url: str = field(default="", repr=False)
    key: str | None = None
    announced: tuple[str | None, ...] = ()
    attempts: int = 0
    losses: int = 0
    renewals: int = 0
    refused: Access | None = None
    repeated_after: tuple[Failure, ...] = ()
    exchange: Exchange | None = None
    reading: _Reading | None = field(default=None, repr=False)
    last: Attempt | None = None

    @property
    def in_doubt(self) -> bool:
        """Whether a request has left, and no reply says that it was not acted on."""
        return self.exchange is not None and self.exchange.sent

    def verdict(self, failure: Failure) -> Verdict:
        """Return what the retry table says of *failure*."""
        return TABLE[failure].verdict(self.request.operation)


class RequestExecutor:
    """Carries out requests. Safe to share between threads.

    :param timeout: seconds for one attempt, from connecting to the last byte of the reply.
    :param redactor: takes secrets out of what the org says.
    :param on_throttled: is told of each 429, with the seconds that the org asks to wait, if it does.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        timeout: float,
        timing: Timing,
        redactor: Redactor,
        observers: Sequence[Observer] = (),
        on_throttled: Callable[[float | None], None] = lambda _: None,
    ) -> None:
        self.transport = transport
        self.timing = timing
        self.deadline = Deadline(timing)
        self.redactor = redactor
        self._timeout = timeout
        self._observers = observers
        self._on_throttled = on_throttled

    def sibling(self) -> RequestExecutor:
        """Return an executor over the same connections with its own deadline, which can be stopped alone."""
        return RequestExecutor(
            self.transport.sibling(),
            timeout=self._timeout,
            timing=self.timing,
            redactor=self.redactor,
            observers=self._observers,
            on_throttled=self._on_throttled,
        )

    def execute(
        self, request: ApiRequest, source: AccessSource | None, options: CallOptions = _USUAL
    ) -> Attempt:
        """Carry out *request*.

        :param source: gives the bearer; ``None`` for a request without one.
        :returns: the last attempt, with the value, or with a failure that counts as success.
        :raises AgentforceError: as the retry table says.
        """
        call = CallState(request, options, self.timing.clock())
        try:
            with observed(self._observers, lambda error: _event(call, error, self.timing.clock())):
                last = self._attempt(call, source)
                if last.failure is not None:
                    last = self._retry(call, source, last)
                if options.on_value is not None and last.failure is None:
                    options.on_value(last.value)
                return last
        except AgentforceError:
            raise
        except BaseException as error:
            # A time-out or kill that a signal handler raised. Once a message has left, it must not look
            # like a failure that another try can fix.
            if isinstance(error.__context__, DeliveryUnknownError):
                raise error.__context__ from error
            if call.in_doubt and request.operation in {Operation.SEND, Operation.TEST}:
                raise interrupted(call, error) from error
            if call.in_doubt and request.operation is Operation.START:
                raise start_interrupted(call, error) from error
            raise

    def _retry(self, call: CallState, source: AccessSource | None, first: Attempt) -> Attempt:
        """Repeat a request whose first attempt failed, as often as the retry table allows."""
        made = [first]
        retrying = tenacity.Retrying(
            retry=lambda state: _may_repeat(call, state.outcome.result()),  # type: ignore[union-attr]
            wait=lambda state: self._pause(call, state),
            stop=lambda state: not self._has_time(call, state.upcoming_sleep),
            before_sleep=lambda state: _note_repetition(call, state.outcome.result()),  # type: ignore[union-attr]
            sleep=time.sleep if call.options.during_cleanup else self.deadline.sleep,
            retry_error_callback=lambda state: state.outcome.result(),  # type: ignore[union-attr]
        )
        last: Attempt = retrying(lambda: made.pop() if made else self._attempt(call, source))
        if last.failure is None:
            return last
        ending = call.verdict(last.failure).ending
        if ending is Ending.DONE:
            return last
        raise error_of(call, last, ending, self.redactor) from last.cause

    def _attempt(self, call: CallState, source: AccessSource | None) -> Attempt:
        options, request = call.options, call.request.after_losses(call.losses)
        if not options.during_cleanup:
            self.deadline.check()
        access = None
        if source is not None:
            access = source.access(refused=call.refused, during_cleanup=options.during_cleanup)
        call.api_url = access.api_url if access else ""
        http = request.call(call.api_url)
        call.url, call.key = http.url, request.external_session_key
        call.exchange = exchange = self.transport.exchange(
            http.method,
            http.url,
            http.headers,
            http.body,
            bearer=access.bearer if access else None,
            timeout=self._time_for(call),
            before_send=lambda: _announce(call),
            during_cleanup=options.during_cleanup,
            starts_session=request.operation is Operation.START,
            max_body=request.max_body,
        )
        call.attempts += 1
        last = _Reading(call, request, exchange, access, self.redactor.redact).attempt()
        if last.failure is not None:
            self._note_loss(call, last.failure)
        if last.failure is Failure.THROTTLED:
            self._on_throttled(last.asked_to_wait)
        call.last = last
        return last

    def _time_for(self, call: CallState) -> float:
        if call.options.during_cleanup:
            return max(self._cleanup_time(call), 0.1)
        return self.deadline.time_for_call(self._timeout)

    def _cleanup_time(self, call: CallState) -> float:
        return call.began + CLEANUP_SECONDS - self.timing.clock()

    def _note_loss(self, call: CallState, failure: Failure) -> None:
        if TABLE[failure].delivery.applied is False:
            call.exchange = None
            return
        call.losses += 1
        if call.verdict(failure).orphan:
            log.warning("A session may have been left open. Its external session key: %s", call.key)

    def _pause(self, call: CallState, state: tenacity.RetryCallState) -> float:
        assert state.outcome is not None  # noqa: S101 - an attempt has ended
        attempt: Attempt = state.outcome.result()
        assert attempt.failure is not None  # noqa: S101 - otherwise there is no pause
        if call.options.during_cleanup:
            # The message that was cut may hold the session's lock for a moment longer.
            return _CLEANUP_PAUSE
        if call.verdict(attempt.failure).renewals:
            return self.timing.renewal_pause(state) if call.renewals else 0.0
        asked = attempt.asked_to_wait
        # An org that names no time, or one that has passed, does not ask to be called without a pause.
        return asked or self.timing.back_off(state)

    def _has_time(self, call: CallState, pause: float) -> bool:
        if call.options.during_cleanup:
            return self._cleanup_time(call) > 0
        assert call.last is not None and call.last.failure is not None  # noqa: PT018, S101 - see _pause
        if call.verdict(call.last.failure).until_free:
            waited = self.timing.clock() - call.began
            return waited + pause <= self.deadline.longest_wait and self.deadline.allows(pause)
        return self.deadline.allows(pause)


def _announce(call: CallState) -> None:
    if call.options.before_send is not None and call.key not in call.announced:
        call.options.before_send(call.key)
        call.announced += (call.key,)


def _may_repeat(call: CallState, attempt: Attempt) -> bool:
    if attempt.failure is None:
        return False
    if call.options.during_cleanup:
        return attempt.failure is Failure.LOCKED
    if attempt.failure is Failure.THROTTLED and not call.options.wait_for_limits:
        return False
    verdict = call.verdict(attempt.failure)
    return verdict.until_free or call.attempts < verdict.attempts or call.renewals < verdict.renewals


def _note_repetition(call: CallState, attempt: Attempt) -> None:
    assert attempt.failure is not None  # noqa: S101 - otherwise there is no repetition
    call.repeated_after += (attempt.failure,)
    if call.verdict(attempt.failure).renewals:
        call.renewals += 1
        call.refused = attempt.access


class _Reading:
    """One exchange, read until its answer is whole."""

    def __init__(
        self,
        call: CallState,
        request: ApiRequest,
        exchange: Exchange,
        access: Access | None,
        redact: Callable[[str], str],
    ) -> None:
        self._call = call
        self._redact = redact
        self._request = request
        self._exchange = exchange
        self._access = access
        self._reader: JsonReader | AnswerReader = JsonReader()
        self._answered = False

    def attempt(self) -> Attempt:
        """Send the request and read the answer."""
        exchange = self._exchange
        self._call.reading = self
        try:
            with exchange:
                exchange.send()
                self._read()
            return self._judged()
        except TransportError as error:
            return self._judged(error.failure, error.detail)
        except UnreadableReplyError as error:
            return self._failed(error.failure, str(error))
        except BaseException as error:  # a time-out or kill raised by a signal handler
            if not exchange.sent or self._refused():
                raise
            return self._failed(Failure.STOPPED, type(error).__name__, error, value=self.whole())

    def whole(self) -> Any:
        """Return the value of an answer that has arrived as a whole, else ``None``."""
        return self._judged().value if self._answered and self._reader.complete else None

    def _read(self) -> None:
        if self._succeeded:
            self._answered = True
            self._reader = self._request.reader(self._exchange.headers.get("content-type"))
        listener = self._call.options.on_chunk
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
        status, call = self._exchange.status, self._call
        if status is not None and not self._succeeded:
            # A status that refuses decides, even when the rest of its reply is lost.
            said = responses.error(self._reader.body)
            failure = failure_catalogue.failure_of(
                call.request.operation,
                status,
                said,
                session_id=call.request.session_id,
                repeated=call.options.repeated,
            )
            return self._failed(failure, detail, said=said)
        if broken is not None and not self._answered:
            return self._failed(broken, detail)
        try:
            # Its causes are not shown: they may quote the reply.
            value = self._request.read(self._reader)
            if isinstance(value, Turn):
                value = _without_secrets(value, self._redact)
        except UnreadableReplyError as error:
            # An answer that is whole counts, however its connection ended.
            if broken is not None:
                return self._failed(broken, detail)
            return self._failed(error.failure, str(error))
        except Exception as error:  # noqa: BLE001 - the call succeeded; nothing may make it look unsent
            return self._failed(Failure.UNREADABLE, type(error).__name__)
        return Attempt(value, None, status, self._exchange.headers, access=self._access)

    def _refused(self) -> bool:
        """Tell whether a status other than 2xx came, and note if it says that nothing was done."""
        if self._exchange.status is None or self._succeeded:
            return False
        failure = self._judged().failure
        if failure is not None and TABLE[failure].delivery.applied is False:
            self._call.exchange = None
        return True

    def _failed(
        self,
        failure: Failure,
        detail: str,
        cause: BaseException | None = None,
        said: ErrorReply = _NOTHING_SAID,
        value: Any = None,
    ) -> Attempt:
        reader = self._reader
        return Attempt(
            value,
            failure,
            self._exchange.status,
            headers=self._exchange.headers,
            said=said,
            body=reader.body,
            detail=detail,
            cause=cause,
            partial=self._partial(),
            access=self._access,
        )

    def _partial(self) -> Turn | None:
        turn = self._reader.partial() if isinstance(self._reader, AnswerReader) else None
        return None if turn is None else _without_secrets(turn, self._redact)


def _without_secrets(turn: Turn, redact: Callable[[str], str]) -> Turn:
    """Take secrets out of what an org says of a failure in the place of an answer."""
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


def _end_of(call: CallState) -> str | None:
    if call.last is None or call.request.operation is not Operation.END:
        return None
    return "gone" if call.last.failure is Failure.SESSION_GONE else "ended"


def _event(call: CallState, error: BaseException | None, now: float) -> CallEvent:
    request, last = call.request, call.last
    value = last.value if last is not None and error is None else None
    turn = value if isinstance(value, Turn) else None
    return CallEvent(
        operation=request.operation.value,
        agent_id=request.agent_id,
        session_id=value.session_id if isinstance(value, Session) else request.session_id,
        sequence_id=request.sequence_id,
        text=request.text,
        external_session_key=call.key or request.external_session_key,
        api_url=call.api_url,
        attempts=call.attempts,
        repeated_after=tuple(failure.name.lower() for failure in call.repeated_after),
        status=last.status if last is not None else None,
        outcome=turn.outcome if turn else _end_of(call) if error is None else None,
        answer=turn.text if turn else None,
        error=error,
        duration=now - call.began,
        plan=summary_of(value) if isinstance(request, PlanRequest) and value else None,
    )
