"""What becomes of a message whose reply is lost, by the steps of ``on_unknown_delivery``.

Each history is one of the agent's: what it really did, and how often, is the emulator's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
import tracemalloc
from datetime import datetime, timedelta, timezone
from functools import partial

import pytest
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowTaskTimeout,
    TaskAwaitingInput,
    TaskDeferred,
)
from real_airflow import until
from stand_ins import KILLED, StateStore, Task, TaskInstance, chosen
from unknown_deliveries import (
    ACTED,
    DID_NOT_ACT,
    DONE,
    HEARD,
    NOT_DONE,
    NOW,
    SOON,
    Org,
    accounts,
    batch_task,
    cannot_tell,
    sending,
    talking,
    time_is_up,
    trace,
    until_decided,
)
from wire import Relay

from airflow_provider_agentforce._compat import questions_change
from airflow_provider_agentforce.decorators.agentforce import AgentforceDecoratedOperator
from airflow_provider_agentforce.delivery import Ask, Check, Trace, UnknownDelivery, steps_of
from airflow_provider_agentforce.exceptions import (
    AgentFailedError,
    AgentforceInputError,
    BatchFailedError,
    DeliveryUnknownError,
    InvalidOutputError,
    LedgerError,
    SessionNotFoundError,
)
from airflow_provider_agentforce.hooks.agentforce import AgentforceHook
from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
)
from airflow_provider_agentforce.operators._unknown_delivery import _AT_ONCE, Resolver, TraceLookup

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.usefixtures("task_folder"),
]


@pytest.fixture
def crm(org):
    return Org(org)


def raised(error):
    raise error


class Unprintable:
    def __repr__(self):
        raise RuntimeError("not to be shown")


class UnprintableError(Exception):
    def __str__(self):
        raise RuntimeError("not to be shown")


TASKS = pytest.mark.parametrize("task_of", [sending, talking])


@TASKS
@pytest.mark.parametrize("with_store", [True, False])
class TestCheck:
    """With Airflow's task state store, and without one, as below 3.3."""

    def run(self, task, *, with_store):
        if with_store:
            return task.run()
        operator = task.kind(task_id="task", **task.arguments)
        return operator.execute({"ti": TaskInstance(1, 0)})

    def test_it_acted(self, org, crm, task_of, with_store):
        task = task_of(org, crm.looks)
        org.fail("send", **ACTED)
        result = self.run(task, with_store=with_store)
        turn = result.get("turns", [result])[0]
        assert (turn["outcome"], turn["text"], turn["request"]["text"]) == ("answer_lost", "", "change it")
        said = {key: turn["resolution"][key] for key in ("by", "acted", "answer", "user")}
        assert said == {"by": "check", "acted": True, "answer": "lost", "user": None}
        assert (crm.sends(), crm.actions("change it")) == (1, 1)

    def test_it_did_not_act(self, org, crm, task_of, with_store):
        task = task_of(org, crm.looks)
        org.fail("send", **DID_NOT_ACT)
        result = self.run(task, with_store=with_store)
        turn = result.get("turns", [result])[0]
        assert (turn["outcome"], turn["text"], turn["sequence_id"]) == (
            "answered",
            HEARD,
            1,
        )
        assert (turn["resolution"]["by"], turn["resolution"]["acted"]) == ("check", False)
        assert (crm.sends(), crm.actions("change it")) == (2, 1)

    def test_it_does_not_act_the_second_time_either(self, org, crm, task_of, with_store):
        task = task_of(org, crm.looks)
        org.fail("send", times=2, **DID_NOT_ACT)
        with pytest.raises(DeliveryUnknownError, match="sent once more in this try") as caught:
            self.run(task, with_store=with_store)
        assert isinstance(caught.value, AirflowFailException)
        assert (crm.sends(), crm.actions("change it"), len(crm.seen)) == (2, 0, 1)

    def test_it_may_take_what_it_gets_to_pieces(self, org, crm, task_of, with_store):
        task = task_of(org, [lambda delivery: delivery.request.clear(), crm.looks])
        org.fail("send", **ACTED)
        result = self.run(task, with_store=with_store)
        assert result.get("turns", [result])[0]["request"]["text"] == "change it"

    @pytest.mark.parametrize("truth", [ACTED, DID_NOT_ACT])
    @pytest.mark.parametrize(
        ("says", "why"),
        [
            (cannot_tell, "cannot tell"),
            (lambda _: "yes", "returned 'yes'"),
            (lambda _: 1 / 0, "ZeroDivisionError"),
            (lambda: None, "TypeError"),
            (lambda _: sys.exit("no"), "SystemExit: no"),
            (lambda _: raised(asyncio.CancelledError()), "CancelledError"),
            (lambda _: raised(TaskDeferred(trigger=None, method_name="execute_complete")), "TaskDeferred"),
            (lambda _: Unprintable(), "RuntimeError: not to be shown"),
            (lambda _: raised(UnprintableError()), "UnprintableError"),
            (lambda _: 1, "returned 1"),
        ],
    )
    def test_it_cannot_be_known(self, org, crm, task_of, with_store, says, why, truth):
        task = task_of(org, [says, "fail"])
        org.fail("send", **truth)
        with pytest.raises(DeliveryUnknownError, match=why) as caught:
            self.run(task, with_store=with_store)
        assert isinstance(caught.value, AirflowFailException)
        assert (crm.sends(), crm.actions("change it")) == (1, int(truth is ACTED))
        assert task_of is sending or org.open_sessions == []

    def test_the_next_step_hears_what_the_one_before_saw(self, org, crm, task_of, with_store):
        task = task_of(org, [cannot_tell, crm.looks])
        org.fail("send", **ACTED)
        self.run(task, with_store=with_store)
        (delivery,) = crm.seen
        assert delivery.findings == ("The check cannot_tell cannot tell.",)
        (session,) = org.sessions.values()
        assert (delivery.session_id, delivery.sequence_id) == (session.session_id, 1)
        assert delivery.external_session_key in (session.external_session_key, None)
        assert delivery.sent_at.tzinfo is not None
        assert "failed" in delivery.error

    def test_a_lost_answer_fails_the_task_that_says_so(self, org, crm, task_of, with_store):
        task = task_of(org, crm.looks, fail_on=("failed", "answer_lost"))
        org.fail("send", **ACTED)
        with pytest.raises(AgentFailedError, match="answer_lost"):
            self.run(task, with_store=with_store)
        assert crm.sends() == 1

    @pytest.mark.parametrize("refused", [{"status": 403}, {"status": 404}, {"status": 400}])
    def test_no_step_runs_for_a_message_that_was_refused(self, org, crm, task_of, with_store, refused):
        task = task_of(org, crm.looks)
        org.fail("send", **refused)
        with pytest.raises(Exception, match=r"did not act|404"):
            self.run(task, with_store=with_store)
        assert crm.seen == []


@TASKS
def test_a_message_that_the_org_has_is_not_sent_again_though_a_check_says_so(org, crm, task_of):
    task = task_of(org, lambda _: False)
    org.fail("send", cut=20)
    with pytest.raises(DeliveryUnknownError, match="the org has the message"):
        task.run()
    assert (crm.sends(), crm.actions("change it")) == (1, 1)


@TASKS
@pytest.mark.parametrize("second", [{"cut": 20}, {"error": "sequence_id_used"}])
def test_a_message_that_the_org_has_after_all_is_said_to_be_there(org, crm, task_of, second):
    task = task_of(org, lambda _: False)
    org.fail("send", **ACTED)
    org.fail("send", **second)
    with pytest.raises(DeliveryUnknownError, match=r"sent once more in this try.*the org has it"):
        task.run()
    assert crm.sends() == 2


@TASKS
@pytest.mark.parametrize("steps", ["resend", [cannot_tell, "resend"]])
def test_a_message_that_the_org_has_is_not_sent_again_by_a_retry(org, crm, task_of, steps):
    task = task_of(org, steps)
    org.fail("send", cut=20)
    for _ in range(2):
        with pytest.raises(DeliveryUnknownError) as caught:
            task.run()
        assert isinstance(caught.value, AirflowFailException)
        assert caught.value.applied is True
        assert task_of is sending or org.open_sessions == []
    assert (crm.sends(), crm.actions("change it")) == (1, 1)


@TASKS
def test_a_verdict_that_cannot_be_recorded_is_not_acted_upon(org, crm, task_of):
    task = task_of(org, crm.looks)
    org.fail("send", **DID_NOT_ACT)

    def looks(delivery):
        task.store.fails = None if crm.seen else "set"
        return crm.looks(delivery)

    task.arguments["on_unknown_delivery"] = looks
    with pytest.raises(LedgerError):
        task.run()
    assert crm.sends() == 1
    task.store.fails = None
    task.run()
    assert (crm.sends(), crm.actions("change it")) == (2, 1)


@TASKS
def test_a_check_that_takes_the_time_of_a_try_is_not_called_in_the_next(org, crm, task_of, caplog):
    called = []

    def hangs(_delivery):
        called.append(True)
        signal.raise_signal(signal.SIGUSR1)

    task = task_of(org, [hangs, crm.looks])
    org.fail("send", **ACTED)
    with pytest.raises(AirflowTaskTimeout), time_is_up():
        task.run()
    assert "did not end within the task's execution_timeout" in caplog.text
    result = task.run()
    assert (result["outcome"], len(called), crm.sends()) == ("answer_lost", 1, 1)
    assert "The check hangs did not end" in crm.seen[0].findings[0]


@TASKS
def test_resend_at_the_end_leaves_it_to_the_next_try(org, crm, task_of):
    task = task_of(org, [cannot_tell, "resend"])
    org.fail("send", **ACTED)
    with pytest.raises(DeliveryUnknownError) as caught:
        task.run()
    assert not isinstance(caught.value, AirflowFailException)
    assert crm.sends() == 1
    result = task.run()
    turn = result.get("turns", [result])[0]
    assert (turn["outcome"], turn["resolution"]["by"], turn["resolution"]["acted"]) == (
        "answered",
        "resend",
        None,
    )
    assert crm.sends() == 2


@TASKS
def test_a_second_loss_after_resend_does_not_say_that_the_agent_had_not_acted(org, crm, task_of):
    task = task_of(org, [cannot_tell, "resend"])
    org.fail("send", times=2, **ACTED)
    for _ in range(2):
        with pytest.raises(DeliveryUnknownError) as caught:
            task.run()
    assert "sent once more in this try; the new delivery" in caught.value.hint


@contextlib.contextmanager
def interrupted_when(hold):
    """Have the time-out of the task end while the org holds its message."""
    main = threading.main_thread().ident
    stopper = threading.Thread(
        target=lambda: (hold.wait_until_held(), signal.pthread_kill(main, signal.SIGUSR1))
    )
    with time_is_up():
        stopper.start()
        try:
            yield
        finally:
            stopper.join()


class TestStopped:
    """A try that is stopped cannot resolve anything; the next one can."""

    @TASKS
    def test_the_next_try_resolves_it_and_sends_nothing(self, org, crm, task_of):
        task = task_of(org, crm.looks)

        unknown = pytest.raises(DeliveryUnknownError, match="The next try runs the steps")
        with org.hold("send") as hold, interrupted_when(hold), unknown as caught:
            task.run()
        assert not isinstance(caught.value, AirflowFailException)
        result = task.run()
        turn = result.get("turns", [result])[0]
        assert turn["outcome"] in ("answer_lost", "answered")
        assert crm.actions("change it") == 1


class TestWait:
    """A check that has to wait gives the worker slot back, and goes on with what was sent."""

    @TASKS
    def test_the_request_is_the_recorded_one(self, org, crm, task_of):
        task = task_of(org, Check(crm.looks, after=timedelta(minutes=2)))
        org.fail("send", **DID_NOT_ACT)
        with pytest.raises(TaskDeferred) as wait:
            task.run()
        assert crm.seen == []
        assert task_of is sending or org.open_sessions == []
        # As if the check had waited for no longer than the test does.
        task.arguments["on_unknown_delivery"] = crm.looks
        other = {"text": "rendered again"} if task_of is sending else {"messages": ["rendered again"]}
        result = task.resume(wait.value, **other)
        turn = result.get("turns", [result])[0]
        assert turn["text"] == HEARD
        assert (crm.actions("change it"), crm.actions("rendered again")) == (1, 0)

    @TASKS
    def test_a_trigger_that_is_lost_is_no_failure(self, org, crm, task_of):
        task = task_of(org, Check(crm.looks, after=timedelta(minutes=2)))
        org.fail("send", **ACTED)
        with pytest.raises(TaskDeferred) as wait:
            task.run()
        task.arguments["on_unknown_delivery"] = crm.looks
        result = task.resume(wait.value, error="Trigger failure")
        assert result["outcome"] == "answer_lost"
        assert crm.sends() == 1

    @TASKS
    @pytest.mark.parametrize(
        ("fault", "why", "applied"), [({"status": 503}, "503", None), ({"cut": 20}, "cut", True)]
    )
    def test_what_is_known_is_still_known_after_it(self, org, crm, task_of, fault, why, applied):
        task = task_of(org, Check(crm.looks_and_forgets, after=timedelta(minutes=2)))
        org.fail("send", **fault)
        with pytest.raises(TaskDeferred) as wait:
            task.run()
        with pytest.raises(DeliveryUnknownError, match=why) as caught:
            task.resume(wait.value, on_unknown_delivery=crm.looks_and_forgets)
        assert why in crm.seen[0].error
        assert caught.value.applied is applied

    @pytest.mark.parametrize("step", [Check(cannot_tell, timedelta(minutes=2)), Trace(timedelta(minutes=30))])
    @pytest.mark.parametrize("lost", [{"error": "Trigger failure"}, {"event": {"status": "not_found"}}])
    def test_a_trigger_that_fails_at_once_makes_no_loop(self, traced_org, step, lost):
        org = traced_org(trace_delay=999)
        task = talking(org, step)
        org.fail("send", **ACTED)
        with pytest.raises(TaskDeferred) as wait:
            task.run()
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(TaskDeferred):
                task.resume(wait.value, **lost)
        assert time.monotonic() - began >= 3

    def test_a_decorated_function_is_not_called_again(self, org, crm):
        calls = []

        def write():
            calls.append(True)
            return f"change {len(calls)}"

        steps = Check(crm.looks, after=timedelta(minutes=2))
        task = Task(AgentforceDecoratedOperator, python_callable=write, on_unknown_delivery=steps)
        org.fail("send", **DID_NOT_ACT)
        with pytest.raises(TaskDeferred) as wait:
            task.run()
        result = task.resume(wait.value, on_unknown_delivery=crm.looks)
        assert (result["outcome"], len(calls), crm.actions("change 1")) == ("answered", 1, 1)

    @TASKS
    def test_it_ends_without_a_triggerer(self, org, crm, task_of, capsys):
        task = task_of(org, Check(crm.looks, after=timedelta(minutes=2)))
        org.fail("send", **ACTED)
        with pytest.raises(TaskDeferred) as wait:
            task.run()
        assert timedelta(minutes=2) < wait.value.timeout < timedelta(minutes=4)
        task.arguments["on_unknown_delivery"] = crm.looks
        result = task.resume(wait.value, error="Trigger timeout")
        assert result["outcome"] == "answer_lost"
        assert "look whether a triggerer runs" in capsys.readouterr().out


def now():
    return datetime.now(timezone.utc)


class TestTimeOfSending:
    """A check counts from the last moment at which the message may have left."""

    @TASKS
    @pytest.mark.parametrize("with_store", [True, False])
    def test_a_wait_for_a_limit_comes_before_it(self, org, crm, task_of, with_store):
        task = task_of(org, crm.looks)
        org.fail("send", status=429, headers={"Retry-After": "1"})
        org.fail("send", **ACTED)
        began = now()
        TestCheck().run(task, with_store=with_store)
        (delivery,) = crm.seen
        assert delivery.sent_at >= began + timedelta(seconds=1)
        assert delivery.first_sent_at is None

    def test_a_message_that_is_sent_again_keeps_the_time_of_the_first_delivery(self, org, crm):
        task = sending(org, [cannot_tell, "resend"])
        org.fail("send", times=2, **DID_NOT_ACT)
        with pytest.raises(DeliveryUnknownError):
            task.run()
        between = now()
        with pytest.raises(DeliveryUnknownError):
            task.run()
        with pytest.raises(DeliveryUnknownError):
            task.run(on_unknown_delivery=[crm.looks_and_forgets, "fail"])
        (delivery,) = crm.seen
        assert delivery.first_sent_at < between < delivery.sent_at

    def test_earlier_messages_of_a_record_come_before_it(self, org, crm, tmp_path):
        org.fail("send", delay=1)
        org.fail("send", **ACTED)
        batch(crm.looks, tmp_path, records=1, message=["first", "change {{ record.id }}"])
        (delivery,) = crm.seen
        assert delivery.sent_at >= delivery.first_sent_at + timedelta(seconds=1)


class TestConversation:
    def test_it_goes_on_in_its_session(self, org, crm):
        task = Task(ConversationOperator, messages=["one", "two", "three"], on_unknown_delivery=crm.looks)
        org.fail("send", status=500, after=True)
        result = task.run()
        assert [turn["outcome"] for turn in result["turns"]] == ["answer_lost", "answered", "answered"]
        (session,) = org.sessions.values()
        assert [turn.applied for turn in session.turns] == [1, 1, 1]
        assert org.open_sessions == []

    def test_a_message_in_the_middle_is_sent_again_in_its_session_with_its_number(self, org, crm):
        task = Task(ConversationOperator, messages=crm_messages, on_unknown_delivery=crm.looks)
        org.fail("send", status=503)
        result = task.run()
        assert [turn["sequence_id"] for turn in result["turns"]] == [1, 2]
        assert org.count("start") == 1
        assert crm.actions("one") == crm.actions("two") == 1

    def test_a_single_message_that_was_not_acted_on_goes_to_another_session(self, org, crm):
        task = Task(ConversationOperator, messages=["one"], on_unknown_delivery=crm.looks)
        org.fail("send", **DID_NOT_ACT)
        result = task.run()
        assert org.count("start") == 2
        assert result["turns"][0]["resolution"]["acted"] is False
        assert (crm.actions("one"), org.open_sessions) == (1, [])

    def test_a_retry_that_sends_the_last_message_again_finds_its_session_open(self, org, crm):
        steps = [Trace(timeout=timedelta(0)), "resend"]
        task = Task(ConversationOperator, messages=["one", "two"], on_unknown_delivery=steps)
        org.fail("send", delay=0)
        org.fail("send", **DID_NOT_ACT)
        with pytest.raises(DeliveryUnknownError) as caught:
            task.run()
        assert not isinstance(caught.value, AirflowFailException)
        result = task.run()
        assert [turn["sequence_id"] for turn in result["turns"]] == [1, 2]
        assert (crm.actions("one"), crm.actions("two"), org.open_sessions) == (1, 1, [])

    def test_one_that_cannot_be_sent_again_says_why(self, org, crm):
        def ends_the_session(delivery):
            AgentforceHook().end_session({"session_id": delivery.session_id})
            return False

        task = Task(ConversationOperator, messages=["one", "two"], on_unknown_delivery=ends_the_session)
        with pytest.raises(SessionNotFoundError, match="Message 1 is answered"):
            run_with_fault_at(org, task, 2)
        assert (crm.actions("one"), crm.actions("two")) == (1, 0)


def crm_messages(turns):
    return ["one", "two", None][len(turns)]


def run_with_fault_at(org, task, number):
    """Run a task whose *number*-th message is lost before the agent acts."""
    messages = task.arguments["messages"]

    faults = [DID_NOT_ACT]

    def give(turns):
        if len(turns) == number - 1 and faults:
            org.fail("send", **faults.pop())
        return messages[len(turns)] if len(turns) < len(messages) else None

    task.arguments["messages"] = give
    return task.run()


async def coroutine(_delivery):
    return True


@TASKS
def test_a_text_that_changes_meanwhile_is_not_sent_in_the_place_of_the_one_that_was_decided_on(
    org, crm, task_of
):
    task = task_of(org, Check(crm.looks, after=timedelta(minutes=2)), store_requests=False)
    org.fail("send", **DID_NOT_ACT)
    with pytest.raises(TaskDeferred) as wait:
        task.run()
    task.arguments["on_unknown_delivery"] = lambda _delivery: False
    other = {"text": "rendered again"} if task_of is sending else {"messages": ["rendered again"]}
    with pytest.raises(AgentforceInputError, match="has changed since an earlier try sent it"):
        task.resume(wait.value, **other)
    assert (crm.actions("change it"), crm.actions("rendered again")) == (0, 0)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("retry", "'retry'"),
        ("", "''"),
        ([], "must be"),
        (None, "None"),
        (True, "True"),
        ({"check": 1}, "must be"),
        (["fail", "ask"], '"fail" ends the list'),
        ([cannot_tell, "resend", "trace"], '"resend" ends the list'),
        (["ask", Ask()], "only once"),
        (Trace, "write Trace("),
        ([Ask], "write Ask("),
        ([cannot_tell, 5], "has 5"),
    ],
)
def test_what_cannot_be_steps_is_refused_at_parse(given, problem):
    with pytest.raises(AgentforceInputError, match="on_unknown_delivery") as caught:
        ConversationOperator(task_id="talk", messages=["one"], on_unknown_delivery=given)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Check("module.function"),
        lambda: Check(cannot_tell, after=30),
        lambda: Check(cannot_tell, after=timedelta(seconds=-1)),
        lambda: Trace(timeout=30),
        lambda: Ask(timeout=timedelta(0)),
        lambda: Ask(assigned_users="me"),
        lambda: Ask(notifiers=print),
        lambda: Ask(notifiers=["mail"]),
        lambda: Ask(assigned_users=["alice"]),
        lambda: Ask(assigned_users=[{"id": 1}]),
        lambda: Trace(timeout=timedelta.max),
        lambda: Check(coroutine),
        lambda: Trace(outcome_of="needs_input"),
        lambda: Trace(outcome_of=coroutine),
    ],
)
def test_what_cannot_be_a_step_is_refused_where_it_is_made(make):
    with pytest.raises(AgentforceInputError, match=r"^(Check|Trace|Ask)"):
        make()


def test_names_stand_for_steps():
    assert steps_of("trace") == (Trace(), "fail")
    assert steps_of([cannot_tell, "ask", "resend"]) == (Check(cannot_tell), Ask(), "resend")


def test_what_is_known_of_a_delivery_survives_json():
    org_says = UnknownDelivery(session_id="s", findings=("a", "b"), request={"type": "Text", "text": "hi"})
    assert UnknownDelivery.from_dict({**org_says.to_dict(), "later": 1}) == org_says
    assert org_says.text == "hi"
    assert StateStore().values == {}


class CountedRecords(list):
    """Records that count how often they are read."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return super().__iter__()


def batch_operator(steps, folder, **more):
    arguments = {
        "message": "change {{ record.id }}",
        "key": "id",
        "max_concurrency": 2,
        "result_path": f"file://{folder}/results",
        "on_unknown_delivery": steps,
        **more,
    }
    return ConversationBatchOperator(task_id="ask", **arguments)


def batch(steps, folder, *, records=3, try_number=1, max_tries=3, **more):
    """Run a batch and return its rows by key."""
    operator = batch_operator(steps, folder, records=accounts(records), **more)
    manifest = operator.execute({"ti": TaskInstance(try_number, max_tries)})
    rows = [json.loads(line) for line in (folder / "results" / "results.jsonl").read_text().splitlines()]
    return manifest, {row["key"]: row for row in rows}


class TestBatch:
    @pytest.mark.parametrize("share", [1, 9])
    def test_each_record_is_acted_on_once(self, org, crm, tmp_path, share):
        org.fail("send", **ACTED)
        org.fail("send", **DID_NOT_ACT)
        manifest, rows = batch(crm.looks, tmp_path, messages_per_session=share)
        assert sorted(row["status"] for row in rows.values()) == ["answer_lost", "answered", "answered"]
        assert manifest["counts"] == {"answered": 2, "answer_lost": 1}
        assert manifest["resolved"] == 2
        by = [row["resolution"] and row["resolution"]["acted"] for row in rows.values()]
        assert sorted(by, key=str) == [False, None, True]
        assert [crm.actions(f"change A{number}") for number in range(3)] == [1, 1, 1]
        assert {one.record_key for one in crm.seen} < {"A0", "A1", "A2"}
        assert all(one.external_session_key and one.session_id and one.sent_at for one in crm.seen)
        assert org.open_sessions == []

    def test_what_cannot_be_known_stays_unknown_and_says_why(self, org, crm, tmp_path):
        org.fail("send", **ACTED)
        manifest, rows = batch(cannot_tell, tmp_path)
        (row,) = [row for row in rows.values() if row["status"] == "unknown"]
        assert "The check cannot_tell cannot tell." in row["error"]
        assert (manifest["resolved"], row["resolution"], crm.sends()) == (0, None, 3)

    def test_resend_asks_it_again(self, org, crm, tmp_path):
        org.fail("send", **DID_NOT_ACT)
        _, rows = batch([cannot_tell, "resend"], tmp_path)
        assert [row["status"] for row in rows.values()] == ["answered"] * 3
        assert crm.sends() == 4
        resolutions = [row["resolution"]["by"] for row in rows.values() if row["resolution"]]
        assert resolutions == ["resend"]

    @pytest.mark.parametrize("steps", ["resend", [cannot_tell, "resend"]])
    def test_a_message_that_the_org_has_is_not_sent_again(self, org, crm, tmp_path, steps):
        org.fail("send", cut=20)
        for try_number in (1, 2):
            manifest, _ = batch(steps, tmp_path, try_number=try_number)
            assert (manifest["counts"]["unknown"], crm.sends()) == (1, 3)

    def test_a_conversation_whose_first_message_did_not_arrive_is_held(self, org, crm, tmp_path):
        messages = ["first {{ record.id }}", "change {{ record.id }}"]
        org.fail("send", **DID_NOT_ACT)
        _, rows = batch(crm.looks, tmp_path, records=1, message=messages)
        assert (rows["A0"]["status"], rows["A0"]["resolution"]["acted"]) == ("answered", False)
        assert (crm.actions("first A0"), crm.actions("change A0")) == (1, 1)

    @pytest.mark.parametrize(("changes", "sends", "status"), [(True, 1, "failed"), (False, 2, "answered")])
    def test_a_text_that_is_not_kept_is_sent_again_only_if_it_is_the_same(
        self, org, crm, tmp_path, changes, sends, status
    ):
        calls = []

        def message(record):
            calls.append(True)
            return f"change {record['id']} {len(calls) if changes else ''}"

        org.fail("send", **DID_NOT_ACT)
        more = {"message": message, "store_requests": False, "max_concurrency": 1}
        _, rows = batch(lambda _: False, tmp_path, records=2, **more)
        assert (rows["A0"]["status"], crm.sends()) == (status, sends + 1)

    def test_a_conversation_of_several_messages_is_not_begun_again(self, org, crm, tmp_path):
        messages = ["first {{ record.id }}", "change {{ record.id }}"]
        org.fail("send", delay=0)  # the first one is answered
        org.fail("send", **DID_NOT_ACT)
        more = {"records": 2, "message": messages, "max_concurrency": 1}
        _, rows = batch(crm.looks, tmp_path, **more)
        assert (rows["A0"]["status"], rows["A1"]["status"], crm.sends()) == ("failed", "answered", 4)
        assert "did not act on the last message" in rows["A0"]["error"]
        batch(crm.looks, tmp_path, **more, try_number=2)
        assert crm.sends() == 4

    def test_the_wait_is_one_for_all_records(self, org, crm, tmp_path):
        org.fail("send", times=2, **ACTED)
        check = Check(crm.looks, after=timedelta(minutes=2))
        with pytest.raises(TaskDeferred):
            batch(check, tmp_path)
        assert (crm.seen, crm.sends(), org.open_sessions) == ([], 3, [])
        _, rows = batch(crm.looks, tmp_path)
        assert sorted(row["status"] for row in rows.values()) == ["answer_lost", "answer_lost", "answered"]
        assert (len(crm.seen), crm.sends()) == (2, 3)

    def test_a_killed_process_leaves_records_that_are_resolved(self, org, crm, tmp_path):
        hold = org.hold("send")
        child = os.fork()
        if child == 0:
            try:
                batch(crm.looks, tmp_path)
            finally:
                os._exit(KILLED)
        hold.wait_until_held(count=2)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        hold.release()
        found_at = now()
        _, rows = batch(crm.looks, tmp_path, try_number=2)
        assert all(one.first_sent_at < found_at < one.sent_at for one in crm.seen)
        assert {row["status"] for row in rows.values()} <= {"answered", "answer_lost"}
        assert [crm.actions(f"change A{number}") for number in range(3)] == [1, 1, 1]
        assert len(crm.seen) == 2
        assert all(one.session_id and one.external_session_key and one.sequence_id == 1 for one in crm.seen)
        assert {one.text for one in crm.seen} == {"change A0", "change A1"}

    @pytest.mark.parametrize("more", [{}, {"max_failures": 1}], ids=["all", "stopped early"])
    @pytest.mark.parametrize("form", ["list", "function"])
    @pytest.mark.parametrize("then", ["looks", "resend"])
    @pytest.mark.parametrize("first", ["fail", "looks", "looks later", "resend"])
    def test_the_input_is_read_twice_at_most(self, org, crm, tmp_path, first, then, form, more):
        steps = {
            "fail": "fail",
            "looks": crm.looks,
            "looks later": Check(crm.looks, after=timedelta(minutes=2)),
            "resend": [cannot_tell, "resend"],
        }
        org.fail("send", **ACTED)
        org.fail("send", **DID_NOT_ACT)
        for number, named in enumerate([first, then], 1):
            records = CountedRecords(accounts(6))
            given = records if form == "list" else lambda records=records: records
            operator = batch_operator(steps[named], tmp_path, records=given, **more)
            records.passes = 0
            with contextlib.suppress(TaskDeferred, BatchFailedError):
                operator.execute({"ti": TaskInstance(number, 3)})
            assert records.passes <= (2 if form == "list" else int(number == 1))
        if then == "looks" and first != "resend" and not more:
            assert [crm.actions(f"change A{number}") for number in range(2)] == [1, 1]

    @pytest.mark.parametrize("last", ["fail", "resend"])
    def test_another_doubt_about_a_record_begins_at_the_first_step(self, org, crm, tmp_path, last):
        called = []
        steps = [called.append, crm.looks, "fail"] if last == "fail" else [called.append, "resend"]
        for fault in (DID_NOT_ACT, {"delay": 0}, DID_NOT_ACT):
            org.fail("send", **fault)
        more = {"records": 2, "max_concurrency": 1}
        _, rows = batch(steps, tmp_path, **more)
        assert (rows["A0"]["status"], len(called), crm.sends()) == ("unknown", 1, 3)
        _, rows = batch(steps, tmp_path, **more, try_number=2)
        assert (rows["A0"]["status"], len(called), crm.sends()) == ("answered", 2, 4)

    def test_a_check_goes_on_where_the_time_of_a_try_ended_and_hangs_once(self, org, crm, tmp_path):
        called = []

        def hangs_at_the_second(delivery):
            called.append(delivery.record_key)
            if len(called) > 1:
                signal.raise_signal(signal.SIGUSR1)
            return crm.looks(delivery)

        org.fail("send", times=3, **ACTED)
        for try_number in (1, 2):
            with pytest.raises(AirflowTaskTimeout), time_is_up():
                batch([hangs_at_the_second, crm.looks], tmp_path, try_number=try_number)
        _, rows = batch([hangs_at_the_second, crm.looks], tmp_path, try_number=3)
        assert [row["status"] for row in rows.values()] == ["answer_lost"] * 3
        assert (len(called), len(crm.seen), crm.sends()) == (3, 3, 3)

    def test_a_record_whose_check_hangs_does_not_keep_the_others_from_theirs(self, org, crm, tmp_path):
        def hangs_at_the_first(delivery):
            if delivery.record_key == "A0":
                signal.raise_signal(signal.SIGUSR1)
            return crm.looks(delivery)

        org.fail("send", times=3, **ACTED)
        with pytest.raises(AirflowTaskTimeout), time_is_up():
            batch(hangs_at_the_first, tmp_path)
        _, rows = batch(hangs_at_the_first, tmp_path, try_number=2)
        assert [row["status"] for row in rows.values()] == ["unknown", "answer_lost", "answer_lost"]
        assert "did not end" in rows["A0"]["error"]

    def test_a_process_killed_while_it_resolves_asks_nothing_twice(self, org, crm, tmp_path):
        org.fail("send", **ACTED)
        org.fail("send", **DID_NOT_ACT)

        def dies_at_the_second(delivery):
            if crm.seen:
                os._exit(KILLED)
            return crm.looks(delivery)

        child = os.fork()
        if child == 0:
            try:
                batch(dies_at_the_second, tmp_path)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == KILLED
        _, rows = batch(crm.looks, tmp_path, try_number=2)
        assert sorted(row["status"] for row in rows.values()) == ["answer_lost", "answered", "answered"]
        assert [crm.actions(f"change A{number}") for number in range(3)] == [1, 1, 1]

    def test_a_process_killed_among_many_checks_repeats_few(self, org, crm, tmp_path):
        number, called = _AT_ONCE + 5, []
        org.fail("send", times=number, **ACTED)

        def dies_at_the_last(delivery):
            called.append(delivery)
            return os._exit(KILLED) if len(called) == number else crm.looks(delivery)

        child = os.fork()
        if child == 0:
            try:
                batch(dies_at_the_last, tmp_path, records=number)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == KILLED
        manifest, _ = batch(crm.looks, tmp_path, records=number, try_number=2)
        assert (manifest["counts"], len(crm.seen), crm.sends()) == ({"answer_lost": number}, 5, number)


@pytest.fixture
def traced_org(make_org, monkeypatch):
    """Make an org with these settings, and have the connection lead to it."""

    def make(**settings):
        org = make_org(**settings)
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection())
        return org

    return make


@TASKS
class TestTrace:
    """The truth is in the org's own trace, or it is not."""

    @pytest.mark.parametrize("settings", [{}, {"trace_delay": 0.5}])
    def test_the_answer_comes_back(self, traced_org, task_of, settings):
        org = traced_org(**settings)
        task = task_of(org, SOON)
        org.fail("send", **ACTED)
        result = task.run()
        turn = result.get("turns", [result])[0]
        assert (turn["outcome"], turn["text"], turn["citations"]) == ("answered", HEARD, [])
        resolution = turn["resolution"]
        assert (resolution["by"], resolution["acted"], resolution["answer"]) == ("trace", True, "recovered")
        assert (org.count("send"), org.applied("change it")) == (1, 1)
        assert task.run() == result
        assert org.count("send") == 1

    def test_a_message_without_its_answer_is_delivered_all_the_same(self, traced_org, task_of):
        org = traced_org(trace_delay=1.0)
        task = task_of(org, Trace(timeout=timedelta(seconds=1.5)))
        org.fail("send", **ACTED)
        result = task.run()
        assert result["outcome"] == "answer_lost"
        assert (org.count("send"), org.applied("change it")) == (1, 1)

    @pytest.mark.parametrize("truth", [ACTED, DID_NOT_ACT])
    def test_absence_proves_nothing(self, traced_org, task_of, truth):
        org = traced_org(trace_without="change it")
        task = task_of(org, NOW)
        org.fail("send", **truth)
        with pytest.raises(DeliveryUnknownError, match=r"not among the 0 messages|404") as caught:
            task.run()
        assert isinstance(caught.value, AirflowFailException)
        assert (org.count("send"), org.applied("change it")) == (1, int(truth is ACTED))
        assert task_of is sending or org.open_sessions == []

    @pytest.mark.parametrize("mode", ["no_dataspace", "no_feedback", "forbidden"])
    def test_an_org_without_traces_leaves_it_to_the_next_step_at_once(self, traced_org, task_of, mode):
        org = traced_org(session_tracing=mode)
        crm = Org(org)
        task = task_of(org, [Trace(), crm.looks])
        org.fail("send", **ACTED)
        assert task.run()["outcome"] == "answer_lost"
        assert "Setup > Einstein Audit" in crm.seen[0].findings[0]

    def test_the_wait_is_a_trigger_that_looks(self, traced_org, task_of):
        org = traced_org(trace_delay=1.0)
        task = task_of(org, "trace")
        org.fail("send", **ACTED)
        with pytest.raises(TaskDeferred) as wait:
            task.run()
        trigger = wait.value.trigger
        (session,) = org.sessions.values()
        assert (trigger.session_id, trigger.text, trigger.position) == (session.session_id, "change it", 1)
        assert task_of is sending or org.open_sessions == []
        # Whatever the trigger has seen, the task looks for itself.
        task.arguments["on_unknown_delivery"] = SOON
        result = task.resume(wait.value, {"status": "not_found"})
        assert (result["text"], org.count("send")) == (HEARD, 1)


@TASKS
class TestTraceInStages:
    """First the trace has only the message, and the answer comes later."""

    def lost(self, org, task_of, steps):
        """Return a task whose reply is lost, and whose first look finds only the message."""
        task = task_of(org, steps)
        org.fail("send", **ACTED)
        org.fail("session_trace", status=200, body=trace("change it"), content_type="application/json")
        return task

    @pytest.mark.parametrize("last", ["fail", "resend"])
    @pytest.mark.parametrize(
        "then", [{"trace_delay": 3600}, {"session_tracing": "forbidden"}, {"trace_without": "change it"}]
    )
    def test_a_trace_that_is_gone_does_not_undo_the_delivery(self, traced_org, task_of, then, last):
        org = traced_org(**then)
        result = self.lost(org, task_of, [Trace(timeout=timedelta(seconds=0.5)), last]).run()
        turn = result.get("turns", [result])[0]
        assert (turn["outcome"], turn["resolution"]["by"]) == ("answer_lost", "trace")
        assert (org.count("send"), org.applied("change it")) == (1, 1)

    @pytest.mark.parametrize("steps", ["resend", [lambda _: False, "resend"], [NOW, "resend"]])
    def test_nor_do_other_steps(self, traced_org, task_of, steps):
        org = traced_org(trace_without="change it")
        task = self.lost(org, task_of, "trace")
        with pytest.raises(TaskDeferred) as wait:
            task.run()
        with pytest.raises(DeliveryUnknownError) as caught:
            task.resume(wait.value, {"status": "found"}, on_unknown_delivery=steps)
        assert (caught.value.applied, isinstance(caught.value, AirflowFailException)) == (True, True)
        assert (org.count("send"), org.applied("change it")) == (1, 1)

    def test_a_check_that_comes_before_it_leaves_the_answer_to_it(self, traced_org, task_of):
        org = traced_org()
        result = self.lost(org, task_of, [lambda _: False, SOON]).run()
        assert (result["text"], org.count("send"), org.count("session_trace")) == (HEARD, 1, 2)


def asks_back(text):
    return "needs_confirmation" if "heard" in text else "answered"


@TASKS
class TestKind:
    """The trace has the words of an answer, and not its kind."""

    def test_the_log_says_so(self, traced_org, task_of, caplog):
        org = traced_org()
        task = task_of(org, NOW)
        org.fail("send", **ACTED)
        result = task.run()
        resolution = result.get("turns", [result])[0]["resolution"]
        assert "does not say what kind of answer it is" in resolution["note"]
        assert [one.levelname for one in caplog.records if "Read the answer" in one.message] == ["WARNING"]

    def test_a_function_may_know_it(self, traced_org, task_of, caplog):
        org = traced_org()
        task = task_of(org, Trace(timeout=timedelta(0), outcome_of=asks_back))
        org.fail("send", **ACTED)
        result = task.run()
        turn = result.get("turns", [result])[0]
        assert (turn["outcome"], turn["text"]) == ("needs_confirmation", HEARD)
        assert "Read the answer" not in caplog.text
        with pytest.raises(AgentFailedError, match="needs_confirmation"):
            task.run(fail_on=("failed", "needs_confirmation"))
        assert org.count("send") == 1

    @pytest.mark.parametrize(
        ("says", "why"),
        [
            (lambda _: "done", "returned 'done'"),
            (lambda _: "answer_lost", "returned 'answer_lost'"),
            (lambda _: [], "returned []"),
            (lambda _: 1 / 0, "ZeroDivisionError"),
            (lambda _: sys.exit(), "SystemExit"),
        ],
    )
    def test_a_function_that_does_not_leaves_it_at_answered(self, traced_org, task_of, says, why, caplog):
        org = traced_org()
        task = task_of(org, Trace(timeout=timedelta(0), outcome_of=says))
        org.fail("send", **ACTED)
        result = task.run()
        turn = result.get("turns", [result])[0]
        assert (turn["outcome"], turn["text"]) == ("answered", HEARD)
        assert why in caplog.text
        assert why in turn["resolution"]["note"]


@TASKS
def test_a_function_that_takes_the_time_of_a_try_is_not_called_in_the_next(traced_org, task_of):
    org = traced_org()
    step = Trace(timeout=timedelta(0), outcome_of=lambda _: signal.raise_signal(signal.SIGUSR1))
    task = task_of(org, step)
    org.fail("send", **ACTED)
    with pytest.raises(AirflowTaskTimeout), time_is_up():
        task.run()
    result = task.run()
    assert (result["outcome"], result["text"], org.count("send")) == ("answered", HEARD, 1)


def test_a_function_may_know_the_kind_of_the_answers_of_a_batch(traced_org, tmp_path):
    org = traced_org()
    org.fail("send", **ACTED)
    _, rows = batch(Trace(timeout=timedelta(0), outcome_of=asks_back), tmp_path, records=1)
    assert (rows["A0"]["status"], rows["A0"]["outcome"]) == ("needs_confirmation", "needs_confirmation")


@TASKS
@pytest.mark.parametrize("size", [48_000, 300_000])
def test_a_long_answer_comes_back_whole(traced_org, task_of, size):
    org = traced_org(script=lambda _: "x" * size)
    task = task_of(org, NOW)
    org.fail("send", **ACTED)
    result = task.run()
    assert (result["outcome"], len(result["text"]), org.count("send")) == ("answered", size, 1)


def test_a_long_answer_before_a_doubt_is_not_lost(traced_org):
    org = traced_org(script=lambda turn: "x" * 60_000 if turn.text == "one" else "done")
    crm = Org(org)
    task = Task(
        ConversationOperator,
        messages=["one", "two"],
        on_unknown_delivery=Check(crm.looks, after=timedelta(seconds=0.1)),
    )
    result = run_with_fault_at(org, task, 2)
    assert [len(turn["text"]) for turn in result["turns"]] == [60_000, 4]
    assert (crm.actions("one"), crm.actions("two")) == (1, 1)


class TestAsk:
    @TASKS
    @pytest.mark.parametrize("error", ["Trigger timeout", "Trigger failure"])
    def test_without_a_trigger_the_answer_is_waited_for_all_the_same(self, org, actions, task_of, error):
        task = task_of(org, "ask")
        org.fail("send", **ACTED)
        with pytest.raises(TaskAwaitingInput):
            task.run()
        with pytest.raises(TaskDeferred) as look:
            task.run()
        with pytest.raises(TaskAwaitingInput) as wait:
            task.resume(look.value, error=error)
        assert len(actions.asked) == (2 if questions_change() else 1)
        assert task.resume(wait.value, chosen(DONE))["outcome"] == "answer_lost"

    @TASKS
    def test_a_secret_in_the_error_of_a_check_is_masked(self, org, actions, task_of, caplog):
        def leaks(_delivery):
            raise RuntimeError(f"login with {org.consumer_secret}")

        task = task_of(org, [leaks, "ask"])
        org.fail("send", **ACTED)
        with pytest.raises(TaskAwaitingInput):
            task.run()
        assert "RuntimeError: login with ***" in str(actions.asked)
        for said in (str(actions.asked), json.dumps(task.store.values), caplog.text):
            assert org.consumer_secret not in said

    @pytest.mark.skipif(questions_change(), reason="each try may ask")
    @pytest.mark.parametrize("last", ["fail", "resend"])
    def test_a_second_question_is_not_asked_and_the_next_step_follows(self, org, actions, last):
        task = Task(ConversationOperator, messages=["one", "two"], on_unknown_delivery=["ask", last])
        org.fail("send", times=2, **ACTED)
        with pytest.raises(TaskAwaitingInput) as wait:
            task.run()
        with pytest.raises(DeliveryUnknownError) as caught:
            task.resume(wait.value, chosen(DONE))
        assert isinstance(caught.value, AirflowFailException) == (last == "fail")
        assert last == "resend" or "cannot ask a second one" in caught.value.hint
        assert caught.value.session_id in org.sessions
        assert len(actions.asked) == 1

    @pytest.mark.skipif(questions_change(), reason="each try may ask")
    def test_a_batch_that_has_asked_its_question_ends_with_its_results(self, org, actions, tmp_path):
        task = batch_task(tmp_path, "ask")
        org.fail("send", **DID_NOT_ACT)
        with pytest.raises(TaskAwaitingInput) as wait:
            task.run()
        org.fail("send", **DID_NOT_ACT)
        task.resume(wait.value, chosen(NOT_DONE))
        manifest = task.run()
        assert manifest["counts"] == {"answered": 2, "unknown": 1}
        assert "cannot ask a second one" in (tmp_path / "results" / "results.jsonl").read_text()
        assert len(actions.asked) == 1

    def test_a_decision_is_not_about_a_record_that_is_lost_afterwards(self, org, crm, actions, tmp_path):
        task = batch_task(tmp_path, ["ask", crm.looks], records=accounts(2))
        org.fail("send", **DID_NOT_ACT)
        org.fail("send", status=400)
        with pytest.raises(TaskAwaitingInput) as wait:
            task.run()
        assert ("A0" in actions.asked[0]["body"], "A1" in actions.asked[0]["body"]) == (True, False)
        # It is asked again, and the agent acts.
        org.fail("send", **ACTED)
        go = partial(task.resume, wait.value, chosen(NOT_DONE))
        if questions_change():
            with pytest.raises(TaskAwaitingInput) as wait:
                go()
            assert "A1" in actions.asked[1]["body"]
            go = partial(task.resume, wait.value, chosen(DONE))
        manifest = go()
        assert manifest["counts"] == {"answered": 1, "answer_lost": 1}
        assert [crm.actions(f"change A{number}") for number in range(2)] == [1, 1]

    def test_the_question_of_a_batch_says_where_to_look(self, org, actions, tmp_path):
        org.fail("send", **ACTED)
        with pytest.raises(TaskAwaitingInput):
            batch_task(tmp_path, "ask").run()
        (asked,) = actions.asked
        assert org.agent_id in asked["body"]
        assert str(tmp_path / "results") in asked["body"]

    def test_a_notifier_that_exits_is_called_once(self, org, actions):
        calls = []

        def leaves(_context):
            calls.append(True)
            sys.exit("no mail")

        task = talking(org, Ask(notifiers=[leaves]))
        org.fail("send", **ACTED)
        with pytest.raises(TaskAwaitingInput):
            task.run()
        with pytest.raises((TaskAwaitingInput, TaskDeferred)):
            task.run()
        assert len(calls) == 1

    def test_a_task_that_a_person_fails_still_shows_what_it_was_about(self, org, actions):
        task = talking(org, [lambda _: None, "ask"])
        org.fail("send", **ACTED)
        with pytest.raises(TaskAwaitingInput) as wait:
            task.run()
        with pytest.raises(DeliveryUnknownError, match="decided to fail the task"):
            task.resume(wait.value, chosen("Fail"))
        unknown = task.page["unknown"]
        assert (unknown["sequence_id"], unknown["request"]["text"]) == (1, "change it")
        assert (unknown["steps"], unknown["step"]) == (["check", "ask", "fail"], 1)

    def test_a_batch_that_a_person_fails_fails_with_its_results(self, org, actions, tmp_path):
        task = batch_task(tmp_path, ["ask", "resend"])
        org.fail("send", **ACTED)
        with pytest.raises(TaskAwaitingInput) as wait:
            task.run()
        with pytest.raises(BatchFailedError, match="decided to fail the task") as caught:
            task.resume(wait.value, chosen("Fail"))
        assert isinstance(caught.value, AirflowFailException)
        assert caught.value.manifest["counts"] == {"answered": 2, "unknown": 1}
        assert org.count("send") == 3

    @TASKS
    @pytest.mark.parametrize("truth", [ACTED, DID_NOT_ACT])
    def test_a_message_that_is_in_the_trace_by_now_is_not_sent_again(
        self, traced_org, actions, task_of, truth
    ):
        org = traced_org()
        task = task_of(org, [NOW, "ask"])
        org.fail("send", **truth)
        org.fail("session_trace", status=404)
        with pytest.raises(TaskAwaitingInput) as wait:
            task.run()
        result = task.resume(wait.value, chosen(NOT_DONE))
        assert (result["text"], org.applied("change it")) == (HEARD, 1)
        turn = result.get("turns", [result])[0]
        assert turn["resolution"]["by"] == ("trace" if truth is ACTED else "ask")

    @TASKS
    @pytest.mark.parametrize("answer", ["It is open.", '{"open": "perhaps"}', ""])
    def test_an_answer_of_a_person_that_does_not_fit_asks_the_agent_nothing(
        self, org, actions, task_of, answer
    ):
        schema = {"type": "object", "properties": {"open": {"type": "boolean"}}, "required": ["open"]}
        task = task_of(org, "ask", output_type=schema)
        org.fail("send", **ACTED)
        if answer:
            with pytest.raises(InvalidOutputError, match="what Ada typed in") as caught:
                until_decided(task, actions, answer=answer)
            assert isinstance(caught.value, AirflowFailException)
        else:
            assert until_decided(task, actions)["result"] is None
        assert org.count("send") == 1
        assert "JSON that fits" in actions.asked[0]["params"]["answer"]["schema"]["title"]

    @TASKS
    def test_an_answer_of_a_person_that_fits_is_the_result(self, org, actions, task_of):
        task = task_of(org, "ask", output_type={"type": "object"})
        org.fail("send", **ACTED)
        result = until_decided(task, actions, answer='{"open": true}')
        assert (result["result"], org.count("send")) == ({"open": True}, 1)

    def test_no_person_is_asked_where_the_answers_would_be_lost_meanwhile(self, traced_org, actions):
        org = traced_org(script=lambda turn: "x" * 60_000 if turn.text == "one" else "done")
        task = Task(ConversationOperator, messages=["one", "two"], on_unknown_delivery="ask")
        with pytest.raises(DeliveryUnknownError, match="No person can be asked"):
            run_with_fault_at(org, task, 2)
        assert actions.asked == []
        assert [len(turn["text"]) for turn in task.xcoms["turns"]] == [60_000]


def test_two_messages_of_the_same_text_are_told_apart(traced_org):
    org = traced_org()
    task = Task(ConversationOperator, messages=["change it", "change it"], on_unknown_delivery=NOW)
    with pytest.raises(DeliveryUnknownError, match="Nothing tells whether it is one of them"):
        run_with_fault_at(org, task, 2)
    assert org.applied("change it") == 1


def test_the_message_of_a_run_before_a_clear_is_not_taken_for_the_one_after_it(traced_org):
    org = traced_org()
    task = sending(org, NOW)
    task.run()
    task.clear()
    org.fail("send", **DID_NOT_ACT)
    with pytest.raises(DeliveryUnknownError, match="Nothing tells whether it is one of them"):
        task.run()
    assert (org.count("send"), org.applied("change it")) == (2, 1)


def test_a_batch_looks_all_its_records_up(traced_org, tmp_path):
    org = traced_org()
    org.fail("send", times=8, **ACTED)
    org.fail("send", times=2, **DID_NOT_ACT)
    manifest, rows = batch(NOW, tmp_path, records=12, max_concurrency=1)
    counts = {"answered": 10, "unknown": 2}
    assert (manifest["counts"], manifest["resolved"], org.count("send")) == (counts, 8, 12)
    found = [row for row in rows.values() if row["resolution"]]
    assert {row["text"] for row in found} == {
        f"I am the emulator's agent and heard: change A{n}" for n in range(8)
    }
    assert {row["resolution"]["answer"] for row in found} == {"recovered"}


@pytest.mark.parametrize("waits", [False, True])
def test_a_record_that_its_trace_has_shown_is_not_asked_again(traced_org, tmp_path, waits):
    org = traced_org(trace_delay=3600)
    org.fail("send", **ACTED)
    org.fail("session_trace", status=200, body=trace("change A0"), content_type="application/json")
    steps = [Trace(timeout=timedelta(minutes=30 if waits else 0.01)), "resend"]
    if waits:
        with pytest.raises(TaskDeferred):
            batch(steps, tmp_path, max_concurrency=1)
        # The Dag has other steps by then.
        manifest, rows = batch("resend", tmp_path, max_concurrency=1)
    else:
        manifest, rows = batch(steps, tmp_path, max_concurrency=1)
    assert (rows["A0"]["status"], rows["A0"]["applied"]) == ("unknown" if waits else "answer_lost", True)
    assert (manifest["counts"]["answered"], org.count("send"), org.applied("change A0")) == (2, 3, 1)


def test_a_function_that_hangs_is_called_for_no_other_record(traced_org, tmp_path):
    called = []

    def hangs(text):
        called.append(text)
        signal.raise_signal(signal.SIGUSR1)

    step, number = Trace(timeout=timedelta(0), outcome_of=hangs), _AT_ONCE + 5
    org = traced_org()
    org.fail("send", times=number, **ACTED)
    with pytest.raises(AirflowTaskTimeout), time_is_up():
        batch(step, tmp_path, records=number)
    with time_is_up():
        manifest, _ = batch(step, tmp_path, records=number, try_number=2)
    assert (manifest["counts"], len(called)) == ({"answered": number}, 1)


class LongAnswers:
    """What the steps need, for many messages whose long answers are in the trace: their home, and the org."""

    wants_json = woke_early = False
    results = ""
    redact = staticmethod(str)

    def __init__(self, number):
        self.left = {str(place): UnknownDelivery() for place in range(number)}
        self.at_once = 0

    def open(self):
        return dict(self.left)

    def read(self):
        return None

    def write(self, progress):
        json.dumps(progress)

    def settle(self, verdicts):
        for name in verdicts:
            del self.left[name]

    def look_up(self, deliveries):
        self.at_once = max(self.at_once, len(deliveries))
        return {
            name: TraceLookup(found=True, answer=f"{name} {'x' * 20_000}", final=True) for name in deliveries
        }


def test_ten_thousand_messages_are_looked_up_in_the_memory_of_a_few():
    org = LongAnswers(10_000)
    tracemalloc.start()
    try:
        assert Resolver(steps_of("trace"), org, org, lambda _: None).run() is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (org.left, org.at_once < 1_000, peak < 30_000_000) == ({}, True, True)


def test_many_messages_are_looked_up_over_a_few_connections(traced_org, tmp_path, monkeypatch):
    number, most = _AT_ONCE + 5, 3
    org = traced_org()
    org.fail("send", times=number, **ACTED)
    with pytest.raises(BatchFailedError):
        batch("fail", tmp_path, records=number)
    with Relay(int(org.url.rpartition(":")[2])) as relay:
        reached = org.connection().replace(org.url, relay.url)
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", reached)
        # To the batch, the other address is another org.
        again = {"try_number": 2, "on_change": "continue"}
        manifest, _ = batch(NOW, tmp_path, records=number, max_concurrency=most, **again)
    assert (manifest["counts"], org.count("session_trace")) == ({"answered": number}, number)
    assert 0 < relay.most_at_once <= most


@TASKS
@pytest.mark.parametrize(
    ("megabytes", "outcome", "text", "by"),
    [(12, "answered", "Done.", "trace"), (17, "answer_lost", "", "check")],
)
def test_a_long_trace_gives_the_answer_or_the_next_step(traced_org, task_of, megabytes, outcome, text, by):
    org = traced_org()
    body = trace("change it", "Done.", more="x" * megabytes * 1024 * 1024)
    org.fail("session_trace", body=body, content_type="application/json")
    task = task_of(org, [Trace(timeout=timedelta(hours=1)), Org(org).looks])
    org.fail("send", **ACTED)
    result = task.run()
    assert (result["outcome"], result["text"], org.count("session_trace")) == (outcome, text, 1)
    turn = result.get("turns", [result])[0]
    assert turn["resolution"]["by"] == by


@TASKS
def test_steps_that_change_during_a_wait_begin_again(org, crm, task_of):
    task = task_of(org, [cannot_tell, Check(crm.looks, after=timedelta(minutes=2)), "resend"])
    org.fail("send", **ACTED)
    with pytest.raises(TaskDeferred) as wait:
        task.run()
    assert task.resume(wait.value, on_unknown_delivery=crm.looks)["outcome"] == "answer_lost"
    assert crm.sends() == 1


def test_an_org_that_refuses_all_traces_is_asked_once(traced_org, tmp_path):
    org = traced_org(session_tracing="forbidden")
    number = _AT_ONCE + 5
    org.fail("send", times=number, **ACTED)
    manifest, _ = batch([NOW, cannot_tell, "resend"], tmp_path, records=number)
    assert (manifest["counts"]["answered"], org.count("session_trace")) == (number, 1)


def test_a_batch_killed_while_it_asks_again_acts_once(org, crm, tmp_path):
    org.fail("send", **DID_NOT_ACT)
    org.fail("send", delay=60, after=True)
    child = os.fork()
    if child == 0:
        try:
            batch(crm.looks, tmp_path, records=1)
        finally:
            os._exit(1)
    until("the record is asked again", lambda: crm.actions("change A0") == 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    manifest, rows = batch(crm.looks, tmp_path, records=1, try_number=2)
    assert (crm.actions("change A0"), crm.sends()) == (1, 2)
    assert (rows["A0"]["status"], rows["A0"]["attempts"], manifest["resolved"]) == ("answer_lost", 2, 2)
