"""Messages whose replies are lost, in a whole Airflow: people decide, checks wait, processes are killed."""

from __future__ import annotations

import pytest
from real_airflow import until

from airflow_provider_agentforce._compat import questions_change

pytestmark = pytest.mark.usefixtures("figures")

ACTED, DID_NOT_ACT = {"drop": True, "after": True}, {"drop": True}
DONE, NOT_DONE, FAIL = "It was done", "It was not: send it", "Fail"


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


def test_an_answer_comes_back_from_the_trace_without_a_worker(airflow, org):
    org.fail("send", **ACTED)
    org.fail("session_trace", status=404)
    airflow.start_part("triggerer")
    try:
        run = airflow.trigger("talk_looks")
        assert run.wait(120) == "success", run.log("talk", 1)
    finally:
        airflow.stop_part("triggerer")
    assert "Looking for the message in the org's trace" in run.log("talk", 1)
    (changed,) = actions(org)
    turn = run.xcom("talk")["turns"][0]
    assert (turn["text"], turn["resolution"]["answer"]) == (f"You said: {changed}", "recovered")
    assert actions(org) == {changed: 1}


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
