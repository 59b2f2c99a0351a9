"""What ends a session, and what a person's clear does, in a real Airflow."""

from __future__ import annotations

import pytest
from installed import AIRFLOW
from real_airflow import kill, until

# Airflow 3.4 discards a task's state when a person clears it over REST.
KEEPS_STATE = AIRFLOW == "3.3"


def test_a_conversation_that_is_cleared_after_success_runs_afresh(airflow, org, figures):
    figures.kind, figures.again = "clear", True
    run = airflow.trigger("talk")
    assert run.wait() == "success"
    before = run.xcom("talk", "session_id")
    assert (org.count("start"), org.count("send"), org.open_sessions) == (1, 2, [])

    run.clear("talk")
    run.wait_for("talk", "queued", "running")
    assert run.wait() == "success"
    assert run.xcom("talk", "session_id") != before
    assert (org.count("start"), org.count("send"), org.count("end")) == (2, 4, 2)
    assert (org.applied("first"), org.applied("second")) == (2, 2)
    assert org.open_sessions == []


def test_a_conversation_that_is_cleared_after_a_kill_runs_afresh(airflow, org, figures):
    hold = org.hold("send")
    run = airflow.trigger("talk")
    hold.wait_until_held(180)
    kill(run.runner("talk"))
    hold.release()
    assert run.wait() == "failed"
    assert (org.count("send"), org.applied()) == (1, 1)

    figures.kind, figures.again = "SIGKILL, clear", True
    run.clear("talk")
    run.wait_for("talk", "queued", "running")
    assert run.wait() == "success"
    first, second = org.sessions.values()
    assert [turn.text for turn in first.turns] == ["first"]
    assert [turn.text for turn in second.turns] == ["first", "second"]
    assert (org.count("send"), org.open_sessions) == (3, [])


def test_a_clear_ends_the_session_that_was_left_open_where_airflow_keeps_its_record(airflow, org, figures):
    hold = org.hold("send")
    run = airflow.trigger("talk")
    hold.wait_until_held(180)
    kill(run.runner("talk"))
    # The session cannot be ended while the agent works in it.
    assert run.wait() == "failed"
    hold.release()
    (left,) = org.open_sessions

    figures.kind, figures.again = "SIGKILL, clear", True
    run.clear("talk")
    run.wait_for("talk", "queued", "running")
    assert run.wait() == "success"
    assert (org.count("start"), org.count("send"), org.applied("first")) == (2, 3, 2)
    assert org.open_sessions == ([] if KEEPS_STATE else [left])


def test_a_clear_sends_a_message_of_unknown_delivery_again(airflow, org, figures):
    org.fail("send", drop=True, after=True)
    run = airflow.trigger("shared")
    run.wait()
    assert run.states()["send"] == "failed"
    assert "clearing the task sends the message again" in run.log("send", 1)
    assert (org.count("send"), org.applied(), org.open_sessions) == (1, 1, [])

    # Airflow clears the setup and the teardown with it.
    figures.kind, figures.again = "unknown, clear", True
    run.clear("send")
    run.wait_for("send", "queued", "running", "success")
    assert run.wait() == "success"
    assert (org.count("start"), org.count("send"), org.applied()) == (2, 2, 2)
    assert org.open_sessions == []


@pytest.mark.parametrize(
    ("dag_id", "task", "sends", "ended"),
    # The task that a clear stops still records its own session; that of a cleared start goes with its state.
    [("talk", "talk", 3, True), ("shared", "send", 2, KEEPS_STATE)],
)
def test_a_clear_while_the_message_is_on_its_way_stops_the_task_and_sends_again(
    airflow, org, figures, dag_id, task, sends, ended
):
    hold = org.hold("send")
    run = airflow.trigger(dag_id)
    hold.wait_until_held(180)
    runner = run.runner(task)
    (left,) = org.open_sessions
    figures.kind, figures.again = "clear", True
    run.clear(task)

    def stopping():
        ends_its_session = dag_id == "talk" and org.count("end")
        return ends_its_session or not runner.is_running() or runner.status() == "zombie"

    # The message locks the session, so its end has to wait. Airflow takes a task that needs longer to stop
    # than the heartbeat's timeout for a failed one.
    until("the task stops", stopping)
    hold.release()
    assert run.wait() == "success"

    assert "DeliveryUnknownError" in run.log(task, 1)
    assert (org.count("start"), org.count("send"), org.applied()) == (2, sends, sends)
    assert org.open_sessions == ([] if ended else [left])


def test_the_teardown_ends_the_session_after_a_failed_send(airflow, org, figures):
    figures.kind = "error"
    org.fail("send", status=400)
    run = airflow.trigger("shared")
    run.wait()
    assert run.states() == {"start": "success", "send": "failed", "end": "success"}
    # A 400 is final: Airflow does not retry it.
    assert run.task("send")["try_number"] == 1
    assert run.xcom("end")["ended"] is True
    assert (org.count("send"), org.applied(), org.open_sessions) == (1, 0, [])


def test_a_failed_start_leaves_no_session(airflow, org, figures):
    figures.kind = "error"
    org.fail("start", status=404)
    run = airflow.trigger("shared")
    run.wait()
    assert run.states() == {"start": "failed", "send": "upstream_failed", "end": "upstream_failed"}
    assert (org.count("start"), org.count("send"), org.sessions) == (1, 0, {})


def test_ending_a_session_twice_is_harmless(airflow, org, figures):
    figures.kind, figures.again = "clear", True
    run = airflow.trigger("shared")
    assert run.wait() == "success"
    assert run.xcom("end")["ended"] is True

    run.clear("end")
    run.wait_for("end", "queued", "running")
    assert run.wait() == "success"
    assert run.xcom("end")["ended"] is False
    assert (org.count("end"), org.applied(), org.open_sessions) == (2, 1, [])
