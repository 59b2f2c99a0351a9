"""Whether another try may follow a failure, and what it does."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_agentforce._compat import AirflowFailException, AirflowSkipException
from airflow_provider_agentforce.client.models import Turn
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    DeliveryUnknownError,
    InvalidOutputError,
)

_NOT_AGAIN = "{} answered, see the XCom turns; another try would send {} again, so the task ends here."


@dataclass(frozen=True)
class Resume:
    """The next try continues where this one ended, in the same session."""


@dataclass(frozen=True)
class Retry:
    """The error decides, unchanged: a next try, if Airflow makes one, begins from the start."""


@dataclass(frozen=True)
class Stop:
    """No try may follow.

    :param hint: the hint of the error.
    """

    hint: str


def next_try(
    error: BaseException, *, answered: int, recorded: bool, resend: bool, restart: bool, tries_left: bool
) -> Resume | Retry | Stop:
    """Decide whether a try may follow the failure of a task that sends messages.

    :param answered: the number of its messages that have an answer.
    :param recorded: the next try finds these answers.
    :param resend: a message may be sent again even if the agent may have acted.
    :param restart: answered messages may be sent again, in another session.
    :param tries_left: another try follows if the error allows it.
    """
    if isinstance(error, AirflowFailException | AirflowSkipException):
        return Retry()  # the Dag's author has decided that no try follows
    repeatable = resend and isinstance(error, DeliveryUnknownError) and error.may_be_resent
    if recorded and tries_left and (repeatable or (answered and _passes(error))):
        return Resume()
    if not answered or restart or (resend and not recorded):
        return Retry()
    says_so_itself = isinstance(error, DeliveryUnknownError | InvalidOutputError)
    return Stop("" if says_so_itself else _not_again(answered))


def _not_again(answered: int) -> str:
    if answered == 1:
        return _NOT_AGAIN.format("Message 1 is", "it")
    return _NOT_AGAIN.format(f"Messages 1 to {answered} are", "them")


def _passes(error: BaseException) -> bool:
    return error.retryable if isinstance(error, AgentforceError) else isinstance(error, Exception)


def stopped(error: BaseException, hint: str, last: Turn) -> AgentforceError:
    """Return *error* as final; an error from elsewhere becomes an unknown delivery.

    :param last: the last answer.
    """
    if isinstance(error, AgentforceError):
        return error.replaced(retryable=False, hint=f"{error.hint} {hint}".strip())
    lost = DeliveryUnknownError(
        f"{type(error).__name__} after the answer to message {last.sequence_id}.",
        hint=hint,
        applied=True,
        session_id=last.session_id,
        turn=last,
    )
    lost.__cause__ = error
    return lost
