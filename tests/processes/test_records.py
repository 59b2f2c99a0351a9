"""A task that writes records is killed, and Dags begin by assets, in a running Airflow."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version
from real_airflow import Run, kill, until


def runs(airflow, dag_id):
    """Return the runs of a Dag, in the order of their beginning."""
    found = airflow.ask("GET", f"dags/{dag_id}/dagRuns?order_by=id")["dag_runs"]
    return [Run(airflow, dag_id, one["dag_run_id"]) for one in found]


def next_run(airflow, dag_id, before):
    """Wait for the run behind those that were there before."""
    return until(f"{dag_id} begins", lambda: runs(airflow, dag_id)[len(before) :])[0]


def test_a_killed_write_goes_on_and_a_dag_begins_when_all_is_written(airflow, org, figures):
    org.add_records("Account", ({"Name": f"Account {number}"} for number in range(492)))
    before = runs(airflow, "records_written")
    org.fail("write", delay=0)
    org.fail("write", delay=60)
    run = airflow.trigger("records")
    until("the second call is under way", lambda: org.count("write") == 2, timeout=120)
    figures.kind, figures.at = "SIGKILL", kill(run.runner("write"))
    assert run.wait() == "success"

    assert (run.task("ask")["try_number"], run.task("write")["try_number"]) == (1, 2)
    assert run.xcom("write") == {"written": 500, "failed": 0, "records": 500, "errors": None}
    accounts = org.records("Account")
    assert all(one["Agent_Summary__c"] == f"You said: What of {one['Name']}?" for one in accounts)
    sizes = [len(one.body["records"]) for one in org.requests if one.operation == "write"]
    assert sizes == [200, 200, 200, 100]
    assert org.open_sessions == []

    begun = next_run(airflow, "records_written", before)
    assert begun.wait() == "success"
    assert begun.xcom("extra")["written"] == 500


def test_each_try_of_a_batch_asks_about_the_records_of_one_query(airflow, org, figures):
    before = runs(airflow, "records_written")
    query = org.hold("query")
    run = airflow.trigger("records")
    until("the query is under way", lambda: org.count("query") >= 1, timeout=120)
    kill(run.runner("ask"))
    start = org.hold("start")
    query.release()
    until("a session is about to start", lambda: org.count("start") >= 1, timeout=120)
    org.add_records("Account", [{"Name": "Too late"}])
    figures.kind, figures.at = "SIGKILL", kill(run.runner("ask"))
    start.release()
    assert run.wait() == "success"

    assert run.task("ask")["try_number"] == 3
    assert run.xcom("write")["records"] == 8
    *asked, late = org.records("Account")
    assert all(one["Agent_Summary__c"] == f"You said: What of {one['Name']}?" for one in asked)
    assert late["Agent_Summary__c"] is None
    assert next_run(airflow, "records_written", before).wait() == "success"


@pytest.mark.skipif(Version(version("apache-airflow")) < Version("3.3"), reason="it has no partitions")
def test_the_event_of_a_partition_has_its_key_and_the_details(airflow, org):
    key = "2028-02-29T00:00:00"
    asked = {"logical_date": None, "partition_key": key}
    made = airflow.ask("POST", "dags/records_partitioned/dagRuns", asked)
    assert Run(airflow, "records_partitioned", made["dag_run_id"]).wait() == "success"
    events = airflow.ask("GET", "assets/events?source_dag_id=records_partitioned")["asset_events"]
    (event,) = (one for one in events if one["source_run_id"] == made["dag_run_id"])
    assert (event["partition_key"], event["extra"]["counts"]) == (key, {"answered": 2})


def test_a_new_version_of_an_agent_begins_a_dag_once_also_across_a_restart(airflow, org):
    before = runs(airflow, "agent_published")

    def looks(more):
        end = org.count("query") + more
        until("the agent is looked at", lambda: org.count("query") >= end)

    airflow.start_part("triggerer")
    try:
        looks(2)
        org.publish()
        first = next_run(airflow, "agent_published", before)
        assert first.wait() == "success"
        looks(2)
    finally:
        airflow.stop_part("triggerer")
    org.publish()
    airflow.start_part("triggerer")
    try:
        second = next_run(airflow, "agent_published", [*before, first])
        assert second.wait() == "success"
        looks(5)
    finally:
        airflow.stop_part("triggerer")
    ((extra,), (later,)) = first.xcom("events_of"), second.xcom("events_of")
    assert len(runs(airflow, "agent_published")) == len(before) + 2
    assert versions(extra)[1] == versions(later)[0]


def versions(extra):
    payload = extra.get("payload", extra)
    return payload["previous_version"], payload["version"]
