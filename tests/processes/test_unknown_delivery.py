"""Messages whose replies are lost, in a whole Airflow: people decide, checks wait, processes are killed."""

from __future__ import annotations

import contextlib

import pytest
from real_airflow import until
from unknown_deliveries import trace

from airflow_provider_agentforce._compat import questions_change

pytestmark = pytest.mark.usefixtures("figures")

ACTED, DID_NOT_ACT = {"drop": True, "after": True}, {"drop": True}
DONE, NOT_DONE, FAIL = "It was done", "It was not: send it", "Fail"


@pytest.fixture
def one_slot(airflow):
    """A pool of one slot, for two tasks."""
    airflow.ask("POST", "pools", {"name": "one_slot", "slots": 1})
    yield
    airflow.ask("DELETE", "pools/one_slot")


def actions(org):
    """Return how often the agent acted on each text."""
    turns = [turn for session in org.sessions.values() for turn in session.turns]
    return {turn.text: turn.applied for turn in turns}


@pytest.mark.parametrize(
    ("truth", "option", "answer", "expected"),
    [
        (ACTED, DONE, "Changed.", ("answered", "Changed.", "given")),
        (ACTED, DONE, "", ("answer_lost", "", "lost")),
        (DID_NOT_ACT, NOT_DONE, "", ("answered", "You said: {}", None)),
    ],
)
@pytest.mark.parametrize(("dag_id", "task"), [("talk_asks", "talk"), ("shared_asks", "send")])
def test_a_person_decides(airflow, org, dag_id, task, truth, option, answer, expected):
    org.fail("send", **truth)
    run = airflow.trigger(dag_id)
    asked = run.asked(task)
    assert asked["subject"] == "Did the agent act on this message?"
    assert asked["options"] == [DONE, NOT_DONE, FAIL]
    until("no task holds a worker", lambda: not airflow.task_runners())
    (session,) = org.sessions.values()
    assert session.session_id in asked["body"]
    assert (org.open_sessions == []) == (task == "talk")
    run.answer(task, option, {"answer": answer})
    assert run.wait() == "success", run.log(task, 1)
    (changed,) = {text for text in actions(org) if text.startswith("change")}
    assert f"    {changed}\n" in asked["body"]
    result = run.xcom(task)
    turn = result.get("turns", [result])[0]
    outcome, text, kept = expected
    assert (turn["outcome"], turn["text"]) == (outcome, text.format(changed))
    resolution = turn["resolution"]
    assert (resolution["by"], resolution["acted"], resolution["answer"]) == ("ask", option == DONE, kept)
    assert resolution["user"]
    assert set(actions(org).values()) == {1}
    assert org.open_sessions == []
    assert run.task(task)["try_number"] == 1


@pytest.mark.parametrize("truth", [ACTED, DID_NOT_ACT])
def test_a_person_lets_it_fail(airflow, org, truth):
    org.fail("send", **truth)
    run = airflow.trigger("talk_asks")
    run.asked("talk")
    run.answer("talk", FAIL, {"answer": ""})
    assert run.wait() == "failed"
    assert "decided to fail the task" in run.log("talk", 1)
    assert run.task("talk")["try_number"] == 1
    assert org.count("send") == 1


def test_a_person_who_does_not_answer_in_time_leaves_it_to_the_next_step(airflow, org):
    org.fail("send", **ACTED)
    run = airflow.trigger("talk_asks_in_time")
    assert run.wait() == "failed"
    assert "No person answered in time" in run.log("talk", 1)
    assert org.count("send") == 1


def test_a_second_question_of_a_task_is_asked_where_people_would_see_it(airflow, org):
    org.fail("send", times=2, **ACTED)
    run = airflow.trigger("talk_asks_twice")
    run.asked("talk")
    run.answer("talk", DONE, {"answer": ""})
    if questions_change():
        until("it is another one", lambda: "    two\n" in run.asked("talk")["body"])
        run.answer("talk", DONE, {"answer": "Changed."})
        assert run.wait() == "success", run.log("talk", 1)
        assert [turn["text"] for turn in run.xcom("talk")["turns"]] == ["", "Changed."]
    else:
        assert run.wait() == "failed"
        assert "has asked a question before" in run.log("talk", 1)
    assert actions(org) == {"one": 1, "two": 1}
    assert org.open_sessions == []


@pytest.mark.parametrize("early", [True, False])
def test_a_task_that_is_killed_while_it_asks_asks_once(airflow, org, killed_while_asking, early):
    org.fail("send", **ACTED)
    run = airflow.trigger("talk_asks_stopping")
    killed_while_asking(run, DONE, {"answer": ""}, early=early)
    assert (org.count("send"), run.xcom("talk")["outcome"]) == (1, "answer_lost")
    assert run.log("talk", 1).count("Waiting for a person") == 0


def test_the_second_of_two_decisions_is_refused(airflow, org):
    org.fail("send", **ACTED)
    run = airflow.trigger("talk_asks")
    run.asked("talk")
    run.answer("talk", DONE, {"answer": "Changed."})
    with pytest.raises(AssertionError, match="409"):
        run.answer("talk", NOT_DONE, {"answer": ""})
    assert run.wait() == "success", run.log("talk", 1)
    with pytest.raises(AssertionError, match="409"):
        run.answer("talk", NOT_DONE, {"answer": ""})
    assert (org.count("send"), run.xcom("talk")["text"]) == (1, "Changed.")


def test_a_decision_before_the_task_waits_counts_once(airflow, org, gates):
    org.fail("send", **DID_NOT_ACT)
    airflow.start_part("triggerer")  # reads it in the next try, where Airflow has failed this one
    try:
        run = airflow.trigger("talk_asks_stopping")
        gates.wait_for("asking")
        run.answer("talk", NOT_DONE, {"answer": ""})
        gates.open("asking")
        assert run.wait() == "success", run.log("talk", 1)
    finally:
        airflow.stop_part("triggerer")
    assert org.count("send") == 2
    assert list(actions(org).values()) == [1]
    assert run.xcom("talk")["turns"][0]["resolution"]["by"] == "ask"


def test_a_decision_after_the_time_changes_nothing(airflow, org):
    org.fail("send", **DID_NOT_ACT)
    run = airflow.trigger("talk_asks_in_time")
    assert run.wait() == "failed"
    with contextlib.suppress(AssertionError):  # some Airflows refuse it
        run.answer("talk", NOT_DONE, {"answer": ""})
    assert (run.task("talk")["state"], org.count("send")) == ("failed", 1)
    until("no task runs", lambda: not airflow.task_runners())
    assert set(actions(org).values()) <= {0}


@pytest.mark.parametrize("option", [DONE, NOT_DONE])
def test_a_decision_after_a_clear_is_not_about_the_message_of_the_next_run(airflow, org, option):
    org.fail("send", times=2, **ACTED)
    run = airflow.trigger("talk_asks")
    first = run.asked("talk")["body"]
    run.clear("talk")
    if questions_change():
        until("it is another one", lambda: run.asked("talk")["body"] != first)
        run.answer("talk", DONE, {"answer": "Changed."})
        assert run.wait() == "success", run.log("talk", 2)
    else:
        assert run.wait() == "failed"
        with contextlib.suppress(AssertionError):
            run.answer("talk", option, {"answer": "Changed."})
        assert "has asked a question before" in run.log("talk", 2)
        assert run.task("talk")["state"] == "failed"
    until("no task runs", lambda: not airflow.task_runners())
    # A clear sends the message again, as another text here.
    assert list(actions(org).values()) == [1, 1]


@pytest.mark.parametrize(
    ("dag_id", "task", "waits", "number"),
    [
        ("one_slot_asks", "talk", "awaiting_input", 1),
        ("one_slot_looks", "talk", "deferred", 1),
        ("one_slot_batch", "batch", "deferred", 2),
    ],
)
def test_another_task_uses_the_only_slot_meanwhile(airflow, org, one_slot, dag_id, task, waits, number):
    org.fail("send", times=number, **ACTED)
    if waits == "deferred":
        org.fail("session_trace", times=number, status=404)
    run = airflow.trigger(dag_id)
    run.asked(task) if waits == "awaiting_input" else run.wait_for(task, waits)
    run.wait_for("other", "success")
    assert run.task(task)["state"] == waits
    airflow.start_part("triggerer")
    try:
        if waits == "awaiting_input":
            run.answer(task, DONE, {"answer": ""})
        assert run.wait(120) == "success", run.log(task, 1)
    finally:
        airflow.stop_part("triggerer")
    assert run.task("other")["end_date"] < run.task(task)["end_date"]
    assert {run.task(one)["pool"] for one in (task, "other")} == {"one_slot"}
    assert set(actions(org).values()) == {1}


@pytest.mark.parametrize(("truth", "outcome"), [(ACTED, "answer_lost"), (DID_NOT_ACT, "answered")])
def test_a_check_waits_without_a_worker(airflow, org, truth, outcome):
    org.fail("send", **truth)
    airflow.start_part("triggerer")
    try:
        run = airflow.trigger("talk_checks_later")
        run.wait_for("talk", "deferred")
        until("no task holds a worker", lambda: not airflow.task_runners())
        assert org.open_sessions == []
        assert run.wait(120) == "success", run.log("talk", 1)
    finally:
        airflow.stop_part("triggerer")
    assert run.xcom("talk")["outcome"] == outcome
    assert list(actions(org).values()) == [1]


def test_a_wait_ends_without_a_triggerer(airflow, org):
    org.fail("send", **ACTED)
    run = airflow.trigger("talk_checks_later")
    run.wait_for("talk", "deferred")
    assert run.wait(240) == "success", run.log("talk", 1)
    assert run.xcom("talk")["outcome"] == "answer_lost"
    assert "look whether a triggerer runs" in run.log("talk", 1)
    assert list(actions(org).values()) == [1]


def test_an_answer_that_comes_later_than_its_message_is_waited_for_without_a_worker(airflow, org):
    org.fail("send", **ACTED)
    # The task looks once, and its trigger again and again: the answer is not there yet.
    looks = 2
    org.fail("session_trace", times=looks, body=trace("change it"), content_type="application/json")
    airflow.start_part("triggerer")
    try:
        run = airflow.trigger("talk_looks")
        run.wait_for("talk", "deferred")
        until("no task holds a worker", lambda: not airflow.task_runners())
        assert run.wait(180) == "success", run.log("talk", 1)
    finally:
        airflow.stop_part("triggerer")
    assert org.count("session_trace") > looks
    log = run.log("talk", run.task("talk")["try_number"])
    assert "Looking for the message in the org's trace" in log
    turn = run.xcom("talk")["turns"][0]
    assert (turn["text"], turn["resolution"]["answer"]) == ("You said: change it", "recovered")
    assert actions(org) == {"change it": 1}


def test_a_batch_asks_once_for_all(airflow, org):
    org.fail("send", times=2, **DID_NOT_ACT)
    run = airflow.trigger("batch_asks")
    asked = run.asked("batch")
    assert "A0\n    A1\n" in asked["body"]
    run.answer("batch", NOT_DONE, {})
    assert run.wait() == "success", run.log("batch", 1)
    assert actions(org) == {f"record A{number}": 1 for number in range(4)}
    manifest = run.xcom("batch")
    assert (manifest["counts"], manifest["resolved"]) == ({"answered": 4}, 2)
