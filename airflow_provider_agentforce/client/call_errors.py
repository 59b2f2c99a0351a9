"""Builds the error of a call: what happened, whether the agent acted, and what to do next."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_provider_agentforce.client import failure_catalogue, responses, validation
from airflow_provider_agentforce.client.api_requests import SendRequest
from airflow_provider_agentforce.client.delivery_policy import Ending, Failure, Operation
from airflow_provider_agentforce.client.models import Session, Turn
from airflow_provider_agentforce.client.settings import JWT_BEARER
from airflow_provider_agentforce.delivery import UnknownDelivery
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    DeliveryUnknownError,
    TaskStoppedError,
    one_line,
)
from airflow_provider_agentforce.redaction import Redactor

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.attempt import Attempt
    from airflow_provider_agentforce.client.executor import CallState

_LOGIN_RATE_PAUSE = 60.0
_KEPT_BODY = 2048

_LONGEST_REASON = 220
# Seconds by which clocks may differ before an error mentions it, as long as an assertion allows for.
_TOLERATED = 60


def error_of(call: CallState, attempt: Attempt, ending: Ending, redactor: Redactor) -> AgentforceError:
    """Return the error of a call whose last attempt failed."""
    request, failure = call.request, attempt.failure
    assert failure is not None  # noqa: S101 - otherwise there is no error
    if isinstance(attempt.value, Turn):
        return answer_interrupted(attempt.cause, attempt.value, call)
    row = failure.rule
    kind = row.error_class(ending)
    what = f"{request.doing} failed: {_reason(attempt, failure, redactor)}."
    more: dict[str, Any] = {}
    if issubclass(kind, DeliveryUnknownError):
        more = {"turn": attempt.partial, "delivery": _delivery_of(call, what, attempt.partial)}
    started = attempt.value.session_id if isinstance(attempt.value, Session) else None
    request_id = redactor.redact(attempt.headers.get("x-request-id", ""))
    return kind(
        what,
        hint=_remedy(call, attempt, failure) + _clock_difference(call, attempt),
        operation=request.operation.value,
        failure=failure.name.lower(),
        host=validation.address(call.url),
        status=attempt.status,
        applied=row.delivery.applied,
        retry_after=_LOGIN_RATE_PAUSE if failure is Failure.LOGIN_RATE else attempt.asked_to_wait,
        request_id=one_line(request_id, 100) or None,
        session_id=request.session_id or started,
        external_session_key=call.key,
        body=redactor.redact(_shown_body(request.operation, attempt)),
        **more,
    )


def _clock_difference(call: CallState, attempt: Attempt) -> str:
    """Return the difference of the clocks if an assertion was refused, because its times depend on it."""
    if call.request.auth != JWT_BEARER or attempt.failure is not Failure.TOKEN_REFUSED:
        return ""
    theirs = responses.timestamp(attempt.headers.get("date"))
    ahead = 0.0 if theirs is None else time.time() - theirs
    if abs(ahead) < _TOLERATED:
        return ""
    return f" This machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the org's."


def _refused(attempt: Attempt) -> bool:
    return attempt.status is not None and not 200 <= attempt.status < 300  # noqa: PLR2004


def _reason(attempt: Attempt, failure: Failure, redactor: Redactor) -> str:
    what = f"HTTP {attempt.status}" if _refused(attempt) else failure.value
    said = redactor.redact((attempt.said.text or attempt.detail)[:_KEPT_BODY])
    words = one_line(said, _LONGEST_REASON).rstrip(".")
    return f"{what}: {words}" if words else what


def _shown_body(operation: Operation, attempt: Attempt) -> str:
    # After a successful token call even an unreadable reply contains a token, which is not yet masked.
    holds_token = operation is Operation.TOKEN and not _refused(attempt)
    return "" if holds_token else attempt.body[:_KEPT_BODY].decode("utf-8", "replace")


def interruption_of(call: CallState, interruption: BaseException) -> AgentforceError | None:
    """Return the error of a call in which a signal handler raised *interruption*.

    The error of a start names the session if its answer had arrived, so that the session can be ended.

    :returns: ``None`` if nothing had left, or if a repetition does no harm.
    """
    request = call.request
    if isinstance(interruption.__context__, DeliveryUnknownError):
        return interruption.__context__
    if not call.in_doubt or request.operation not in {Operation.SEND, Operation.START, Operation.TEST}:
        return None
    arrived = _arrived(call)
    if isinstance(arrived, Turn):
        return answer_interrupted(interruption, arrived, call)
    if request.operation is not Operation.START:
        what = f"{request.doing} was interrupted after it had left: {type(interruption).__name__}."
        return DeliveryUnknownError(
            what,
            hint=failure_catalogue.in_doubt(request.operation, Failure.STOPPED),
            operation=request.operation.value,
            applied=None,
            session_id=request.session_id,
            delivery=_delivery_of(call, what),
        )
    return TaskStoppedError(
        f"{request.doing} was interrupted: {type(interruption).__name__}.",
        operation=request.operation.value,
        applied=None if arrived is None else True,
        session_id=None if arrived is None else arrived.session_id,
        external_session_key=call.key,
    )


def answer_interrupted(
    interruption: BaseException | None, turn: Turn, call: CallState | None = None
) -> DeliveryUnknownError:
    """Return the error of an answer that had arrived when a signal handler raised *interruption*.

    :param call: the call that received the answer; ``None`` after its end.
    """
    what = f"The agent answered, but the task was interrupted: {type(interruption).__name__}."
    return DeliveryUnknownError(
        what,
        hint=failure_catalogue.ANSWER_LOST,
        operation=Operation.SEND.value,
        applied=True,
        session_id=turn.session_id,
        turn=turn,
        delivery=None if call is None else _delivery_of(call, what, turn),
    )


def refused_start(error: BaseException) -> str | None:
    """Return the external key of a session that, according to the error of its start, did not start.

    A start that may have arrived before it was repeated has another key.
    """
    if not isinstance(error, AgentforceError) or error.operation != Operation.START:
        return None
    return error.external_session_key if error.applied is False else None


def _delivery_of(call: CallState, what: str, answer: Turn | None = None) -> UnknownDelivery | None:
    """Return the message of a call, to resolve an unknown delivery.

    :param what: what went wrong.
    :param answer: the part of the answer that could be read.
    """
    request = call.request
    if not isinstance(request, SendRequest):
        return None
    return UnknownDelivery(
        request=request.message.request,
        session_id=request.session_id,
        external_session_key=request.session_key,
        sequence_id=request.sequence_id,
        agent_id=request.agent_id,
        sent_at=call.sent_at,
        error=what,
        partial_text=None if answer is None else answer.text,
    )


def _arrived(call: CallState) -> Session | Turn | None:
    """Return the org's answer, even if the client had not finished reading it."""
    last = call.last.value if call.last is not None else None
    found = last if last is not None or call.reader is None else call.reader.whole()
    return found if isinstance(found, Session | Turn) else None


def _remedy(call: CallState, attempt: Attempt, failure: Failure) -> str:
    request = call.request
    if failure is Failure.UNREACHABLE and validation.is_loopback(urlsplit(call.url).hostname or ""):
        return "Check the host and the port. Is agentforce-emulator running?"
    return failure_catalogue.remedy_of(
        request.operation,
        failure,
        status=attempt.status,
        said=attempt.said,
        opaque_token=attempt.access is not None and attempt.access.opaque,
        auth=request.auth,
        agent=request.agent_id,
    )
