"""Rating an answer from a Dag."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_agentforce.client import Turn
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    AgentforceTransientError,
    SessionNotFoundError,
)
from airflow_provider_agentforce.operators import (
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
    SubmitFeedbackOperator,
)


def rating(**arguments):
    return SubmitFeedbackOperator(task_id="rate", **{"feedback": "GOOD", **arguments})


@pytest.fixture
def started(org, run):
    return run(StartSessionOperator(task_id="start")).value


@pytest.fixture
def turn(started, run):
    return run(SendMessageOperator(task_id="send", session=started, text="order 7?")).value


def given(org):
    return [entry for session in org.sessions.values() for entry in session.feedback]


@pytest.mark.parametrize("text", [None, "clear"])
def test_answer_of_a_send_is_rated(org, run, turn, text):
    done = run(rating(turn=turn, feedback="BAD", text=text))
    assert done.value == {
        "session_id": turn["session_id"],
        "feedback_id": turn["feedback_id"],
        "feedback": "BAD",
    }
    expected = {"feedbackId": turn["feedback_id"], "feedback": "BAD"}
    assert given(org) == [expected if text is None else {**expected, "text": text}]


@pytest.mark.parametrize(
    "ways",
    [
        lambda turn: {"turn": Turn(**turn)},
        lambda turn: {"turn": {"session_id": "other", "turns": [{"feedback_id": "first"}, turn]}},
        lambda turn: {"session_id": turn["session_id"], "feedback_id": turn["feedback_id"]},
    ],
    ids=["a turn object", "the last answer of a conversation", "two ids"],
)
def test_answer_can_be_given_in_other_ways(org, run, turn, ways):
    assert run(rating(**ways(turn))).error is None
    assert [entry["feedbackId"] for entry in given(org)] == [turn["feedback_id"]]


def test_text_that_renders_to_nothing_is_left_out(org, run, turn):
    run(rating(turn=turn, text=""))
    assert "text" not in given(org)[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "Give either turn (the output of a send) or session_id and feedback_id."),
        ({"turn": {"session_id": "s"}, "feedback_id": "f"}, "Give either turn"),
        ({"session_id": "s"}, "feedback_id is missing"),
        ({"feedback_id": "f"}, "session_id is missing"),
        ({"turn": {"feedback_id": "f"}}, "turn has no session_id"),
        ({"turn": {"session_id": "s", "feedback_id": None}}, "turn has no feedback_id"),
        ({"turn": "{'session_id': 's'}"}, "but is str. Pass send.output itself."),
        ({"turn": {"session_id": "s", "turns": ["x"]}}, "but is dict. Pass send.output itself."),
        ({"session_id": "s", "feedback_id": "f", "feedback": "good"}, "feedback must be GOOD or BAD"),
        ({"session_id": "../s", "feedback_id": "f"}, "session_id must be"),
        ({"session_id": "s", "feedback_id": "f", "text": 7}, "text must be text"),
    ],
)
def test_what_cannot_be_rated_is_told_before_anything_is_sent(org, run, arguments, told):
    operator = rating(turn={"session_id": "s", "feedback_id": "f"})
    # As Airflow renders them.
    for name, value in {"turn": None, **arguments}.items():
        setattr(operator, name, value)
    error = run(operator).error
    assert isinstance(error, AgentforceInputError)
    assert isinstance(error, AirflowFailException)
    assert told in str(error)
    assert org.requests == []


def test_greeting_cannot_be_rated(org, run, started):
    assert "the org provides none for a greeting" in str(run(rating(turn=started)).error)


def test_rating_after_the_end_that_the_org_refuses_says_when_to_rate(org, run, turn):
    run(EndSessionOperator(task_id="end", session=turn))
    error = run(rating(turn=turn)).error
    assert isinstance(error, SessionNotFoundError)
    assert isinstance(error, AirflowFailException)
    assert "Rate its answers before that." in str(error)


def test_output_of_a_conversation_is_read_though_its_session_has_ended(org, run):
    done = run(ConversationOperator(task_id="ask", messages=["order 7?"]))
    assert isinstance(run(rating(turn=done.value)).error, SessionNotFoundError)
    (request,) = [request for request in org.requests if request.operation == "feedback"]
    assert request.body["feedbackId"] == done.value["turns"][-1]["feedback_id"]


def test_rating_that_may_have_arrived_is_sent_again(org, run, turn):
    org.fail("feedback", status=503, after=True)
    assert run(rating(turn=turn)).error is None
    assert org.count("feedback") == 2


def test_busy_session_is_left_to_the_retries_of_the_task(org, run, turn):
    org.fail("feedback", status=423, times=3)
    error = run(rating(turn=turn)).error
    assert isinstance(error, AgentforceTransientError)
    assert not isinstance(error, AirflowFailException)
