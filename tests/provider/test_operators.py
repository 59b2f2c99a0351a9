"""What a Dag author gets from the four operators, against the emulator."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest
import requests
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout
from stand_ins import StateStore, TaskInstance

from airflow_provider_agentforce.client import Cancel, Reply, Turn
from airflow_provider_agentforce.emulator.errors import ERRORS
from airflow_provider_agentforce.exceptions import (
    AgentFailedError,
    AgentforceAuthError,
    AgentforceError,
    AgentforceInputError,
    AgentforceRequestError,
    AgentforceTransientError,
    DeliveryUnknownError,
    RateLimitedError,
    SessionNotFoundError,
    TaskStoppedError,
)
from airflow_provider_agentforce.operators import (
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
    external_session_key,
)
from airflow_provider_agentforce.redaction import forms


def ends_the_task(error) -> bool:
    return isinstance(error, AirflowFailException)


def the_session(org):
    (session,) = org.sessions.values()
    return session


def sent(org):
    return [request for request in org.requests if request.operation == "send"]


@pytest.fixture
def started(org, run):
    return run(StartSessionOperator(task_id="start")).value


class TestStart:
    def test_returns_the_session_and_pushes_its_short_keys(self, org, run):
        done = run(
            StartSessionOperator(task_id="start", tz="Europe/Berlin", variables={"$Context.Tier": "gold"})
        )
        session = the_session(org)
        assert done.value == {
            "session_id": session.session_id,
            "sequence_id": 0,
            "agent_id": org.agent_id,
            "external_session_key": external_session_key("dag", "run", "task", -1, 1),
            "greeting": session.greeting,
            "agent_version": done.value["agent_version"],
        }
        assert done.value["agent_version"].startswith("0X9")
        assert done.xcoms == {key: done.value[key] for key in done.xcoms}
        assert set(done.xcoms) == {"session_id", "sequence_id", "agent_id", "greeting"}
        assert (session.tz, session.bypass_user, session.external_session_key) == (
            "Europe/Berlin",
            True,
            done.value["external_session_key"],
        )
        assert session.variables == {"$Context.Tier": "gold"}
        assert json.dumps(done.value)

    def test_the_key_differs_by_try_and_can_be_given(self, org, run):
        given = "57904eb6-5352-4c5e-adf6-5f100572cf5d"
        run(StartSessionOperator(task_id="start"), try_number=2)
        run(StartSessionOperator(task_id="start", external_session_key=given))
        keys = [session.external_session_key for session in org.sessions.values()]
        assert keys == [external_session_key("dag", "run", "task", -1, 2), given]

    def test_ends_its_session_when_the_task_fails_after_the_start(self, org, run):
        done = run(StartSessionOperator(task_id="start"), breaks_after=0)
        assert isinstance(done.error, RuntimeError)
        assert org.count("start") == 1
        assert org.open_sessions == []

    def test_an_employee_agent_is_told_from_the_400(self, org, run):
        employee = next(agent.id for agent in org.agents if agent.employee)
        refused = run(StartSessionOperator(task_id="start", agent_id=employee)).error
        assert isinstance(refused, AgentforceRequestError)
        assert "bypass_user=False" in str(refused)
        assert ends_the_task(refused)
        assert run(StartSessionOperator(task_id="start", agent_id=employee, bypass_user=False)).value

    def test_an_agent_may_be_given_by_its_name(self, org, run):
        done = run(StartSessionOperator(task_id="start", agent_id="Service_Agent"))
        assert done.value["agent_id"] == done.xcoms["agent_id"] == org.agent_id
        assert the_session(org).agent_id == org.agent_id

    @pytest.mark.parametrize("name", ["Inactive_Agent", "Nobody"])
    def test_a_name_that_cannot_be_used_ends_the_task_before_a_start(self, org, run, name):
        error = run(StartSessionOperator(task_id="start", agent_id=name)).error
        assert name in str(error)
        assert ends_the_task(error)
        assert org.count("start") == 0

    def test_an_inactive_agent_is_named_and_not_retried(self, org, run):
        inactive = next(agent.id for agent in org.agents if not agent.active)
        error = run(StartSessionOperator(task_id="start", agent_id=inactive)).error
        assert "not active" in str(error)
        assert ends_the_task(error)
        assert org.count("start") == 1

    def test_a_busy_org_is_left_to_the_retries_of_the_task(self, org, run):
        org.fail("start", status=429, times=3)
        error = run(StartSessionOperator(task_id="start")).error
        assert isinstance(error, RateLimitedError)
        assert not ends_the_task(error)
        assert org.count("start") == 3

    def test_a_start_whose_answer_is_lost_names_the_session_that_may_be_open(self, org, run, caplog):
        org.fail("start", drop=True, after=True)
        org.fail("start", status=502)
        error = run(StartSessionOperator(task_id="start")).error
        first, second = [
            request.body["externalSessionKey"] for request in org.requests if request.operation == "start"
        ]
        assert first != second
        assert first in caplog.text
        assert isinstance(error, AgentforceTransientError)
        assert error.external_session_key == second


class TestSend:
    def test_a_chain_numbers_its_messages(self, org, run, started):
        first = run(SendMessageOperator(task_id="a", session=started, text="status of order 7?"))
        second = run(SendMessageOperator(task_id="b", session=first.value, text="order 8?"))
        assert [turn.sequence_id for turn in the_session(org).turns] == [1, 2]
        assert second.value["sequence_id"] == 2
        assert second.value["text"] == the_session(org).turns[1].messages[0]["message"]
        assert set(second.value) == {
            *("session_id", "sequence_id", "agent_id", "text", "outcome", "messages"),
            *("citations", "results", "feedback_id", "plan_id", "is_content_safe", "request", "resolution"),
            "agent_version",
        }
        assert second.value["agent_version"] == started["agent_version"]
        assert second.value["agent_id"] == org.agent_id
        assert set(second.xcoms) == {"session_id", "sequence_id", "agent_id", "text", "outcome"}
        assert second.value["results"][0]["value"]["order"] == "8"
        assert json.dumps(second.value)

    @pytest.mark.parametrize("number", ["1", 1, " 1 "])
    def test_the_session_can_be_given_by_id_and_number(self, org, run, started, number):
        run(SendMessageOperator(task_id="a", session=started, text="one"))
        operator = SendMessageOperator(
            task_id="b", session_id=started["session_id"], sequence_id=number, text="two"
        )
        assert run(operator).value["sequence_id"] == 2

    def test_a_streamed_answer_is_the_same_dict(self, org, run, started, capsys):
        plain = run(SendMessageOperator(task_id="a", session=started, text="order 7?")).value
        streamed = run(SendMessageOperator(task_id="b", session=plain, text="order 7?", stream=True)).value
        for turn in (plain, streamed):
            for key in ("sequence_id", "feedback_id", "plan_id"):
                turn.pop(key)
            for message in turn["messages"]:
                for key in ("id", "feedbackId", "planId"):
                    message.pop(key)
        assert streamed == plain
        assert "Agent: Working on it" in capsys.readouterr().out

    def test_variables_and_the_message_replied_to_are_sent(self, org, run, started):
        run(
            SendMessageOperator(
                task_id="a",
                session=started,
                text="hi",
                variables=[{"name": "$Context.EndUserLanguage", "value": "de"}],
                in_reply_to="abc-1",
            )
        )
        (request,) = sent(org)
        assert request.body == {
            "message": {"type": "Text", "sequenceId": 1, "text": "hi", "inReplyToMessageId": "abc-1"},
            "variables": [{"name": "$Context.EndUserLanguage", "type": "Text", "value": "de"}],
        }

    @pytest.mark.parametrize(
        ("decision", "kind", "said"),
        [
            (lambda turn: {"reply": turn}, "Reply", "Done."),
            (lambda turn: {"reply": turn["messages"][0]["confirm"]}, "Reply", "Done."),
            (lambda turn: {"cancel": turn}, "Cancel", "All right, I changed nothing."),
            (lambda turn: {"cancel": True}, "Cancel", "All right, I changed nothing."),
        ],
    )
    def test_a_decision_answers_the_agents_question(self, org, run, started, decision, kind, said):
        asked = run(SendMessageOperator(task_id="ask", session=started, text="refund order 7")).value
        answer = run(SendMessageOperator(task_id="decide", session=asked, **decision(asked))).value
        assert (answer["text"], answer["sequence_id"], answer["request"]["type"]) == (said, 2, kind)
        (session,) = org.sessions.values()
        assert [turn.type for turn in session.turns] == ["Text", kind]

    @pytest.mark.parametrize(
        ("decision", "words"),
        [
            ({"reply": [{"type": "a", "property": "b", "value": 1}]}, "asks about"),
            ({"reply": "yes"}, "reply must be a list of items"),
            ({"reply": {"session_id": "s"}}, "reply must be a list of items"),
        ],
    )
    def test_a_decision_that_does_not_fit_sends_nothing(self, org, run, started, decision, words):
        asked = run(SendMessageOperator(task_id="ask", session=started, text="refund order 7")).value
        error = refused(run, SendMessageOperator, session=asked, **decision)
        assert words in str(error)
        assert len(sent(org)) == 1

    @pytest.mark.parametrize("given", [{}, {"text": "Hi", "cancel": True}, {"cancel": False}])
    def test_a_message_is_exactly_one_thing(self, given):
        with pytest.raises(AgentforceInputError, match="exactly one of text, reply, cancel and transfer"):
            SendMessageOperator(task_id="send", session={"session_id": "s"}, **given)

    def test_a_failure_inside_a_200_fails_the_task_and_keeps_the_answer(self, org, run, started):
        done = run(SendMessageOperator(task_id="a", session=started, text="please fail"))
        assert isinstance(done.error, AgentFailedError)
        assert ends_the_task(done.error)
        assert done.error.applied is True
        assert done.error.turn.outcome == done.xcoms["outcome"] == "failed"
        assert "ACTION_FAILED" in str(done.error)

    def test_fail_on_says_which_outcomes_fail(self, org, run, started):
        allowed = run(SendMessageOperator(task_id="a", session=started, text="please fail", fail_on=()))
        assert allowed.value["outcome"] == "failed"
        strict = SendMessageOperator(
            task_id="b", session=allowed.value, text="a person, please", fail_on=["escalated"]
        )
        assert isinstance(run(strict).error, AgentFailedError)

    @pytest.mark.parametrize(
        ("text", "outcome"),
        [
            ("order 7?", "answered"),
            ("please refund order 7", "needs_confirmation"),
            ("I want a human", "escalated"),
            ("goodbye", "ended"),
        ],
    )
    def test_the_outcome_tells_what_the_agent_did(self, org, run, started, text, outcome):
        assert run(SendMessageOperator(task_id="a", session=started, text=text)).value["outcome"] == outcome

    def test_a_message_that_may_have_been_acted_on_ends_the_task(self, org, run, started):
        org.fail("send", status=500, after=True)
        error = run(SendMessageOperator(task_id="a", session=started, text="change it")).error
        assert isinstance(error, DeliveryUnknownError)
        assert ends_the_task(error)
        assert (error.applied, error.status, error.session_id) == (None, 500, started["session_id"])
        assert "cannot be known" in str(error)
        assert org.count("send") == org.applied("change it") == 1

    def test_resend_leaves_it_to_airflow_and_keeps_the_number(self, org, run, started):
        org.fail("send", status=500, after=True)
        operator = SendMessageOperator(
            task_id="a", session=started, text="harmless", on_unknown_delivery="resend"
        )
        error = run(operator).error
        assert isinstance(error, DeliveryUnknownError)
        assert not ends_the_task(error)
        assert run(operator, try_number=2).value["sequence_id"] == 1
        assert [request.body["message"]["sequenceId"] for request in sent(org)] == [1, 1]

    def test_a_cut_stream_keeps_what_arrived(self, org, run, started):
        org.fail("send", cut=900)
        done = run(SendMessageOperator(task_id="a", session=started, text="order 7?", stream=True))
        assert isinstance(done.error, DeliveryUnknownError)
        assert ends_the_task(done.error)
        assert done.xcoms["partial_answer"]["text"]
        assert "Order 7 has shipped (".startswith(done.xcoms["partial_answer"]["text"].strip())

    def test_an_answer_that_cannot_be_stored_is_never_asked_for_again(self, org, run, started):
        error = run(SendMessageOperator(task_id="a", session=started, text="order 7?"), breaks_after=0).error
        assert isinstance(error, DeliveryUnknownError)
        assert ends_the_task(error)
        assert error.turn.text

    def test_a_session_that_is_gone_says_so(self, org, run, started):
        run(EndSessionOperator(task_id="end", session=started))
        error = run(SendMessageOperator(task_id="a", session=started, text="hello?")).error
        assert isinstance(error, SessionNotFoundError)
        assert ends_the_task(error)
        assert "Start a new one" in str(error)

    def test_the_message_over_the_limit_is_not_sent(self, org, run, started, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection(max_messages_per_session=3))
        operator = SendMessageOperator(
            task_id="a", session_id=started["session_id"], sequence_id=3, text="one more"
        )
        error = run(operator).error
        assert isinstance(error, AgentforceInputError)
        assert "max_messages_per_session" in str(error)
        assert org.count("send") == 0

    def test_a_token_revoked_in_the_middle_is_replaced(self, org, run, started):
        org.revoke_tokens()
        done = run(SendMessageOperator(task_id="a", session=started, text="order 7?"))
        assert done.value["sequence_id"] == 1
        assert org.applied("order 7?") == 1


def refused(run, kind, **arguments):
    """Return the error of arguments that cannot be right, met at the parse or when the task runs."""
    try:
        operator = kind(task_id="a", **arguments)
    except AgentforceInputError as error:
        return error
    error = run(operator).error
    assert ends_the_task(error)
    return error


class TestBadInput:
    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"text": ""}, "text"),
            ({"text": "  \n"}, "text"),
            ({"text": 7}, "text"),
            ({"text": ["a"]}, "text"),
            ({"variables": "x"}, "variables"),
            ({"variables": [{"name": "a"}]}, "variables[0]"),
            ({"variables": {"a": object()}}, "variables['a']"),
            ({"variables": [{"name": "a", "value": float("nan")}]}, "variables[0]"),
            ({"in_reply_to": "a/b"}, "in_reply_to"),
            ({"session": "{'session_id': 1}"}, "session"),
            ({"session": {}}, "session"),
            ({"session": {"session_id": "../agents"}}, "session.session_id"),
            ({"session": {"session_id": "a%2e"}}, "session.session_id"),
            ({"session": {"session_id": "a\r\nb"}}, "session.session_id"),
            ({"session": {"session_id": "a", "sequence_id": "x"}}, "session.sequence_id"),
            ({"session": None, "session_id": "abc", "sequence_id": "-1"}, "sequence_id"),
            ({"session": None, "session_id": "abc", "sequence_id": True}, "sequence_id"),
        ],
    )
    def test_a_send_names_the_field_and_sends_nothing(self, org, run, wrong, named):
        given = {"text": "hello", "session": {"session_id": "abc", "sequence_id": 0}, **wrong}
        error = refused(run, SendMessageOperator, **given)
        assert isinstance(error, AgentforceInputError)
        assert named in str(error)
        assert "\n" not in str(error)
        assert org.requests == []

    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"agent_id": "a/b"}, "agent_id"),
            ({"agent_id": ".."}, "agent_id"),
            ({"tz": "Mars/Phobos"}, "tz"),
            ({"tz": 3}, "tz"),
            ({"external_session_key": "not-a-uuid"}, "external_session_key"),
            ({"variables": [1]}, "variables[0]"),
            ({"bypass_user": "true"}, "bypass_user"),
        ],
    )
    def test_a_start_names_the_field_and_sends_nothing(self, org, run, wrong, named):
        error = refused(run, StartSessionOperator, **wrong)
        assert isinstance(error, AgentforceInputError)
        assert named in str(error)
        assert org.requests == []

    @pytest.mark.parametrize(
        ("messages", "named"),
        [
            ("{{ hello }}", "messages"),
            (None, "messages"),
            (["ok", " "], "messages[1]"),
            (["ok", {"txt": "a"}], "messages[1]"),
            ([{"text": "a", "variables": 3}], "messages[0].variables"),
            ([3], "messages[0]"),
        ],
    )
    def test_a_conversation_is_checked_whole_before_its_start(self, org, run, messages, named):
        error = refused(run, ConversationOperator, messages=messages)
        assert isinstance(error, AgentforceInputError)
        assert named in str(error)
        assert org.requests == []

    def test_a_conversation_over_the_limit_is_not_begun(self, org, run, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection(max_messages_per_session=2))
        error = run(ConversationOperator(task_id="a", messages=["1", "2", "3"])).error
        assert isinstance(error, AgentforceInputError)
        assert "max_messages_per_session" in str(error)
        assert org.requests == []

    def test_fixed_choices_are_checked_when_the_dag_is_parsed(self):
        with pytest.raises(AgentforceInputError, match="fail_on"):
            SendMessageOperator(task_id="a", text="x", fail_on=["broken"])
        with pytest.raises(AgentforceInputError, match="on_unknown_delivery"):
            SendMessageOperator(task_id="a", text="x", on_unknown_delivery="perhaps")
        with pytest.raises(AgentforceInputError, match="end_reason"):
            ConversationOperator(task_id="a", messages=["x"], end_reason="Bored")


class TestEnd:
    def test_ends_once_and_then_finds_nothing_to_end(self, org, run, started):
        operator = EndSessionOperator(task_id="end", session=started, reason="Transfer")
        assert run(operator).value == {"session_id": started["session_id"], "ended": True}
        assert run(operator).value == {"session_id": started["session_id"], "ended": False}
        assert the_session(org).end_reason == "Transfer"

    def test_by_id(self, org, run, started):
        assert run(EndSessionOperator(task_id="end", session_id=started["session_id"])).value["ended"]

    def test_an_unknown_reason_is_named(self, org, run, started):
        error = refused(run, EndSessionOperator, session=started, reason="Bored")
        assert isinstance(error, AgentforceInputError)
        assert "UserRequest" in str(error)
        assert org.count("end") == 0

    def test_a_busy_org_is_left_to_the_retries_of_the_task(self, org, run, started):
        org.fail("end", status=503, times=3)
        error = run(EndSessionOperator(task_id="end", session=started)).error
        assert isinstance(error, AgentforceTransientError)
        assert not ends_the_task(error)


class TestConversation:
    def test_holds_a_conversation_in_one_session(self, org, run):
        messages = ["order 7?", {"text": "order 8?", "variables": {"$Context.EndUserLanguage": "de"}}]
        done = run(
            ConversationOperator(task_id="talk", messages=messages, variables={"$Context.Tier": "gold"})
        )
        session = the_session(org)
        assert [turn.text for turn in session.turns] == ["order 7?", "order 8?"]
        assert done.value["text"] == done.value["turns"][1]["text"] == session.turns[1].messages[0]["message"]
        assert (done.value["sequence_id"], done.value["outcome"]) == (2, "answered")
        assert done.value["session_id"] == done.xcoms["session_id"] == session.session_id
        assert (session.open, session.end_reason) == (False, "UserRequest")
        assert session.external_session_key == external_session_key("dag", "run", "task")
        assert json.dumps(done.value)

    def test_a_function_sees_the_answers_and_chooses_the_next_message(self, org, run):
        seen = []

        def following(turns: list[Turn]) -> str | None:
            seen.append([turn.outcome for turn in turns])
            if not turns:
                return "please refund order 7"
            return Reply() if turns[-1].outcome == "needs_confirmation" else None

        done = run(ConversationOperator(task_id="talk", messages=following))
        assert seen == [[], ["needs_confirmation"], ["needs_confirmation", "answered"]]
        assert [turn.type for turn in the_session(org).turns] == ["Text", "Reply"]
        assert done.value["sequence_id"] == 2

    @pytest.mark.parametrize(
        ("decision", "types"),
        [
            (Reply(), ["Text", "Reply", "Text"]),
            (Cancel(), ["Text", "Cancel", "Text"]),
            ("no", ["Text", "Text", "Text"]),
            (None, ["Text", "Text"]),
        ],
    )
    def test_a_function_decides_what_the_agent_asks_amid_a_list(self, org, run, decision, types):
        asked = []

        def decide(turn):
            asked.append(turn.outcome)
            return decision

        messages = ["please refund order 7", "thank you"]
        done = run(ConversationOperator(task_id="talk", messages=messages, on_needs_confirmation=decide))
        assert asked == ["needs_confirmation"]
        assert [turn.type for turn in the_session(org).turns] == types
        assert [turn["request"]["type"] for turn in done.value["turns"]] == types

    def test_a_question_left_open_is_told_in_the_log(self, org, run, capsys):
        done = run(ConversationOperator(task_id="talk", messages=["please refund order 7"]))
        assert done.value["outcome"] == "needs_confirmation"
        assert "has not done what it asked about" in " ".join(capsys.readouterr().out.split())

    def test_a_decision_that_does_not_fit_ends_the_task_and_the_session(self, org, run):
        wrong = Reply([{"type": "a", "property": "b", "value": 1}])
        done = run(
            ConversationOperator(
                task_id="talk", messages=["please refund order 7"], on_needs_confirmation=lambda _turn: wrong
            )
        )
        assert "asks about" in str(done.error)
        assert ends_the_task(done.error)
        assert (org.count("send"), org.open_sessions) == (1, [])

    def test_a_decision_is_a_function(self):
        with pytest.raises(AgentforceInputError, match="on_needs_input must be a function"):
            ConversationOperator(task_id="talk", messages=["a"], on_needs_input="yes")

    def test_stops_when_the_agent_ends_the_session(self, org, run):
        done = run(ConversationOperator(task_id="talk", messages=["goodbye", "still there?"]))
        assert [turn["outcome"] for turn in done.value["turns"]] == ["ended"]
        assert org.count("send") == 1
        assert org.count("end") == 0

    def test_a_failure_keeps_the_answers_ends_the_session_and_is_not_retried(self, org, run):
        org.fail("send", after=True)
        org.fail("send", status=429, times=3)
        done = run(ConversationOperator(task_id="talk", messages=["order 7?", "order 8?"]))
        assert isinstance(done.error, RateLimitedError)
        assert ends_the_task(done.error)
        assert "Message 1 is answered" in str(done.error)
        assert [turn["sequence_id"] for turn in done.xcoms["turns"]] == [1]
        assert org.open_sessions == []

    def test_a_failure_before_the_first_answer_is_left_to_the_retries(self, org, run):
        org.fail("send", status=429, times=3)
        done = run(ConversationOperator(task_id="talk", messages=["order 7?"]))
        assert isinstance(done.error, RateLimitedError)
        assert not ends_the_task(done.error)
        assert org.open_sessions == []

    def test_resend_leaves_every_failure_to_the_retries(self, org, run):
        org.fail("send", after=True)
        org.fail("send", status=500, after=True)
        operator = ConversationOperator(
            task_id="talk", messages=["order 7?", "order 8?"], on_unknown_delivery="resend"
        )
        error = run(operator).error
        assert isinstance(error, DeliveryUnknownError)
        assert not ends_the_task(error)

    def test_an_unknown_delivery_ends_the_session_and_the_task(self, org, run):
        org.fail("send", drop=True, after=True)
        done = run(ConversationOperator(task_id="talk", messages=["change it", "and then?"]))
        assert isinstance(done.error, DeliveryUnknownError)
        assert ends_the_task(done.error)
        assert org.applied() == 1
        assert org.open_sessions == []

    @pytest.mark.parametrize("pushes", [2, 3])
    def test_an_xcom_store_that_fails_after_the_answers_does_not_repeat_them(self, org, run, pushes):
        done = run(ConversationOperator(task_id="talk", messages=["order 7?"]), breaks_after=pushes)
        assert ends_the_task(done.error)
        assert org.open_sessions == []

    def test_an_xcom_store_that_fails_does_not_hide_an_unknown_delivery(self, org, run, started):
        org.fail("send", cut=900)
        operator = SendMessageOperator(task_id="a", session=started, text="order 7?", stream=True)
        done = run(operator, breaks_after=0)
        assert isinstance(done.error, DeliveryUnknownError)
        assert ends_the_task(done.error)

    def test_a_function_that_breaks_after_an_answer_is_not_retried(self, org, run):
        def following(turns):
            return "order 7?" if not turns else 1 / 0

        done = run(ConversationOperator(task_id="talk", messages=following))
        assert ends_the_task(done.error)
        assert "ZeroDivisionError" in str(done.error)
        assert isinstance(done.error.__cause__, ZeroDivisionError)
        assert len(done.xcoms["turns"]) == 1
        assert org.open_sessions == []

    def test_a_function_that_says_nothing_is_an_error(self, org, run):
        done = run(ConversationOperator(task_id="talk", messages=lambda _turns: None))
        assert isinstance(done.error, AgentforceInputError)
        assert org.open_sessions == []

    def test_a_failed_end_does_not_fail_the_task(self, org, run, caplog):
        org.fail("end", status=400)
        done = run(ConversationOperator(task_id="talk", messages=["order 7?"]))
        assert done.value["text"]
        assert "may still be open" in caplog.text

    def test_a_failed_end_does_not_hide_the_first_error(self, org, run):
        org.fail("end", status=400)
        done = run(ConversationOperator(task_id="talk", messages=["please fail"]))
        assert isinstance(done.error, AgentFailedError)

    def test_streams_too(self, org, run):
        done = run(ConversationOperator(task_id="talk", messages=["order 7?"], stream=True))
        assert the_session(org).turns[0].stream
        assert done.value["text"] == the_session(org).turns[0].messages[0]["message"]


class Signalled:
    """Sends this process a signal while the org holds a request, with a handler as Airflow installs it.

    The org goes on with the request once the handler has run.
    """

    def __init__(self, org, operation, number, handler):
        self.hold = org.hold(operation)
        self.number, self.handler = number, handler
        self.handled = threading.Event()

    def __enter__(self):
        self.before = signal.signal(self.number, self._handle)
        self.hold.__enter__()
        self.thread = threading.Thread(target=self._fire)
        self.thread.start()

    def _handle(self, *signal_and_frame):
        try:
            self.handler()
        finally:
            self.handled.set()

    def _fire(self):
        self.hold.wait_until_held(5)
        os.kill(os.getpid(), self.number)
        self.handled.wait(5)
        self.hold.release()

    def __exit__(self, *error):
        self.thread.join()
        self.hold.__exit__(*error)
        signal.signal(self.number, self.before)


class TestKill:
    def test_a_kill_during_a_send_is_unknown_and_sent_once(self, org, run, started):
        operator = SendMessageOperator(task_id="a", session=started, text="change it")
        with Signalled(org, "send", signal.SIGTERM, operator.on_kill):
            error = run(operator).error
        assert isinstance(error, DeliveryUnknownError)
        assert ends_the_task(error)
        assert org.count("send") == 1
        assert org.open_sessions == [started["session_id"]]

    def test_a_kill_during_a_conversation_ends_its_session(self, org, run):
        operator = ConversationOperator(task_id="a", messages=["change it"])
        with Signalled(org, "send", signal.SIGTERM, operator.on_kill):
            error = run(operator).error
        assert ends_the_task(error)
        assert org.applied("change it") == 1
        assert org.open_sessions == []

    def test_a_kill_during_the_start_is_left_to_the_retries(self, org, run, caplog):
        operator = StartSessionOperator(task_id="a")
        with Signalled(org, "start", signal.SIGTERM, operator.on_kill):
            error = run(operator).error
        assert isinstance(error, TaskStoppedError)
        assert not ends_the_task(error)
        assert external_session_key("dag", "run", "task") in caplog.text

    def test_execution_timeout_during_a_send_is_unknown(self, org, run, started):
        def time_out():
            raise AirflowTaskTimeout("too long")

        operator = SendMessageOperator(task_id="a", session=started, text="change it")
        with Signalled(org, "send", signal.SIGALRM, time_out):
            error = run(operator).error
        assert isinstance(error, DeliveryUnknownError)
        assert ends_the_task(error)
        assert org.count("send") == 1

    def test_a_kill_before_anything_is_sent_sends_nothing(self, org, run, started):
        operator = SendMessageOperator(task_id="a", session=started, text="change it")
        operator.on_kill()
        error = run(operator).error
        assert isinstance(error, TaskStoppedError)
        assert org.count("send") == 0


def test_a_refused_secret_ends_the_task_and_is_not_shown(org, run, monkeypatch):
    connection = json.loads(org.connection())
    connection["password"] = "canary-secret-42"
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", json.dumps(connection))
    error = run(StartSessionOperator(task_id="a")).error
    assert isinstance(error, AgentforceAuthError)
    assert ends_the_task(error)
    assert "consumer secret" in str(error)
    assert "canary" not in str(error) + repr(error)
    assert org.count("token") == 1


FAULTS = [
    *(
        {"status": status}
        for status in (302, 400, 401, 403, 404, 408, 409, 412, 413, 422, 423, 429, 500, 502, 503, 504)
    ),
    *({"error": name} for name in ERRORS),
    *({"drop": True}, {"cut": 5}, {"body": "<html>"}, {"body": b"\xff"}, {"body": [1]}),
]


# The operation decides what is done with an error, the fault only what it says.
TROUBLE = [
    *(("send", fault) for fault in FAULTS),
    *(
        (operation, {"status": status})
        for operation in ("token", "start", "end")
        for status in (400, 401, 500)
    ),
    *((operation, {"cut": 5}) for operation in ("token", "start", "end")),
]


@pytest.mark.parametrize(("operation", "fault"), TROUBLE, ids=str)
def test_no_secret_is_in_an_xcom_a_state_row_a_rendered_field_an_error_or_a_log(
    org, caplog, fault, operation
):
    caplog.set_level("DEBUG")
    org.fail(operation, **fault)
    operator = ConversationOperator(task_id="a", messages=["order 7?"])
    ti, rows, error = TaskInstance(), StateStore(), None
    try:
        ti.xcoms["return_value"] = operator.execute({"ti": ti, "task_state_store": rows})
    except AgentforceError as caught:
        error = caught
    rendered = {name: getattr(operator, name) for name in operator.template_fields}
    shown = requests.get(f"{org.url}/emulator/requests", timeout=5).text
    told = (
        json.dumps([ti.xcoms, rows.values, rendered])
        + f"{error}{error!r}{vars(error) if error else ''}"
        + shown
        + caplog.text
    )
    bearers = {request.headers.get("authorization", " ").split(" ")[1] for request in org.requests} - {""}
    for hidden in forms(org.consumer_secret).union(*(forms(bearer) for bearer in bearers)):
        assert hidden not in told
    requests.delete(f"{org.url}/emulator/faults", timeout=5)
