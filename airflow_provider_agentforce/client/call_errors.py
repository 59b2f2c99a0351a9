"""Makes the error of a call: what happened, whether the agent acted, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from airflow_provider_agentforce.client import checks, failure_catalogue
from airflow_provider_agentforce.client.delivery_policy import TABLE, Ending, Failure, Operation
from airflow_provider_agentforce.client.models import Session, Turn
from airflow_provider_agentforce.client.redaction import Redactor
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    DeliveryUnknownError,
    TaskStoppedError,
    one_line,
)

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.executor import Attempt, Progress

_LOGIN_RATE_PAUSE = 60.0
_KEPT_BODY = 2048

_Value = TypeVar("_Value", Session, Turn)
_LONGEST_REASON = 220


def error_of(call: Progress, attempt: Attempt, ending: Ending, redactor: Redactor) -> AgentforceError:
    """Return the error of a call whose last attempt failed."""
    request, failure = call.request, attempt.failure
    assert failure is not None  # noqa: S101 - otherwise there is no error
    row, operation = TABLE[failure], request.operation
    if isinstance(attempt.value, Turn):
        return interrupted(call, attempt.cause, attempt.value)
    kind = row.error_class(ending)
    refused = attempt.status is not None and not 200 <= attempt.status < 300  # noqa: PLR2004
    status = f"HTTP {attempt.status}" if refused else failure.value
    said = (attempt.said.text or attempt.detail)[:_KEPT_BODY]
    reason = one_line(redactor.redact(said), _LONGEST_REASON).rstrip(".")
    # After a token call that succeeded even an unreadable reply holds a token, which is not known yet.
    holds_token = operation is Operation.TOKEN and not refused
    body = b"" if holds_token else attempt.body[:_KEPT_BODY]
    request_id = redactor.redact(attempt.headers.get("x-request-id", ""))
    more: dict[str, Any] = {"turn": attempt.partial} if issubclass(kind, DeliveryUnknownError) else {}
    started = attempt.value.session_id if isinstance(attempt.value, Session) else None
    return kind(
        f"{request.doing} failed: {': '.join(part for part in (status, reason) if part)}.",
        hint=_remedy(call, attempt, failure),
        operation=operation.value,
        status=attempt.status,
        applied=row.delivery.applied,
        retry_after=_LOGIN_RATE_PAUSE if failure is Failure.LOGIN_RATE else attempt.asked_to_wait,
        request_id=one_line(request_id, 100) or None,
        session_id=request.session_id or started,
        external_session_key=call.key,
        body=redactor.redact(body.decode("utf-8", "replace")),
        **more,
    )


def interrupted(
    call: Progress, interruption: BaseException | None, turn: Turn | None = None
) -> DeliveryUnknownError:
    """Return the error of a message that had left when a signal handler raised *interruption*."""
    turn = turn or _arrived(call, Turn)
    applied = True if turn is not None else None
    what = "The agent answered, but the task" if applied else "The message had left when the task"
    return DeliveryUnknownError(
        f"{what} was interrupted: {type(interruption).__name__}.",
        hint=TABLE[Failure.UNREADABLE if applied else Failure.STOPPED].in_doubt,
        operation=call.request.operation.value,
        applied=applied,
        session_id=call.request.session_id,
        turn=turn,
    )


def start_interrupted(call: Progress, interruption: BaseException) -> TaskStoppedError:
    """Return the error of a start that had left when a signal handler raised *interruption*.

    It names the session, if the answer had arrived, so that the session can be ended.
    """
    session = _arrived(call, Session)
    return TaskStoppedError(
        f"{call.request.doing} was interrupted: {type(interruption).__name__}.",
        operation=call.request.operation.value,
        applied=None if session is None else True,
        session_id=None if session is None else session.session_id,
        external_session_key=call.key,
    )


def _arrived(call: Progress, kind: type[_Value]) -> _Value | None:
    """Return what the org answered, however far the client came with it."""
    last = call.last.value if call.last is not None else None
    found = last if last is not None or call.reading is None else call.reading.whole()
    return found if isinstance(found, kind) else None


def _remedy(call: Progress, attempt: Attempt, failure: Failure) -> str:
    request = call.request
    if failure is Failure.UNREACHABLE and checks.is_loopback(urlsplit(call.url).hostname or ""):
        return "Check the host and the port. Is agentforce-emulator running?"
    return failure_catalogue.remedy_of(
        request.operation,
        failure,
        status=attempt.status,
        said=attempt.said,
        opaque_token=attempt.access is not None and attempt.access.opaque,
        agent=request.agent_id,
    )
