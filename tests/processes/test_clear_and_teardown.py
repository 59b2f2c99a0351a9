"""What ends a session, and what a person's clear does, in a real Airflow."""

from __future__ import annotations

from real_airflow import kill


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
    hold.wait_until_held(60)
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
