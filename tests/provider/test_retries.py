"""What may follow a failure, as one table."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, AirflowTaskTimeout

from airflow_provider_agentforce.client import Turn
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    AgentforceRequestError,
    AnswerLostError,
    DeliveryUnknownError,
    InvalidOutputError,
    RateLimitedError,
    SessionNotFoundError,
)
from airflow_provider_agentforce.operators._retries import Resume, Retry, Stop, next_try, stopped

PASSING, GONE = RateLimitedError("Full."), SessionNotFoundError("Gone.")
REFUSED, WRONG = AgentforceRequestError("No."), AgentforceInputError("Wrong.")
ANSWER_LOST, CUT = AnswerLostError("Gone.", applied=True), DeliveryUnknownError("Cut.", applied=True)
UNKNOWN, UNFIT = DeliveryUnknownError("Lost.", applied=None), InvalidOutputError("Unfit.")
THEIRS, TIMEOUT = ValueError("x"), AirflowTaskTimeout("late")
FAIL, SKIP = AirflowFailException("enough"), AirflowSkipException("enough")
AGAIN = "Messages 1 to 2 are answered"


@pytest.mark.parametrize(
    ("errors", "answered", "recorded", "resend", "restart", "tries_left", "follows"),
    [
        # The Dag's own word.
        ([FAIL, SKIP], 2, True, True, True, True, Retry),
        # Nothing is answered: the error decides, and a next try begins in another session.
        ([PASSING, GONE, REFUSED, WRONG, UNKNOWN, THEIRS, TIMEOUT], 0, True, False, False, True, Retry),
        ([PASSING, UNKNOWN, THEIRS], 0, False, True, False, True, Retry),
        # Something is answered, and the next try finds it.
        ([PASSING, THEIRS], 2, True, False, False, True, Resume),
        ([PASSING, THEIRS], 2, True, False, True, True, Resume),
        ([PASSING, THEIRS], 2, True, False, False, False, AGAIN),
        ([REFUSED, WRONG, GONE, TIMEOUT], 2, True, False, False, True, AGAIN),
        ([REFUSED, WRONG, GONE, TIMEOUT], 2, True, False, True, True, Retry),
        # These say themselves what to do.
        ([UNKNOWN, UNFIT], 2, True, False, False, True, ""),
        # A message that may be repeated.
        ([UNKNOWN], 0, True, True, False, True, Resume),
        ([UNKNOWN], 2, True, True, False, True, Resume),
        ([UNKNOWN], 2, True, True, False, False, ""),
        ([REFUSED], 2, True, True, False, True, AGAIN),
        # The org has the message: it proves so by refusing the repetition, or by a part of an answer.
        ([ANSWER_LOST, CUT], 2, True, True, False, True, ""),
        ([ANSWER_LOST, CUT], 0, True, True, False, True, Retry),
        # Nobody finds it: another try would send it again.
        ([PASSING, THEIRS, TIMEOUT, REFUSED, GONE], 2, False, False, False, True, AGAIN),
        ([PASSING, THEIRS, TIMEOUT, REFUSED, UNKNOWN], 2, False, True, False, True, Retry),
        ([PASSING, THEIRS, UNKNOWN], 2, False, False, True, True, Retry),
    ],
)
def test_what_may_follow(errors, answered, recorded, resend, restart, tries_left, follows):
    for error in errors:
        before = dict(getattr(error, "__dict__", {}))
        found = next_try(
            error,
            answered=answered,
            recorded=recorded,
            resend=resend,
            restart=restart,
            tries_left=tries_left,
        )
        if isinstance(follows, str):
            assert isinstance(found, Stop), error
            assert found.hint.startswith(follows)
            assert bool(found.hint) is bool(follows)
        else:
            assert isinstance(found, follows), error
        assert dict(getattr(error, "__dict__", {})) == before


@pytest.mark.parametrize("error", [PASSING, THEIRS, TIMEOUT])
def test_a_stopped_error_is_another_one_that_nothing_retries(error):
    last = Turn("s", 2, None, "yes", "answered")
    made = stopped(error, "Look.", last)
    assert made is not error
    assert made.retryable is False
    assert str(made).endswith("Look.") or "Look. [" in str(made)
    if error is PASSING:
        assert type(made) is RateLimitedError
        assert error.retryable
    else:
        assert isinstance(made, DeliveryUnknownError)
        assert (made.turn, made.__cause__) == (last, error)
