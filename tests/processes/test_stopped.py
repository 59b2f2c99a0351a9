"""A task that is asked to stop while its message is with the agent: Airflow's own ways to stop one."""

from __future__ import annotations

import signal
import time

import pytest
from installed import AIRFLOW
from real_airflow import kill, until

IN_FLIGHT = "DeliveryUnknownError"


# Up to Airflow 3.3 the supervisor passes the signal on, so a task whose whole process group is asked to stop
# gets it twice.
TOLD = {
    "task": lambda runner: [runner],
    "supervisor": lambda runner: [runner.parent()],
    "both": lambda runner: [runner.parent(), runner],
}


def ended(runner):
    """Wait until a task's process has ended, whether or not its supervisor has noticed."""
    until("the task has ended", lambda: not runner.is_running() or runner.status() == "zombie")


@pytest.mark.parametrize("whom", TOLD if AIRFLOW == "3.3" else ["task", "both"])
def test_a_stopped_task_ends_its_session_and_is_not_tried_again(airflow, org, figures, whom):
    hold = org.hold("send")
    run = airflow.trigger("talk")
    hold.wait_until_held(180)
    told = TOLD[whom](run.runner("talk"))
    figures.kind, figures.at = "SIGTERM", kill(*told, by=signal.SIGTERM)
    # The first try to end the session finds it locked, as the agent still works on the message.
    until("a try to end the session", lambda: org.count("end"), timeout=10)
    hold.release()
    assert run.wait() == "failed"

    assert run.task("talk")["try_number"] == 1
    assert IN_FLIGHT in run.log("talk", 1)
    assert (org.count("send"), org.applied()) == (1, 1)
    assert org.open_sessions == []


@pytest.mark.skipif(AIRFLOW == "3.3", reason="the supervisor passes the signal on")
def test_a_stopped_supervisor_lets_its_task_finish(airflow, org, figures):
    hold = org.hold("send")
    run = airflow.trigger("talk")
    hold.wait_until_held(180)
    figures.kind, figures.at = "SIGTERM", kill(run.runner("talk").parent(), by=signal.SIGTERM)
    hold.release()
    assert run.wait() == "success"

    assert run.task("talk")["try_number"] == 1
    assert (org.count("send"), org.applied(), org.open_sessions) == (2, 2, [])


def test_a_stopped_task_names_a_session_that_it_could_not_end(airflow, org, figures):
    hold = org.hold("send")
    run = airflow.trigger("talk")
    hold.wait_until_held(180)
    figures.kind, figures.at = "SIGTERM, locked", kill(run.runner("talk"), by=signal.SIGTERM)
    assert run.wait() == "failed"
    hold.release()

    assert run.task("talk")["try_number"] == 1
    assert org.count("send") == 1
    (session,) = org.open_sessions
    log = run.log("talk", 1)
    assert IN_FLIGHT in log
    assert f"Session {session} may still be open" in log


def test_a_task_marked_failed_is_cut_and_ends_its_session(airflow, org, figures):
    hold = org.hold("send")
    run = airflow.trigger("talk")
    hold.wait_until_held(180)
    runner = run.runner("talk")
    figures.kind, figures.at = "mark failed", time.time()
    run.mark_failed("talk")
    until("a try to end the session", lambda: org.count("end"), timeout=10)
    hold.release()
    assert run.wait() == "failed"
    ended(runner)

    assert run.task("talk")["try_number"] == 1
    assert (org.count("send"), org.applied()) == (1, 1)
    assert org.open_sessions == []


def test_marking_a_send_failed_lets_the_teardown_end_the_session(airflow, org, figures):
    hold = org.hold("send")
    run = airflow.trigger("shared")
    hold.wait_until_held(180)
    runner = run.runner("send")
    figures.kind, figures.at = "mark failed", time.time()
    run.mark_failed("send")
    hold.release()
    run.wait()
    ended(runner)

    assert run.states() == {"start": "success", "send": "failed", "end": "success"}
    assert run.task("send")["try_number"] == 1
    assert (org.count("send"), org.applied()) == (1, 1)
    # The send did not start the session, so it leaves it to the teardown.
    assert (org.count("end"), org.open_sessions) == (1, [])


def test_a_wait_that_would_outlast_the_task_is_not_begun(airflow, org, figures):
    org.fail("send", status=429, headers={"Retry-After": "30"})
    run = airflow.trigger("talk_in_time")
    assert run.wait() == "success"
    figures.kind = "429"

    assert run.task("talk")["try_number"] == 2
    log = run.log("talk", 1)
    assert "RateLimitedError" in log
    assert "AirflowTaskTimeout" not in log
    first, second = (one for one in org.requests if one.operation == "send")
    assert (first.status, second.status) == (429, 200)
    assert second.at - first.at < 25
    assert (org.applied("first"), org.open_sessions) == (1, [])


def test_a_message_cut_by_the_tasks_timeout_is_not_sent_again(airflow, org, figures):
    hold = org.hold("send")
    run = airflow.trigger("talk_in_time")
    hold.wait_until_held(180)
    figures.kind, figures.at = "timeout", org.requests[-1].at
    until("a try to end the session", lambda: org.count("end"), timeout=10)
    hold.release()
    assert run.wait() == "failed"

    assert run.task("talk")["try_number"] == 1
    assert IN_FLIGHT in run.log("talk", 1)
    assert (org.count("send"), org.applied(), org.open_sessions) == (1, 1, [])
