"""A task that is killed at each point between its two records, and while it ends a session."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from real_airflow import kill


@dataclass(frozen=True)
class Then:
    """What the next try makes of it, and what the org has seen in all."""

    state: str
    sends: int
    starts: int = 1
    left_open: int = 0


# The message had not left, or the agent has acted: nobody can know, so it is not sent again.
UNKNOWN = {"intended": Then("failed", 0), "answered": Then("failed", 1)}
# The org may have opened a session whose id is lost: another is started, and the log has the first one's key.
STARTED = {"intended": Then("success", 2), "answered": Then("success", 2, starts=2, left_open=1)}
SHARED = {"intended": Then("success", 1), "answered": Then("success", 1, starts=2, left_open=1)}


@pytest.mark.parametrize("at", ["intended", "answered"])
@pytest.mark.parametrize(
    ("dag_id", "task", "record", "then"),
    [
        ("talk_stopping", "talk", "turn", UNKNOWN),
        ("talk_stopping", "talk", "session", STARTED),
        ("shared_stopping", "send", "turn", UNKNOWN),
        ("shared_stopping", "start", "session", SHARED),
    ],
)
def test_a_task_killed_at_a_record(airflow, org, figures, gates, dag_id, task, record, then, at):
    run = airflow.trigger(dag_id, record=record, at=at)
    gates.wait_for(at)
    (kept, lost) = ([], list(org.sessions)) if record == "session" else (list(org.sessions), [])
    figures.kind, figures.at = "SIGKILL", kill(run.runner(task))
    gates.open(at)
    assert run.wait() == then[at].state

    expected = then[at]
    assert run.task(task)["try_number"] == 2
    assert run.states()[task] == expected.state
    assert (org.count("start"), org.count("send"), org.applied()) == (
        expected.starts,
        expected.sends,
        expected.sends,
    )
    assert len(org.open_sessions) == expected.left_open
    log = run.log(task, 2)
    assert ("DeliveryUnknownError" in log) == (expected.state == "failed")
    assert all(org.sessions[one].external_session_key in log for one in lost)
    assert all(one not in org.open_sessions for one in kept)


@pytest.mark.parametrize(("dag_id", "task", "sends"), [("talk", "talk", 2), ("shared", "end", 1)])
def test_a_task_killed_while_it_ends_its_session(airflow, org, figures, dag_id, task, sends):
    hold = org.hold("end")
    run = airflow.trigger(dag_id)
    hold.wait_until_held(180)
    figures.kind, figures.at = "SIGKILL", kill(run.runner(task))
    hold.release()
    assert run.wait() == "success"

    assert run.task(task)["try_number"] == 2
    assert (org.count("start"), org.count("send"), org.applied()) == (1, sends, sends)
    assert org.open_sessions == []
