"""Carries out one call: token, attempts, waits and the error at the end, all as the retry table says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import tenacity

from airflow_provider_agentforce.client import calls, checks, hints, policy, responses
from airflow_provider_agentforce.client.calls import Operation
from airflow_provider_agentforce.client.jobs import Job, Result
from airflow_provider_agentforce.client.observing import Observer, observed
from airflow_provider_agentforce.client.patience import Patience
from airflow_provider_agentforce.client.policy import Ending, Failure, Verdict
from airflow_provider_agentforce.client.redaction import Redactor, forms
from airflow_provider_agentforce.client.responses import TokenReply, UnreadableReplyError
from airflow_provider_agentforce.client.settings import Settings
from airflow_provider_agentforce.client.timing import Timing
from airflow_provider_agentforce.client.tokens import Token, TokenCache
from airflow_provider_agentforce.client.transport import Exchange, Transport
from airflow_provider_agentforce.exceptions import (
    AgentFailedError,
    AgentforceAuthError,
    AgentforceError,
    AgentforceRequestError,
    AgentforceTransientError,
    DeliveryUnknownError,
    RateLimitedError,
    SessionBusyError,
    SessionNotFoundError,
    TaskStoppedError,
    one_line,
)

log = logging.getLogger(__name__)

DEFAULT_API = "https://api.salesforce.com"
_CLEAN_UP_PAUSE = 0.2
_LOGIN_RATE_PAUSE = 60.0
_KEPT_BODY = 2048
_MOST_IDLE_CONNECTIONS = 200

_DOING = {
    Operation.TOKEN: "Getting an access token",
    Operation.START: "Starting a session",
    Operation.SEND: "Sending the message",
    Operation.END: "Ending the session",
    Operation.FEEDBACK: "Submitting the feedback",
    Operation.QUERY: "Looking up the agent",
}
_TRANSIENT: dict[Failure, type[AgentforceTransientError]] = {
    Failure.THROTTLED: RateLimitedError,
    Failure.LOGIN_RATE: RateLimitedError,
    Failure.LOCKED: SessionBusyError,
    Failure.STOPPED_BEFORE: TaskStoppedError,
    Failure.STOPPED: TaskStoppedError,
}
_FINAL: dict[Failure, type[AgentforceError]] = {
    Failure.UNAUTHORIZED: AgentforceAuthError,
    Failure.APP_NOT_ATTACHED: AgentforceAuthError,
    Failure.FORBIDDEN: AgentforceAuthError,
    Failure.STREAM_ERROR: AgentFailedError,
}


class Caller:
    """Carries out jobs for one org. Safe to share between threads.

    :param on_secret: is told every new token, so that a log can mask it.
    :param observers: are told of every job.
    """

    def __init__(
        self,
        settings: Settings,
        on_secret: Callable[[str], None],
        observers: Sequence[Observer],
        timing: Timing,
    ) -> None:
        self.settings = settings
        self.timing = timing
        self.patience = Patience(longest=timing.longest_wait)
        self.transport = Transport(min(settings.max_concurrent_sessions, _MOST_IDLE_CONNECTIONS))
        self.tokens = TokenCache(self._fetch_token)
        self._on_secret = on_secret
        self._observers = observers
        self._redactor = Redactor([settings.consumer_secret])

    def sibling(self, seconds: float | None) -> Caller:
        """Return a caller with the same token, connections of its own, and *seconds* for all its calls."""
        other = Caller(self.settings, self._on_secret, self._observers, self.timing)
        other.tokens = self.tokens.fetched_by(other._fetch_token)
        other.patience.ends_in(seconds, firm=True)
        return other

    def perform(self, job: Job) -> Result:
        """Carry out *job*.

        :raises AgentforceError: as the retry table says.
        """
        with observed(self._observers, job):
            return self._perform(job)

    def _perform(self, job: Job) -> Result:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda result: result.pause is not None),
            wait=lambda state: state.outcome.result().pause,  # type: ignore[union-attr]
            sleep=time.sleep if job.cleaning_up else self.patience.sleep,
        )
        result: Result = retrying(self._attempt, job)
        job.result = result
        if result.failure is None:
            return result
        verdict = self._verdict(job, result.failure)
        if verdict.ending is Ending.DONE:
            return result
        raise self._error(job, result, verdict) from result.cause

    def api_host(self, token: Token | None) -> str:
        """Return the Agent API's origin: the setting, else what the token reply names, else the default."""
        if self.settings.api_url is not None:
            return self.settings.api_url
        named = token.reply.api_instance_url if token else None
        return checks.named_by_reply(named, trusted=(self.settings.host,)) if named else DEFAULT_API

    def _attempt(self, job: Job) -> Result:
        if not job.cleaning_up:
            self.patience.check()
        token = None if job.operation is Operation.TOKEN else self._token(job)
        job.api = self.api_host(token)
        call = job.build(job.api, job)
        timeout = self._timeout(job)
        if job.on_sending is not None and job.attempts == 0:
            job.on_sending()
        job.attempts += 1
        exchange = self.transport.exchange(
            call,
            bearer=token.value if token else None,
            timeout=timeout,
            on_piece=job.on_piece,
            despite_stop=job.cleaning_up,
        )
        result = _judged(job, exchange)
        result.token = token
        if result.failure is not None:
            self._note_loss(job, result.failure)
            result.pause = self._pause(job, result)
            if result.pause is not None:
                job.repeated_after.append(result.failure)
        return result

    def _timeout(self, job: Job) -> float:
        if job.cleaning_up:
            return max(job.time_to_clean_up(), 0.1)
        return self.patience.time_for_call(self.settings.timeout)

    def _note_loss(self, job: Job, failure: Failure) -> None:
        job.lost += _applied(failure) is not False
        if self._verdict(job, failure).orphan:
            log.warning(
                "A session may be open that cannot be ended from here. Its external session key: %s",
                job.external_session_key,
            )

    def _token(self, job: Job) -> Token:
        if job.cleaning_up and self.tokens.current is not None:
            return self.tokens.current
        return self.tokens.get()

    def _pause(self, job: Job, result: Result) -> float | None:
        """Return how long to wait before the next attempt, ``None`` for no other attempt."""
        failure = result.failure
        if failure is None:
            return None
        if job.cleaning_up:
            # The message that was cut may hold the session's lock for a moment longer.
            return _CLEAN_UP_PAUSE if failure is Failure.LOCKED and job.time_to_clean_up() > 0 else None
        verdict = self._verdict(job, failure)
        if verdict.renew and not job.renewed and result.token is not None:
            job.renewed = True
            self.tokens.replace(result.token)
            return 0.0
        if failure is Failure.THROTTLED and not job.wait_for_limits:
            return None
        asked = _asked_to_wait(result.exchange)
        pause = self.timing.back_off(_Numbered(job.attempts)) if asked is None else asked
        if verdict.until_free:
            again = time.monotonic() - job.begun + pause <= self.patience.longest
        else:
            again = job.attempts < verdict.attempts
        return pause if again and self.patience.allows(pause) else None

    def _verdict(self, job: Job, failure: Failure) -> Verdict:
        if failure is Failure.LOCKED and job.after_unknown:
            return Verdict(1, Ending.UNKNOWN)
        return policy.TABLE[failure].verdict(job.operation)

    def _error(self, job: Job, result: Result, verdict: Verdict) -> AgentforceError:
        failure, exchange, operation = result.failure, result.exchange, job.operation
        assert failure is not None  # noqa: S101 - the caller has one
        said = responses.error(exchange.body).text if _refused(exchange) else ""
        status = f"HTTP {exchange.status}" if _refused(exchange) else failure.value
        reason = one_line(self._hide(said or result.detail, result.token), 220)
        # After a token call that succeeded even an unreadable reply holds a token, which nobody knows yet.
        holds_token = operation is Operation.TOKEN and not _refused(exchange)
        # Cut before it is redacted, which takes time; then again, as a mask may be longer than a secret.
        body = exchange.body.decode("utf-8", "replace")[:_KEPT_BODY]
        request_id = exchange.headers.get("x-request-id", "")
        known_as = job.external_session_key if operation is Operation.START else None
        opaque = result.token is not None and not result.token.reply.is_jwt
        return _kind(operation, failure, verdict)(
            f"{_DOING[operation]} failed: {': '.join(part for part in (status, reason) if part)}.",
            hint=hints.hint(operation, failure, status=exchange.status, error_text=said, opaque_token=opaque),
            operation=operation.value,
            status=exchange.status,
            applied=None if job.after_unknown and failure is Failure.LOCKED else _applied(failure),
            retry_after=_LOGIN_RATE_PAUSE if failure is Failure.LOGIN_RATE else _asked_to_wait(exchange),
            request_id=one_line(self._hide(request_id, result.token), 100) or None,
            session_id=job.session_id,
            external_session_key=known_as,
            body="" if holds_token else self._hide(body, result.token)[:_KEPT_BODY],
        )

    def _hide(self, text: str, used: Token | None) -> str:
        # The token of the call may have been replaced by another thread since.
        for token in (used, self.tokens.current):
            if token is not None:
                self._redactor.add(token.value)
        return self._redactor.redact(text)

    def _fetch_token(self) -> TokenReply:
        settings = self.settings
        call = calls.token(settings.host, settings.consumer_key, settings.consumer_secret)
        job = Job(
            Operation.TOKEN,
            build=lambda _api, _job: call,
            parse=lambda exchange: responses.token(exchange.body, now=time.time()),
        )
        reply: TokenReply = self.perform(job).value
        for form in forms(reply.access_token):
            self._on_secret(form)
        if not reply.is_jwt:
            log.warning(hints.OPAQUE_TOKEN)
        return reply


class _Numbered(tenacity.RetryCallState):
    """What tenacity's waits need to know: the number of the attempt."""

    def __init__(self, attempt_number: int) -> None:
        self.attempt_number = attempt_number


def _judged(job: Job, exchange: Exchange) -> Result:
    status, broken = exchange.status, exchange.broken
    if status is not None and _refused(exchange):
        # A status that refuses decides, even when the rest of its reply is lost.
        failure = policy.failure_of(job.operation, status, responses.error(exchange.body).text)
        return Result(exchange, failure=failure, cause=exchange.cause)
    if broken is not None:
        return Result(exchange, failure=broken, detail=exchange.detail, cause=exchange.cause)
    try:
        return Result(exchange, job.parse(exchange))
    except UnreadableReplyError as error:
        return Result(exchange, failure=error.failure, detail=str(error), cause=error)
    except BaseException as error:  # noqa: BLE001 - the call succeeded; nothing may make it look unsent
        return Result(exchange, failure=Failure.UNREADABLE, detail=type(error).__name__, cause=error)


def _refused(exchange: Exchange) -> bool:
    return exchange.status is not None and not 200 <= exchange.status < 300  # noqa: PLR2004


def _applied(failure: Failure) -> bool | None:
    return policy.TABLE[failure].delivery.applied


def _asked_to_wait(exchange: Exchange) -> float | None:
    headers = exchange.headers
    return policy.retry_after(headers.get("retry-after"), headers.get("date"), time.time())


def _kind(operation: Operation, failure: Failure, verdict: Verdict) -> type[AgentforceError]:
    if verdict.ending is Ending.UNKNOWN:
        return DeliveryUnknownError
    if verdict.ending is Ending.TRANSIENT:
        return _TRANSIENT.get(failure, AgentforceTransientError)
    if operation is Operation.TOKEN and failure in {Failure.BAD_REQUEST, Failure.LOGIN_RATE}:
        return AgentforceAuthError
    if failure is Failure.NOT_FOUND and operation in {Operation.SEND, Operation.FEEDBACK}:
        return SessionNotFoundError
    return _FINAL.get(failure, AgentforceRequestError)
