"""A test of the agent that waits in Airflow's triggerer: it needs no slot, and a person can stop it."""

from __future__ import annotations

import pytest
from real_airflow import until


@pytest.fixture
def run(airflow, org):
    """A run of two tests and a conversation, in a pool of one slot, with both tests waiting."""
    pools = [pool["name"] for pool in airflow.ask("GET", "pools")["pools"]]
    if "one_slot" not in pools:
        airflow.ask("POST", "pools", {"name": "one_slot", "slots": 1, "include_deferred": False})
    airflow.start_part("triggerer")
    try:
        started = airflow.trigger("agent_tests")
        until("both tests wait", lambda: waiting(airflow, started) == ["deferred"] * 2, timeout=180)
        yield started
    finally:
        airflow.stop_part("triggerer")


def waiting(airflow, run):
    return [one["state"] for one in instances(airflow, run)]


def instances(airflow, run):
    path = f"dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/test/listMapped"
    return airflow.ask("GET", path)["task_instances"]


def statuses(org):
    return sorted(one.status for one in org.test_runs.values())


def test_two_runs_wait_in_one_slot_which_another_task_gets(airflow, org, run):
    run.wait_for("talk", "success")
    until("no task is running", lambda: not airflow.task_runners())
    assert waiting(airflow, run) == ["deferred"] * 2
    assert len(org.test_runs) == 2
    for one in org.test_runs.values():
        one.finish("COMPLETED")
    # A run of the emulator that is ended by hand has no cases, which is a failure.
    assert run.wait() == "failed"
    assert len(org.test_runs) == 2
    assert "has no cases" in log_of(airflow, run)


def log_of(airflow, run):
    folder = airflow.home / "logs" / f"dag_id={run.dag_id}" / f"run_id={run.run_id}"
    return "".join(path.read_text() for path in folder.rglob("*.log"))


def test_a_person_who_stops_a_waiting_test_has_its_run_cancelled(airflow, org, run):
    # A trigger that Airflow has not started yet is not told of anything.
    folder = airflow.home / "logs" / f"dag_id={run.dag_id}" / f"run_id={run.run_id}"
    until("its trigger runs", lambda: [*folder.glob("task_id=test/map_index=0/*.trigger.*.log")], timeout=180)
    path = f"dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/test/0"
    airflow.ask("PATCH", path, {"new_state": "failed"})
    until("its run is cancelled", lambda: statuses(org) == ["IN_PROGRESS", "TERMINATED"], timeout=180)
    assert waiting(airflow, run) == ["failed", "deferred"]
