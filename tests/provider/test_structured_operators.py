"""What a Dag author gets who says what the answer has to be, against the emulator."""

from __future__ import annotations

import json
from datetime import date

import pytest
from airflow.sdk.exceptions import AirflowFailException
from pydantic import BaseModel, field_validator

from airflow_provider_agentforce.exceptions import (
    AgentFailedError,
    AgentforceInputError,
    DeliveryUnknownError,
    InvalidOutputError,
    RateLimitedError,
    SessionNotFoundError,
)
from airflow_provider_agentforce.operators import (
    ConversationOperator,
    SendMessageOperator,
    StartSessionOperator,
)


class Order(BaseModel):
    order: str
    items: int
    due: date | None = None


GOOD = '{"order": "4711", "items": 3, "due": "2026-12-24"}'
BAD = '{"order": "4711", "items": "many"}'
VALUE = json.loads(GOOD)
SCHEMA = {"type": "object", "required": ["order"], "properties": {"items": {"type": "integer"}}}


def agent_says(org, *answers):
    """Let the agent answer the next messages with these, each a text or a message of the API."""
    for answer in answers:
        message = {"type": "Inform", "message": answer} if isinstance(answer, str) else answer
        org.fail("send", body={"messages": [message]})


def messages(org):
    return [turn.text for session in org.sessions.values() for turn in session.turns]


def numbers(org):
    return [request.body["message"]["sequenceId"] for request in org.requests if request.operation == "send"]


@pytest.fixture(params=["send", "conversation"])
def ask(request, org, run):
    """Ask one message with either operator."""

    def do(text="order 4711 as JSON", *, task_instance=None, **arguments):
        arguments = {"output_type": Order, **arguments}
        if request.param == "conversation":
            operator = ConversationOperator(task_id="a", messages=[text], **arguments)
        else:
            session = run(StartSessionOperator(task_id="start")).value
            operator = SendMessageOperator(task_id="a", session=session, text=text, **arguments)
        return run(operator, **(task_instance or {}))

    return do


class TestBoth:
    @pytest.mark.parametrize("kind", [Order, SCHEMA])
    def test_the_value_is_in_the_result_and_an_xcom_of_its_own(self, org, ask, kind):
        agent_says(org, f"Here you are:\n```json\n{GOOD}\n```")
        done = ask(output_type=kind)
        assert done.value["result"] == done.xcoms["result"] == VALUE
        assert json.loads(json.dumps(done.value)) == done.value
        assert numbers(org) == [1]

    def test_the_default_agent_is_asked_as_in_the_example(self, org, ask):
        done = ask("Give me order 4711 as JSON.")
        assert done.value["result"]["order"] == "4711"

    def test_the_structured_answer_of_a_custom_connection_is_the_result(self, org, ask):
        entry = {"type": "SURFACE_ACTION__Order_0Xs000000000001", "property": "", "value": GOOD}
        agent_says(org, {"type": "Inform", "message": "There it is.", "result": [entry]})
        assert ask().value["result"] == VALUE

    def test_an_answer_that_does_not_fit_is_asked_for_once_more(self, org, ask):
        agent_says(org, BAD, GOOD)
        done = ask()
        assert done.value["result"] == VALUE
        assert done.value["sequence_id"] == done.xcoms["sequence_id"] == 2
        assert done.value["text"] == done.xcoms["text"] == GOOD
        first, question = messages(org)
        assert first == "order 4711 as JSON"
        assert "items: Input should be a valid integer" in question
        assert '"required": ["order", "items"]' in question
        assert numbers(org) == [1, 2]

    def test_there_is_one_corrective_question_and_no_other(self, org, ask):
        agent_says(org, "Hello", BAD)
        done = ask()
        assert isinstance(done.error, InvalidOutputError)
        assert isinstance(done.error, AirflowFailException)
        assert "items: Input should be a valid integer" in str(done.error)
        assert "corrective question" in str(done.error)
        assert done.error.turn.text == BAD
        assert [turn["text"] for turn in done.xcoms["turns"]] == ["Hello", BAD]
        assert "result" not in done.xcoms
        assert numbers(org) == [1, 2]

    def test_none_is_asked_when_none_may_be(self, org, ask):
        agent_says(org, BAD)
        done = ask(output_retries=0)
        assert isinstance(done.error, InvalidOutputError)
        assert "output_retries=1" in str(done.error)
        assert [turn["text"] for turn in done.xcoms["turns"]] == [BAD]
        assert numbers(org) == [1]

    def test_the_corrective_question_counts_as_a_message_of_the_session(self, org, ask, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection(max_messages_per_session=1))
        agent_says(org, BAD)
        done = ask()
        assert isinstance(done.error, InvalidOutputError)
        assert "max_messages_per_session" in str(done.error)
        assert numbers(org) == [1]

    @pytest.mark.parametrize(
        ("text", "outcome"),
        [
            ("please fail", "failed"),
            ("a person please", "escalated"),
            ("refund order 7", "needs_confirmation"),
            ("which one?", "needs_input"),
            ("goodbye", "ended"),
        ],
    )
    def test_what_is_no_answer_has_no_result_and_no_question(self, org, ask, text, outcome):
        done = ask(text, fail_on=())
        assert done.value["outcome"] == outcome
        assert done.value["result"] is None
        assert done.xcoms["result"] is None
        assert numbers(org) == [1]

    def test_outcomes_that_fail_the_task_come_first(self, org, ask):
        assert isinstance(ask("please fail").error, AgentFailedError)
        assert numbers(org) == [1]

    def test_an_answer_that_also_ends_the_session_counts(self, org, ask):
        said = [{"type": "Inform", "message": GOOD}, {"type": "SessionEnded", "reason": "Action"}]
        org.fail("send", body={"messages": said})
        assert ask().value["result"] == VALUE

    def test_a_failure_in_place_of_a_correction_fails_the_task(self, org, ask):
        agent_says(org, "Hello", {"type": "Failure", "code": "ACTION_FAILED", "errors": ["no"]})
        done = ask()
        assert isinstance(done.error, AgentFailedError)
        assert [turn["outcome"] for turn in done.xcoms["turns"]] == ["answered", "failed"]

    def test_a_question_in_place_of_a_correction_has_no_result(self, org, ask):
        agent_says(org, "Hello", {"type": "Inquire", "message": "Which order?"})
        done = ask()
        assert (done.value["outcome"], done.value["result"]) == ("needs_input", None)

    def test_an_unknown_corrective_question_is_not_sent_again(self, org, ask):
        agent_says(org, "Hello")
        org.fail("send", status=500, after=True)
        done = ask()
        assert isinstance(done.error, DeliveryUnknownError)
        assert isinstance(done.error, AirflowFailException)
        assert [turn["text"] for turn in done.xcoms["turns"]] == ["Hello"]
        assert [request.status for request in org.requests if request.operation == "send"] == [200, 500]

    def test_a_refused_corrective_question_does_not_repeat_the_message(self, org, ask):
        """Without a record, as below Airflow 3.3, a retry would send the first message again."""
        agent_says(org, "Hello")
        org.fail("send", status=429, times=3)
        done = ask()
        assert isinstance(done.error, RateLimitedError)
        assert isinstance(done.error, AirflowFailException)
        assert "would send" in str(done.error)
        assert "answered" in str(done.error)
        assert [turn["text"] for turn in done.xcoms["turns"]] == ["Hello"]

    def test_an_xcom_that_fails_after_a_correction_does_not_repeat_the_message(self, org, ask):
        agent_says(org, "Hello", GOOD)
        done = ask(task_instance={"breaks_after": 5})
        assert isinstance(done.error, DeliveryUnknownError)
        assert isinstance(done.error, AirflowFailException)

    @pytest.mark.parametrize(
        ("wrong", "named"),
        [({"output_type": len}, "output_type"), ({"output_type": {"order": "string"}}, "output_type")],
    )
    def test_a_wrong_type_is_named_where_the_operator_is_made(self, org, ask, wrong, named):
        with pytest.raises(AgentforceInputError, match=named):
            ask(**wrong)
        assert org.count("send") == 0

    @pytest.mark.parametrize("retries", [2, -1, True, "1", None, 1.0])
    def test_a_wrong_number_of_retries_is_named_where_the_operator_is_made(self, ask, retries):
        with pytest.raises(AgentforceInputError, match="output_retries must be 0 or 1"):
            ask(output_retries=retries)

    def test_without_a_type_there_is_no_result(self, org, ask):
        done = ask(output_type=None)
        assert "result" not in done.value
        assert "result" not in done.xcoms


class TestCustomConnection:
    def test_it_is_asked_for_at_the_start(self, org, run):
        run(StartSessionOperator(task_id="start", surface_type="Custom"))
        run(ConversationOperator(task_id="a", messages=["hi"], surface_type="Custom"))
        starts = [request.body for request in org.requests if request.operation == "start"]
        assert [body["surfaceConfig"] for body in starts] == [{"surfaceType": "Custom"}] * 2

    @pytest.mark.parametrize("wrong", ["", "Cus tom", 3])
    def test_a_wrong_name_is_named_while_the_dag_is_parsed(self, wrong):
        with pytest.raises(AgentforceInputError, match="surface_type"):
            StartSessionOperator(task_id="start", surface_type=wrong)


class TestConversation:
    def test_the_type_is_that_of_the_last_answer(self, org, run):
        agent_says(org, "Hello", BAD, GOOD)
        done = run(ConversationOperator(task_id="a", messages=["hi", "order 7?"], output_type=Order))
        assert done.value["result"] == VALUE
        assert [turn["sequence_id"] for turn in done.value["turns"]] == [1, 2, 3]
        assert org.open_sessions == []

    def test_it_ends_its_session_when_nothing_fits(self, org, run):
        agent_says(org, BAD, BAD)
        run(ConversationOperator(task_id="a", messages=["hi"], output_type=Order))
        assert org.count("end") == 1
        assert org.open_sessions == []

    def test_a_function_of_messages_is_not_asked_about_the_correction(self, org, run):
        seen = []

        def following(turns):
            seen.append(len(turns))
            return "hi" if not turns else None

        agent_says(org, BAD, GOOD)
        assert run(ConversationOperator(task_id="a", messages=following, output_type=Order)).value["result"]
        assert seen == [0, 1]


class TestSend:
    def test_a_stop_while_the_correction_is_read_does_not_repeat_the_message(self, org, run):
        class Stopped(BaseModel):
            items: int

            @field_validator("items")
            @classmethod
            def _stop(cls, _value):
                raise SystemExit

        agent_says(org, "Hello", '{"items": 1}')
        session = run(StartSessionOperator(task_id="start")).value
        done = run(SendMessageOperator(task_id="a", session=session, text="hi", output_type=Stopped))
        assert isinstance(done.error, DeliveryUnknownError)
        assert isinstance(done.error, AirflowFailException)
        assert [turn["sequence_id"] for turn in done.xcoms["turns"]] == [1, 2]

    def test_the_next_send_goes_on_after_the_corrective_question(self, org, run):
        agent_says(org, "Hello", GOOD)
        session = run(StartSessionOperator(task_id="start")).value
        first = run(SendMessageOperator(task_id="a", session=session, text="hi", output_type=Order)).value
        second = run(SendMessageOperator(task_id="b", session=first, text="thanks")).value
        assert second["sequence_id"] == 3
        assert numbers(org) == [1, 2, 3]

    def test_a_session_that_ends_before_the_correction_keeps_the_answer(self, org, run):
        session = run(StartSessionOperator(task_id="start")).value
        agent_says(org, "Hello")
        org.fail("send", error="session_not_found")
        done = run(SendMessageOperator(task_id="a", session=session, text="hi", output_type=Order))
        assert isinstance(done.error, SessionNotFoundError)
        assert done.error.applied is True
        assert "the message was answered" in str(done.error)
        assert done.xcoms["text"] == "Hello"
