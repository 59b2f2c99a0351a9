"""A batch whose task is killed, stopped, cleared or sent to wait, in a running Airflow."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from real_airflow import kill, until


def rows(manifest):
    text = Path(manifest["results"].removeprefix("file://")).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def wait_for_notes(airflow, org):
    """Wait until all open sessions are written down, which takes a moment."""
    folder = airflow.home / "results"

    def noted():
        return {
            one
            for path in folder.rglob("part-*.jsonl")
            for one in org.open_sessions
            if one in path.read_text()
        }

    until("the sessions are noted", lambda: len(noted()) == len(org.open_sessions) > 0)


def test_a_killed_batch_is_finished_by_the_next_try(airflow, org, figures):
    hold = org.hold("send")
    run = airflow.trigger("batch")
    hold.wait_until_held(180, count=4)
    wait_for_notes(airflow, org)
    figures.kind, figures.at = "SIGKILL", kill(run.runner("batch"))
    hold.release()
    assert run.wait() == "success"

    assert run.task("batch")["try_number"] == 2
    manifest = run.xcom("batch")
    assert manifest["counts"] == {"answered": 26, "unknown": 4}
    assert Counter(row["status"] for row in rows(manifest)) == manifest["counts"]
    # Unknown is only what was on its way, and the agent acted on that: nothing is announced ahead.
    assert (org.count("send"), org.applied()) == (30, 30)
    assert org.open_sessions == []


def test_a_batch_that_is_marked_failed_ends_its_sessions_and_can_be_cleared(airflow, org, figures):
    hold = org.hold("send")
    run = airflow.trigger("batch")
    hold.wait_until_held(180, count=4)
    runner = run.runner("batch")
    run.mark_failed("batch")
    figures.kind, figures.at = "marked failed", 0
    until("the ends are tried", lambda: org.count("end") >= 4, timeout=10)
    hold.release()
    until("the task has stopped", lambda: not runner.is_running() or runner.status() == "zombie")
    assert run.wait() == "failed"
    until("the sessions have ended", lambda: not org.open_sessions, timeout=10)

    run.clear("batch")
    until("it has run again", lambda: run.wait() == "success")
    assert run.xcom("batch")["counts"] == {"answered": 26, "unknown": 4}
    assert (org.count("send"), org.applied()) == (30, 30)
    assert org.open_sessions == []


def test_a_long_wait_gives_the_worker_slot_back(airflow, org, figures):
    airflow.start_part("triggerer")
    try:
        org.fail("start", error="too_many_requests", headers={"Retry-After": "60"}, times=4)
        run = airflow.trigger("batch_deferred")
        run.wait_for("batch", "deferred")
        until("no task is running", lambda: not airflow.task_runners())
        assert org.count("send") == 0
        assert run.wait(150) == "success"
    finally:
        airflow.stop_part("triggerer")
    assert run.task("batch")["try_number"] == 1
    assert run.xcom("batch")["counts"] == {"answered": 30}
    assert org.applied() == 30
