"""A part of Airflow, or what it stands on, is restarted or lost while tasks run and wait."""

from __future__ import annotations

import pytest
from cluster_batch import check_batch, started_batch
from real_airflow import until
from real_cluster import WORKERS


@pytest.mark.usefixtures("cap_held")
@pytest.mark.parametrize("service", ["postgresql", "redis", "scheduler"])
def test_a_batch_outlives_a_restart(cluster, org, service):
    run, hold, _ = started_batch(cluster, org)
    (cluster.lose if service == "scheduler" else cluster.restart)(service)
    cluster.heal()
    hold.release()
    # Airflow's scheduler may end a while after it has lost its database.
    assert run.wait(meanwhile=cluster.heal) == "success"

    assert run.task("batch")["try_number"] == 1
    check_batch(cluster, org, run, unknown=0)
    # And the cluster takes the next one.
    assert cluster.trigger("shared").wait() == "success"


def test_a_task_that_the_broker_delivers_twice_runs_once(cluster, org):
    hold = org.hold("send")
    run = cluster.trigger("talk")
    hold.wait_until_held(300)
    ti_id = run.task("talk")["id"]

    def deliveries():
        lines = "".join(cluster.printed(name) for name in WORKERS).splitlines()
        return [line for line in lines if "Executing workload" in line and ti_id in line]

    until("it is delivered again", lambda: len(deliveries()) == 2)
    hold.release()
    assert run.wait() == "success"

    assert run.task("talk")["try_number"] == 1
    assert (org.count("start"), org.count("send"), org.applied(), org.count("end")) == (1, 2, 2, 1)


def test_a_batch_that_waits_outlives_the_triggerer(cluster, org):
    org.fail("start", error="too_many_requests", headers={"Retry-After": "60"}, times=4)
    run = cluster.trigger("batch_deferred")
    run.wait_for("batch", "deferred")
    until("no task is running", lambda: not cluster.task_runners())
    cluster.lose("triggerer")
    cluster.heal()
    assert run.wait() == "success"

    assert run.task("batch")["try_number"] == 1
    check_batch(cluster, org, run, unknown=0)
