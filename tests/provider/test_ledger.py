"""What a later try of a task does with what an earlier one recorded.

The store is a file behind the three methods of Airflow's ``task_state_store``; tests/processes uses the real
one. A kill is real: the try runs in a child process that is gone on the spot at a given write.
"""

from __future__ import annotations

import itertools
import json
import uuid

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, AirflowTaskTimeout
from pydantic import BaseModel, field_validator
from stand_ins import Task, texts

from airflow_provider_agentforce.decorators.agentforce import AgentforceDecoratedOperator
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    AgentforceRequestError,
    DeliveryUnknownError,
    LedgerError,
    RateLimitedError,
    SessionNotFoundError,
)
from airflow_provider_agentforce.operators import (
    ConversationOperator,
    SendMessageOperator,
    StartSessionOperator,
    external_session_key,
)

# Python 3.12 warns of a fork beside the emulator's thread; the child uses nothing of that thread.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.usefixtures("task_folder"),
]


class TestSend:
    def test_an_answer_is_returned_without_sending_again(self, org, session):
        task = Task(SendMessageOperator, session=session, text="order 7?")
        first = task.run()
        assert task.run() == first
        assert org.count("send") == 1
        assert task.xcoms["text"] == first["text"]

    def test_a_try_killed_on_the_way_is_not_sent_again(self, org, session):
        task = Task(SendMessageOperator, session=session, text="change it")
        task.run_killed(1)
        assert org.count("send") == 0
        with pytest.raises(DeliveryUnknownError) as caught:
            task.run()
        assert isinstance(caught.value, AirflowFailException)
        assert "left no answer" in str(caught.value)
        assert caught.value.session_id == session["session_id"]
        assert org.count("send") == 0

    def test_resend_sends_it_again_with_its_number(self, org, session):
        task = Task(SendMessageOperator, session=session, text="harmless", on_unknown_delivery="resend")
        task.run_killed(1)
        assert task.run()["sequence_id"] == 1
        assert org.count("send") == 1

    def test_resend_takes_a_lock_as_a_sign_that_the_first_one_still_runs(self, org, session):
        task = Task(SendMessageOperator, session=session, text="harmless", on_unknown_delivery="resend")
        task.run_killed(1)
        org.fail("send", status=423)
        with pytest.raises(DeliveryUnknownError) as caught:
            task.run()
        assert caught.value.status == 423
        assert not isinstance(caught.value, AirflowFailException)
        assert task.run()["sequence_id"] == 1

    def test_a_refused_repetition_proves_that_the_first_one_was_delivered(self, org, session):
        org.fail("send", status=500, after=True)
        used = {"error": "BadRequest", "message": "Sequence id 1 was already used"}
        org.fail("send", status=400, body=used)
        task = Task(SendMessageOperator, session=session, text="harmless", on_unknown_delivery="resend")
        with pytest.raises(DeliveryUnknownError) as caught:
            task.run()
        assert caught.value.applied is None
        with pytest.raises(DeliveryUnknownError) as caught:
            task.run()
        assert caught.value.applied is True
        assert isinstance(caught.value, AirflowFailException)
        assert "The agent received the message" in str(caught.value)
        assert texts(org) == [("harmless", 1)]

    def test_what_was_asked_is_recorded_with_the_intent(self, org, session):
        given = [{"name": "$Context.A", "type": "Text", "value": "b"}]
        for stored, request in (
            (True, {"type": "Text", "text": "change it", "reply": None, "variables": given}),
            (False, None),
        ):
            task = Task(
                SendMessageOperator,
                session=session,
                text="change it",
                variables={"$Context.A": "b"},
                store_requests=stored,
            )
            task.run_killed(1)
            assert task.store.values["agentforce_turn"]["value"]["request"] == request

    def test_a_try_killed_after_the_answer_returns_it(self, org, session):
        task = Task(SendMessageOperator, session=session, text="order 7?")
        task.run_killed(2)
        assert task.run()["text"].startswith("Order 7")
        assert texts(org) == [("order 7?", 1)]

    def test_a_refused_message_is_sent_by_the_next_try(self, org, session):
        org.fail("send", status=429, times=3)
        task = Task(SendMessageOperator, session=session, text="order 7?")
        with pytest.raises(RateLimitedError):
            task.run()
        assert task.run()["sequence_id"] == 1
        assert texts(org) == [("order 7?", 1)]

    def test_an_unknown_delivery_stays_unknown(self, org, session):
        org.fail("send", status=500, after=True)
        task = Task(SendMessageOperator, session=session, text="change it")
        for _ in range(2):
            with pytest.raises(DeliveryUnknownError):
                task.run()
        assert texts(org) == [("change it", 1)]

    @pytest.mark.parametrize("killed_at", [1, 2])
    def test_a_changed_message_is_refused(self, org, session, killed_at):
        task = Task(SendMessageOperator, session=session, text="order 7?")
        task.run_killed(killed_at)
        with pytest.raises(AgentforceInputError, match="changed"):
            task.run(text="order 8?")
        assert org.count("send") == killed_at - 1

    def test_a_clear_sends_anew(self, org, session):
        task = Task(SendMessageOperator, session=session, text="order 7?")
        task.run()
        task.clear()
        task.run()
        assert org.count("send") == 2

    @pytest.mark.parametrize("fails", ["get", "set", "forgets"])
    def test_a_store_that_fails_sends_nothing_and_is_left_to_the_retries(self, org, session, fails):
        task = Task(SendMessageOperator, session=session, text="order 7?")
        task.store.fails = fails
        with pytest.raises(LedgerError) as caught:
            task.run()
        assert not isinstance(caught.value, AirflowFailException)
        assert org.count("send") == 0
        task.store.fails = None
        assert task.run()["text"]

    @pytest.mark.parametrize(
        "record",
        ["x", 3, [], {}, {"v": 2}, {"v": 1, "done": 1, "value": None, "fingerprint": "", "cycle": 3}],
    )
    def test_a_record_that_is_none_is_never_taken_for_no_record(self, org, session, record):
        task = Task(SendMessageOperator, session=session, text="order 7?")
        task.store.values = {"agentforce_turn": record}
        with pytest.raises(LedgerError) as caught:
            task.run()
        assert isinstance(caught.value, AirflowFailException)
        assert org.count("send") == 0

    def test_a_long_answer_is_kept_without_its_raw_messages(self, org, session):
        long = {"messages": [{"type": "Inform", "message": "short", "result": [{"value": "x" * 60_000}]}]}
        org.fail("send", body=long)
        task = Task(SendMessageOperator, session=session, text="order 7?")
        first = task.run()
        assert len(json.dumps(task.store.values)) < 60_000
        assert task.run() == {**first, "messages": [], "results": []}

    def test_an_answer_too_long_to_keep_is_not_asked_for_again(self, org, session):
        org.fail("send", body={"messages": [{"type": "Inform", "message": "x" * 60_000}]})
        task = Task(SendMessageOperator, session=session, text="order 7?")
        assert len(task.run()["text"]) == 60_000
        with pytest.raises(DeliveryUnknownError, match="too long"):
            task.run()
        assert org.count("send") == 1

    def test_no_secret_is_recorded(self, org, session):
        task = Task(SendMessageOperator, session=session, text="order 7?")
        task.run()
        kept = json.dumps(task.store.values)
        assert org.consumer_secret not in kept
        assert "eyJ" not in kept


class TestStart:
    def test_a_try_killed_after_the_start_is_followed_by_one_in_the_same_session(self, org):
        task = Task(StartSessionOperator)
        task.run_killed(2)
        assert task.run()["session_id"] in org.open_sessions
        assert org.count("start") == 1

    def test_a_try_killed_on_the_way_names_the_session_that_may_be_open(self, org, caplog):
        key = external_session_key("dag", "run", "task", -1, 1)
        task = Task(StartSessionOperator)
        task.run_killed(1)
        task.run()
        (warning,) = [one.getMessage() for one in caplog.records if "may be open" in one.getMessage()]
        assert key in warning

    def test_a_try_killed_while_it_repeats_a_start_names_both_sessions(self, org, caplog):
        org.fail("start", status=502, after=True)
        task = Task(StartSessionOperator)
        task.run_killed(2)  # when it records the second key
        task.run()
        (warning,) = [one.getMessage() for one in caplog.records if "may be open" in one.getMessage()]
        (lost,) = [one.external_session_key for one in org.sessions.values()][:-1]
        keys = [external_session_key("dag", "run", "task", -1, 1)]
        keys.append(str(uuid.uuid5(uuid.UUID(keys[0]), "1")))
        assert lost == keys[0]
        assert all(key in warning for key in keys)

    def test_a_refused_start_is_not_taken_for_a_session_that_may_be_open(self, org, caplog):
        org.fail("start", status=429, times=3)
        task = Task(StartSessionOperator)
        with pytest.raises(RateLimitedError):
            task.run()
        task.run()
        assert "may be open" not in caplog.text

    def test_a_start_that_is_refused_when_it_is_repeated_leaves_the_first_in_doubt(self, org, caplog):
        org.fail("start", status=502, after=True)
        org.fail("start", status=400)
        task = Task(StartSessionOperator)
        with pytest.raises(AgentforceRequestError) as caught:
            task.run()
        caplog.clear()
        task.run()
        (warning,) = [one.getMessage() for one in caplog.records if "may be open" in one.getMessage()]
        assert external_session_key("dag", "run", "task", -1, 1) in warning
        assert caught.value.external_session_key not in warning

    def test_a_clear_ends_the_old_session_and_starts_another(self, org):
        task = Task(StartSessionOperator)
        first = task.run()
        task.clear()
        second = task.run()
        assert org.open_sessions == [second["session_id"]] != [first["session_id"]]


THREE = ["one", "two", "three"]


class TestConversation:
    @pytest.mark.parametrize("killed_at", range(1, 10))
    def test_wherever_it_is_killed_no_message_is_sent_twice(self, org, killed_at):
        """Writes: 1 start, 2 session, then an intent and an outcome for each message, 9 the end."""
        task = Task(ConversationOperator, messages=THREE)
        task.run_killed(killed_at)
        on_the_way = killed_at in {3, 5, 7}
        if on_the_way:
            with pytest.raises(DeliveryUnknownError) as caught:
                task.run()
            assert isinstance(caught.value, AirflowFailException)
            assert len(task.xcoms.get("turns", [])) == (killed_at - 3) // 2
        else:
            done = task.run()
            assert [turn["sequence_id"] for turn in done["turns"]] == [1, 2, 3]
            assert sorted(text for text, _ in texts(org)) == sorted(THREE)
        assert all(applied == 1 for _, applied in texts(org))
        assert org.open_sessions == []

    def test_a_passing_failure_leaves_the_session_to_the_next_try(self, org):
        org.fail("send", after=True)
        org.fail("send", status=429, times=3)
        task = Task(ConversationOperator, messages=THREE)
        with pytest.raises(RateLimitedError) as caught:
            task.run()
        assert not isinstance(caught.value, AirflowFailException)
        assert len(org.open_sessions) == 1
        assert task.xcoms["turns"][0]["sequence_id"] == 1
        assert [turn["sequence_id"] for turn in task.run()["turns"]] == [1, 2, 3]
        assert texts(org) == [(text, 1) for text in THREE]
        assert (org.count("start"), org.open_sessions) == (1, [])

    def test_a_failure_of_the_dag_s_own_function_is_retried_without_repeating_a_message(self, org):
        broken = [True]

        def following(turns):
            if len(turns) == 1 and broken.pop():
                raise RuntimeError("the warehouse is away")
            return THREE[len(turns)] if len(turns) < 3 else None

        broken.insert(0, False)
        task = Task(ConversationOperator, messages=following)
        with pytest.raises(RuntimeError, match="warehouse"):
            task.run()
        assert task.run()["sequence_id"] == 3
        assert texts(org) == [(text, 1) for text in THREE]
        assert (org.count("start"), org.open_sessions) == (1, [])

    @pytest.mark.parametrize("word", [AirflowSkipException, AirflowFailException])
    def test_a_function_that_ends_the_task_ends_the_session(self, org, word):
        def following(turns):
            if turns:
                raise word("enough")
            return "one"

        with pytest.raises(word, match="enough"):
            Task(ConversationOperator, messages=following).run()
        assert org.open_sessions == []

    def test_the_last_try_ends_the_session(self, org):
        org.fail("send", after=True)
        org.fail("send", status=429, times=3)
        task = Task(ConversationOperator, messages=THREE)
        task.try_number = 3
        with pytest.raises(RateLimitedError):
            task.run()
        assert org.open_sessions == []

    def test_a_session_that_is_gone_says_what_is_answered(self, org):
        task = self.interrupted(org)
        with pytest.raises(SessionNotFoundError) as caught:
            task.run()
        assert isinstance(caught.value, AirflowFailException)
        assert "Message 1 is answered" in str(caught.value)
        assert 'on_session_lost="restart"' in str(caught.value)
        assert len(task.xcoms["turns"]) == 1

    def test_restart_holds_it_anew(self, org):
        task = self.interrupted(org)
        done = task.run(on_session_lost="restart")
        assert [turn["sequence_id"] for turn in done["turns"]] == [1, 2, 3]
        assert [text for text, _ in texts(org)] == ["one", *THREE]
        assert org.open_sessions == []
        assert task.run(on_session_lost="restart") == done

    def test_a_changed_message_is_refused(self, org):
        task = Task(ConversationOperator, messages=THREE)
        task.run_killed(5)
        with pytest.raises(AgentforceInputError, match="changed"):
            task.run(messages=["another", "two", "three"])
        assert texts(org) == [("one", 1)]

    def test_a_changed_agent_is_refused(self, org):
        task = Task(ConversationOperator, messages=THREE)
        task.run_killed(5)
        with pytest.raises(AgentforceInputError, match="agent or the connection"):
            task.run(agent_id=org.agents[2].id)
        assert org.open_sessions == []

    def test_a_try_that_goes_on_does_not_look_the_agent_up_again(self, org):
        task = Task(ConversationOperator, messages=THREE, agent_id="Service_Agent")
        task.run_killed(6)
        assert task.run()["agent_id"] == org.agent_id
        assert (org.count("query"), org.count("start")) == (1, 1)

    def test_a_clear_after_success_holds_it_anew(self, org):
        task = Task(ConversationOperator, messages=THREE)
        task.run()
        task.clear()
        task.run()
        assert len(org.sessions) == 2
        assert org.count("send") == 6

    def test_a_clear_of_a_killed_try_ends_its_session(self, org):
        task = Task(ConversationOperator, messages=THREE)
        task.run_killed(6)
        task.clear()
        task.run()
        assert len(org.sessions) == 2
        assert org.open_sessions == []

    def test_a_clear_ends_a_session_that_could_not_be_ended(self, org):
        task = Task(ConversationOperator, messages=THREE)
        org.fail("end", status=400)
        task.run()
        assert len(org.open_sessions) == 1
        task.clear()
        task.run()
        assert org.open_sessions == []

    def test_a_function_goes_on_with_the_recorded_answers(self, org):
        seen = []

        def following(turns):
            seen.append(len(turns))
            return THREE[len(turns)] if len(turns) < 3 else None

        task = Task(ConversationOperator, messages=following)
        task.run_killed(6)
        assert task.run()["sequence_id"] == 3
        assert texts(org) == [(text, 1) for text in THREE]

    def test_resend_repeats_the_unknown_message_in_its_session(self, org):
        org.fail("send", after=True)
        org.fail("send", status=500, after=True)
        task = Task(ConversationOperator, messages=THREE, on_unknown_delivery="resend")
        with pytest.raises(DeliveryUnknownError) as caught:
            task.run()
        assert not isinstance(caught.value, AirflowFailException)
        assert task.run()["sequence_id"] == 3
        assert texts(org) == [("one", 1), ("two", 2), ("three", 1)]
        assert org.count("start") == 1

    def interrupted(self, org):
        """A task whose first try answered one message and left a session that has ended since."""
        org.fail("send", after=True)
        org.fail("send", status=429, times=3)
        task = Task(ConversationOperator, messages=THREE)
        with pytest.raises(RateLimitedError):
            task.run()
        (left,) = org.open_sessions
        org.sessions[left].open = False
        return task


class Said(BaseModel):
    """What the emulator's agent answers to a question for JSON, and to nothing else."""

    answer: str


def kind_of(task_class, session, **arguments):
    """Return a task that says hello, and will have to ask for the JSON."""
    fields = {"output_type": Said, **arguments}
    if task_class is ConversationOperator:
        return Task(ConversationOperator, messages=["hello"], **fields)
    return Task(SendMessageOperator, session=session, text="hello", **fields)


@pytest.mark.parametrize("operator", [SendMessageOperator, ConversationOperator])
class TestCorrectiveQuestion:
    @pytest.mark.parametrize("killed_at", range(1, 5))
    def test_wherever_it_is_killed_it_is_asked_at_most_once(self, org, session, operator, killed_at):
        """Writes: intent and outcome of the message, then of the question; before them two of a start."""
        task = kind_of(operator, session)
        task.run_killed(killed_at + (2 if operator is ConversationOperator else 0))
        if killed_at in {1, 3}:
            with pytest.raises(DeliveryUnknownError) as caught:
                task.run()
            assert isinstance(caught.value, AirflowFailException)
        else:
            done = task.run()
            assert done["result"] == {"answer": "Here is your JSON."}
            assert done["sequence_id"] == 2
            assert task.xcoms["result"] == done["result"]
        assert all(applied == 1 for _, applied in texts(org))
        assert org.count("send") == {1: 0, 2: 2, 3: 1, 4: 2}[killed_at]

    def test_a_refused_question_is_asked_by_the_next_try(self, org, session, operator):
        org.fail("send", after=True)
        org.fail("send", status=429, times=3)
        task = kind_of(operator, session)
        with pytest.raises(RateLimitedError) as caught:
            task.run()
        assert not isinstance(caught.value, AirflowFailException)
        assert task.run()["result"]
        assert [applied for _, applied in texts(org)] == [1, 1]

    def test_a_question_that_is_worded_another_way_is_the_same_question(self, org, session, operator):
        numbers = itertools.count()

        class Moody(BaseModel):
            order: int

            @field_validator("order")
            @classmethod
            def _judge(cls, value):
                if value == 1:
                    raise ValueError(f"no {next(numbers)}")
                return value

        for order in (1, 2):
            org.fail("send", body={"messages": [{"type": "Inform", "message": json.dumps({"order": order})}]})
        task = kind_of(operator, session, output_type=Moody)
        assert task.run()["result"] == task.run()["result"] == {"order": 2}
        assert next(numbers) == 2
        assert org.count("send") == 2

    def test_a_type_that_has_changed_since_the_question_is_refused(self, org, session, operator):
        task = kind_of(operator, session)
        task.run()
        with pytest.raises(AgentforceInputError, match="changed"):
            task.run(output_type={"required": ["nothing"]})
        assert org.count("send") == 2

    def test_a_long_answer_keeps_what_its_type_reads(self, org, session, operator):
        given = {"type": "SURFACE_ACTION__Said_0Xs", "value": json.dumps({"answer": "yes"})}
        other = {"type": "copilotActionOutput/Get_179", "value": "x" * 60_000}
        long = {"messages": [{"type": "Inform", "message": "short", "result": [other, given]}]}
        org.fail("send", body=long)
        task = kind_of(operator, session)
        assert task.run()["result"] == task.run()["result"] == {"answer": "yes"}
        assert org.count("send") == 1

    def test_an_answer_too_long_to_keep_is_no_reason_to_ask(self, org, session, operator):
        given = {"type": "SURFACE_ACTION__Said_0Xs", "value": json.dumps({"answer": "x" * 60_000})}
        org.fail("send", body={"messages": [{"type": "Inform", "message": "short", "result": [given]}]})
        task = kind_of(operator, session)
        assert len(task.run()["result"]["answer"]) == 60_000
        with pytest.raises(DeliveryUnknownError, match="too long"):
            task.run()
        assert org.count("send") == 1


class TestDecorated:
    """A function that writes the messages is called again by every try."""

    @pytest.fixture
    def task(self, org):
        """A task whose first try was killed after two of three answers, and the messages of the next."""
        self.following = THREE
        task = Task(AgentforceDecoratedOperator, python_callable=lambda: self.following)
        task.run_killed(6)
        assert len(org.open_sessions) == 1
        return task

    def fail(self, error):
        def function():
            raise error

        return function

    def test_goes_on_with_the_first_message_that_was_not_answered(self, org, task):
        self.following = ["one", "two", "something else"]
        assert task.run()["sequence_id"] == 3
        assert texts(org) == [("one", 1), ("two", 1), ("something else", 1)]
        assert org.open_sessions == []

    def test_another_text_for_an_answered_message_is_refused(self, org, task):
        self.following = ["one", "another", "three"]
        with pytest.raises(AgentforceInputError, match="has changed since"):
            task.run()
        assert texts(org) == [("one", 1), ("two", 1)]
        assert org.open_sessions == []

    def test_a_function_that_fails_leaves_the_session_to_the_next_try(self, org, task):
        with pytest.raises(OSError, match="away"):
            task.run(python_callable=self.fail(OSError("away")))
        assert len(org.open_sessions) == 1
        assert task.run()["sequence_id"] == 3
        assert org.count("start") == 1

    @pytest.mark.parametrize(
        "error", [AirflowFailException("no"), AirflowSkipException("no"), AgentforceInputError("no")]
    )
    def test_a_function_that_wants_no_next_try_ends_the_session(self, org, task, error):
        with pytest.raises(type(error)):
            task.run(python_callable=self.fail(error))
        assert org.open_sessions == []

    def test_a_function_that_returns_nothing_ends_the_session(self, org, task):
        self.following = None
        with pytest.raises(AgentforceInputError, match="must return a message"):
            task.run()
        assert org.open_sessions == []

    @pytest.mark.parametrize("error", [OSError("away"), AirflowTaskTimeout("away")])
    def test_a_function_that_fails_in_the_last_try_ends_the_session(self, org, task, error):
        task.try_number = task.max_tries
        with pytest.raises(type(error), match="away"):
            task.run(python_callable=self.fail(error))
        assert org.open_sessions == []

    def test_a_store_that_fails_does_not_hide_the_error_of_the_function(self, org, task, capsys):
        task.store.fails = "get"
        with pytest.raises(AirflowFailException, match="no"):
            task.run(python_callable=self.fail(AirflowFailException("no")))
        assert "may still be open: LedgerError" in capsys.readouterr().out

    def test_a_function_that_fails_in_the_first_try_leaves_nothing(self, org):
        with pytest.raises(AirflowFailException):
            Task(AgentforceDecoratedOperator, python_callable=self.fail(AirflowFailException("no"))).run()
        assert org.requests == []
