"""Traces that come late, in a running Airflow: no worker slot is held, and a triggerer may be lost."""

from __future__ import annotations

from real_airflow import until


def test_late_traces_are_waited_for_without_a_worker_and_a_lost_triggerer_looks_again(
    airflow, org, gates, figures
):
    airflow.start_part("triggerer")
    try:
        run = airflow.trigger("talk_traced")
        gates.wait_for("recorded")
        [session] = org.sessions.values()
        # The org has no trace of it for an hour.
        session.started_at += 3600
        gates.open("recorded")
        run.wait_for("traces", "deferred")
        run.wait_for("look", "deferred")
        until("no task is running", lambda: not airflow.task_runners())
        until("the triggerer looks", lambda: org.count("session_trace") >= 3)
        airflow.stop_part("triggerer")
        airflow.start_part("triggerer")
        session.started_at -= 3600
        assert run.wait(150) == "success"
    finally:
        airflow.stop_part("triggerer")

    assert run.xcom("traces")["found"] == 1
    event = run.xcom("look")
    answer = session.turns[0].messages[0]["message"]
    assert (event["status"], event["answer"], event["complete"]) == ("found", answer, True)
    assert run.task("traces")["try_number"] == run.task("look")["try_number"] == 1
    assert (org.count("send"), org.applied()) == (2, 2)
