"""A person decides what the agent asks in a conversation. What the agent did is the emulator's to say."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskAwaitingInput, TaskDeferred
from stand_ins import KILLED, Task, chosen

from airflow_provider_agentforce.decorators.agentforce import AgentforceDecoratedOperator
from airflow_provider_agentforce.delivery import Ask, Check
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    DeliveryUnknownError,
    LedgerError,
    SessionNotFoundError,
)
from airflow_provider_agentforce.hooks.agentforce import AgentforceHook
from airflow_provider_agentforce.operators import ConversationOperator
from airflow_provider_agentforce.operators._asking import APPROVE, DECLINE, SEND

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

REFUND = "please refund order 7"
WHICH = "which case is missing?"
LATE = {"error": "The timeout has passed.", "error_type": "timeout"}


def talking(*messages, decide="ask", **more):
    arguments = {"on_needs_confirmation": decide, "on_needs_input": decide, **more}
    return Task(ConversationOperator, messages=list(messages), **arguments)


def waiting(task):
    """Run a try until it waits for a person."""
    with pytest.raises(TaskAwaitingInput) as wait:
        task.run()
    return wait.value


def said(org):
    return [[turn.text or turn.type for turn in session.turns] for session in org.sessions.values()]


def acted(turn):
    return any(result["value"].get("confirmed") for result in turn["results"])


def place_of(actions):
    (name,) = actions.asked[0]["params"]
    return name


@pytest.fixture
def inquiring(make_org, monkeypatch):
    """Have the agent inquire about these properties, each with the value that it proposes."""

    def make(collect):
        items = [{"targetType": "X", "targetProperty": name, "data": data} for name, data in collect]
        asks = {"type": "Inquire", "text": "What?", "collect": items}
        org = make_org(script=lambda turn: asks if turn.text == "ask" else "Thanks.")
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection())

    return make


class TestDecision:
    @pytest.mark.parametrize(
        ("option", "kind"),
        [(APPROVE, "Reply"), (DECLINE, "Cancel")],
    )
    def test_a_person_approves_or_declines_and_the_conversation_goes_on(
        self, org, actions, caplog, option, kind
    ):
        task = talking(REFUND, "thank you")
        wait = waiting(task)
        (asked,) = actions.asked
        assert asked["options"] == [APPROVE, DECLINE]
        assert f"    Shall I go ahead? You asked: {REFUND}" in asked["body"]
        assert '{"request": "please refund order 7"}' in asked["body"]
        assert (len(org.open_sessions), wait.timeout) == (1, None)
        result = task.resume(wait, chosen(option))
        assert said(org) == [[REFUND, kind, "thank you"]]
        assert [turn["request"]["type"] for turn in result["turns"]] == ["Text", kind, "Text"]
        assert acted(result["turns"][1]) == (option == APPROVE)
        assert org.open_sessions == []
        assert f"Ada has decided: {option}" in caplog.text

    def test_a_person_fills_in_what_the_agent_asks_for(self, org, actions):
        task = talking(WHICH)
        wait = waiting(task)
        (asked,) = actions.asked
        place = place_of(actions)
        assert (asked["options"], asked["params"][place]["schema"]["title"]) == ([SEND, DECLINE], "value")
        result = task.resume(wait, chosen(SEND, **{place: " 00042 "}))
        kind, _, name = place.rpartition("/")
        assert result["turns"][1]["request"]["reply"] == [{"type": kind, "property": name, "value": "00042"}]
        assert said(org) == [[WHICH, "Reply"]]

    @pytest.mark.parametrize(
        ("collect", "fields", "reply"),
        [
            ([("a", "Paris")], {"X/a": "Paris"}, ["Paris"]),
            ([("a", 5), ("b", {"n": 1})], {"X/a": "7", "X/b": '{"n": 2}'}, [7, {"n": 2}]),
            ([("a", 5)], {"X/a": "seven"}, ["seven"]),
            ([("a", ["red", "blue"]), ("b", None)], {"X/a": "12", "X/b": ""}, ["12"]),
            ([], {"answer": "the blue one"}, "the blue one"),
        ],
    )
    def test_values_have_the_type_that_the_agent_proposes(self, inquiring, actions, collect, fields, reply):
        inquiring(collect)
        task = talking("ask")
        wait = waiting(task)
        (asked,) = actions.asked
        assert set(asked["params"]) == set(fields)
        result = task.resume(wait, chosen(SEND, **fields))
        request = result["turns"][1]["request"]
        given = [item["value"] for item in request["reply"]] if request["reply"] else request["text"]
        assert given == reply

    def test_an_unchanged_proposal_goes_back_as_it_came(self, inquiring, actions):
        proposed = {"amount": 5, "note": "é"}
        inquiring([("a", proposed)])
        task = talking("ask")
        wait = waiting(task)
        values = {name: field["value"] for name, field in actions.asked[0]["params"].items()}
        result = task.resume(wait, chosen(SEND, **values))
        assert result["turns"][1]["request"]["reply"][0]["value"] == proposed

    def test_blank_fields_send_nothing(self, org, actions):
        task = talking(WHICH)
        wait = waiting(task)
        with pytest.raises(AgentforceInputError, match="left every field blank") as caught:
            task.resume(wait, chosen(SEND, **{place_of(actions): "  "}))
        assert isinstance(caught.value, AirflowFailException)
        assert (org.count("send"), org.open_sessions) == (1, [])

    @pytest.mark.parametrize("message", [REFUND, WHICH])
    def test_what_no_one_decides_in_time_is_cancelled_and_the_session_ended(self, org, actions, message):
        task = talking(message, "thank you", decide=Ask(timeout=timedelta(minutes=10)))
        wait = waiting(task)
        assert timedelta(minutes=9) < wait.timeout <= timedelta(minutes=10)
        result = task.resume(wait, LATE)
        assert said(org) == [[message, "Cancel"]]
        assert (len(result["turns"]), org.open_sessions) == (2, [])
        assert task.run()["turns"] == result["turns"]
        assert org.count("send") == 2

    def test_a_function_may_decide_the_one_and_a_person_the_other(self, org, actions):
        task = talking(WHICH, REFUND, on_needs_input=lambda _: "case 7")
        result = task.resume(waiting(task), chosen(APPROVE))
        assert said(org) == [[WHICH, "case 7", REFUND, "Reply"]]
        assert acted(result["turns"][3])

    def test_a_function_may_write_the_messages(self, org, actions):
        task = Task(AgentforceDecoratedOperator, python_callable=lambda: REFUND, on_needs_confirmation=Ask())
        assert acted(task.resume(waiting(task), chosen(APPROVE))["turns"][1])


class TestOneQuestion:
    def test_a_second_one_fails_the_task_and_says_so(self, org, actions):
        task = talking(REFUND, "refund order 8, too")
        with pytest.raises(AgentforceInputError, match="has asked a question before") as caught:
            task.resume(waiting(task), chosen(APPROVE))
        assert "has not done what it asks about" in caught.value.hint
        assert isinstance(caught.value, AirflowFailException)
        assert said(org) == [[REFUND, "Reply", "refund order 8, too"]]
        assert (len(actions.asked), org.open_sessions, len(task.xcoms["turns"])) == (1, [], 3)

    def test_so_does_one_after_a_clear(self, org, actions):
        task = talking(REFUND)
        task.resume(waiting(task), chosen(APPROVE))
        task.clear()
        with pytest.raises(AgentforceInputError, match="has asked a question before"):
            task.run()
        assert (len(actions.asked), org.open_sessions) == (1, [])


class TestWait:
    def test_the_messages_are_the_recorded_ones(self, org, actions):
        task = talking(REFUND)
        task.resume(waiting(task), chosen(APPROVE), messages=["rendered again"])
        assert said(org) == [[REFUND, "Reply"]]

    @pytest.mark.parametrize("on_lost", ["fail", "restart"])
    def test_a_session_that_is_gone_is_on_session_lost(self, org, actions, on_lost):
        task = talking(REFUND, on_session_lost=on_lost)
        wait = waiting(task)
        (session_id,) = org.sessions
        AgentforceHook().end_session({"session_id": session_id})
        if on_lost == "fail":
            with pytest.raises(SessionNotFoundError, match="Message 1 is answered"):
                task.resume(wait, chosen(APPROVE))
            assert said(org) == [[REFUND]]
        else:
            # The agent asks the same again, and a person has decided that.
            result = task.resume(wait, chosen(APPROVE))
            assert said(org) == [[REFUND], [REFUND, "Reply"]]
            assert acted(result["turns"][1])
        assert (len(actions.asked), org.open_sessions) == (1, [])

    def test_an_approval_counts_once(self, org, actions):
        def following(turns):
            if len(turns) == 1 and org.open_sessions:
                AgentforceHook().end_session({"session_id": org.open_sessions[0]})
            return [REFUND, "thank you", None][len(turns)]

        task = Task(
            ConversationOperator,
            messages=following,
            on_needs_confirmation="ask",
            on_session_lost="restart",
        )
        with pytest.raises(AgentforceInputError, match="has asked a question before"):
            task.resume(waiting(task), chosen(APPROVE))
        assert said(org) == [[REFUND, "Reply"], [REFUND]]
        assert (len(actions.asked), org.open_sessions) == (1, [])

    def test_wherever_it_is_killed_it_asks_once_and_says_nothing_twice(self, org, actions):
        def history(kill_at):
            text = f"refund order {100 + kill_at}"
            asked, task = len(actions.asked), talking(text)
            if kill_at:
                task.run_killed(kill_at)
            with pytest.raises((TaskAwaitingInput, TaskDeferred)) as wait:
                task.run()
            if isinstance(wait.value, TaskDeferred):  # waits for what is asked already
                wait.value.method_name = "execute_complete"
            before = task.store.written
            result = task.resume(wait.value, chosen(APPROVE))
            assert acted(result["turns"][1])
            assert task.run()["turns"] == result["turns"]
            assert org.applied(text) == 1
            assert len(actions.asked) <= asked + 1
            return before

        records = history(0)
        assert records >= 5
        for kill_at in range(4, records):  # from the answer on
            history(kill_at)
        assert org.open_sessions == []

    @pytest.mark.parametrize("kill_at", [1, 2, 3])
    def test_killed_after_the_decision_it_says_it_once(self, org, actions, kill_at):
        task = talking(REFUND)
        wait = waiting(task)
        task.store.ends_at = task.store.written + kill_at
        child = os.fork()
        if child == 0:
            try:
                task.resume(wait, chosen(APPROVE))
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == KILLED
        task.store.ends_at = None
        if kill_at == 2:  # about to say it: whether it left is not known
            with pytest.raises(DeliveryUnknownError):
                task.run()
        else:
            assert acted(task.run()["turns"][1])
        assert said(org) == [[REFUND] if kill_at == 2 else [REFUND, "Reply"]]
        assert len(actions.asked) == 1


class TestLostReply:
    """What a person has decided is said, and its answer is lost."""

    @pytest.mark.parametrize(("truth", "outcomes"), [(True, "answer_lost"), (False, "answered")])
    def test_it_is_resolved_and_no_one_is_asked_again(self, org, actions, truth, outcomes):
        later = Check(lambda _: truth, after=timedelta(minutes=2))
        task = talking(REFUND, "thank you", on_unknown_delivery=later)
        wait = waiting(task)
        org.fail("send", drop=True, after=truth)
        with pytest.raises(TaskDeferred) as second:
            task.resume(wait, chosen(APPROVE))
        task.arguments["on_unknown_delivery"] = lambda _: truth
        result = task.resume(second.value)
        assert [turn["outcome"] for turn in result["turns"]] == ["needs_confirmation", outcomes, "answered"]
        (session,) = org.sessions.values()
        assert [turn.applied for turn in session.turns if turn.type == "Reply"].count(1) == 1
        assert (len(actions.asked), org.open_sessions) == (1, [])

    def test_a_question_about_it_would_be_the_second_one(self, org, actions):
        task = talking(REFUND, on_unknown_delivery="ask")
        wait = waiting(task)
        org.fail("send", drop=True, after=True)
        with pytest.raises(DeliveryUnknownError) as caught:
            task.resume(wait, chosen(APPROVE))
        assert "has asked a question before" in caught.value.hint
        assert caught.value.session_id in org.sessions
        assert (len(actions.asked), org.count("send"), org.open_sessions) == (1, 2, [])


class TestRefused:
    @pytest.mark.parametrize("given", ["yes", "fail", True, 5, []])
    def test_what_cannot_decide_at_parse(self, given):
        with pytest.raises(AgentforceInputError, match=r"on_needs_input must be a function of the turn, "):
            ConversationOperator(task_id="talk", messages=["a"], on_needs_input=given)

    def test_a_question_without_an_id(self, make_org, monkeypatch, actions):
        org = make_org(script=lambda _: {"type": "Confirm", "text": "Shall I?", "id": None})
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection())
        with pytest.raises(AgentforceInputError, match="its question has no id"):
            talking("ask").run()
        assert (actions.asked, org.open_sessions) == ([], [])

    def test_an_answer_that_would_be_gone_after_the_wait(self, make_org, monkeypatch, actions):
        org = make_org(script=lambda _: {"type": "Confirm", "text": "Shall I? " + "x" * 30_000})
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection())
        with pytest.raises(AgentforceInputError, match="too long to be stored"):
            talking("ask").run()
        assert (actions.asked, org.open_sessions) == ([], [])

    def test_an_answer_that_could_not_be_recorded(self, make_org, monkeypatch, actions):
        task = talking("ask")

        def asks(_turn):
            task.store.fails = "set"
            return {"type": "Confirm", "text": "Shall I?"}

        org = make_org(script=asks)
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection())
        with pytest.raises(LedgerError):
            task.run()
        assert (actions.asked, org.open_sessions) == ([], [])
