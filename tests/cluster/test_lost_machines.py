"""The machine of a worker is lost, stands still, is shut down or has a wrong clock; the other one goes on."""

from __future__ import annotations

import signal

import pytest
from cluster_batch import AT_ONCE, RECORDS, check_batch, rows, started_batch
from real_airflow import kill, until
from real_cluster import WORKERS

pytestmark = pytest.mark.usefixtures("cap_held")


def test_a_batch_goes_on_where_the_lost_worker_was(cluster, org):
    run, hold, worker = started_batch(cluster, org)
    cluster.lose(worker)
    hold.release()
    assert run.wait() == "success"

    assert run.task("batch")["try_number"] == 2
    check_batch(cluster, org, run, unknown=AT_ONCE)


def test_a_shard_of_a_lost_worker_asks_only_what_is_its_own(cluster, org):
    run, hold, worker = started_batch(cluster, org, "batch_in_shards")
    cluster.lose(worker)
    hold.release()
    assert run.wait() == "success"

    found = rows(cluster, f"batch_in_shards/{run.run_id}")
    assert sorted(row["key"] for row in found) == sorted(f"A{number}" for number in range(RECORDS))
    # Both shards may have run on that worker, or one.
    assert sum(row["status"] == "unknown" for row in found) in {AT_ONCE // 2, AT_ONCE}
    assert (org.count("send"), org.applied(), org.open_sessions) == (RECORDS, RECORDS, [])


def test_a_frozen_worker_that_goes_on_sends_nothing_that_the_other_one_sent(cluster, org):
    run, hold, worker = started_batch(cluster, org)
    cluster.freeze(worker)
    hold.release()
    assert run.wait() == "success"
    assert run.task("batch")["try_number"] == 2
    check_batch(cluster, org, run, unknown=AT_ONCE)

    cluster.thaw(worker)
    until("its task has ended", lambda: not cluster.task_runners())
    check_batch(cluster, org, run, unknown=AT_ONCE)


def test_a_worker_that_is_thawed_while_the_other_one_asks_stops(cluster, org):
    run, hold, worker = started_batch(cluster, org)
    cluster.freeze(worker)
    hold.release()
    run.wait_for("batch", "up_for_retry")
    hold = org.hold("send")
    hold.wait_until_held(300, count=AT_ONCE)
    cluster.thaw(worker)
    until("the first try has ended", lambda: len(cluster.task_runners()) == 1)
    hold.release()
    assert run.wait() == "success"
    check_batch(cluster, org, run, unknown=AT_ONCE)


@pytest.mark.parametrize("frozen", [False, True], ids=["lost", "frozen"])
def test_a_message_on_its_way_is_not_sent_by_another_worker(cluster, org, frozen):
    hold = org.hold("send")
    run = cluster.trigger("talk")
    hold.wait_until_held(300)
    worker = cluster.worker_of(run.runner("talk"))
    (cluster.freeze if frozen else cluster.lose)(worker)
    hold.release()
    assert run.wait() == "failed"
    cluster.thaw(worker)
    until("its task has ended", lambda: not cluster.task_runners())

    assert run.task("talk")["try_number"] == 2
    assert "DeliveryUnknownError" in run.log("talk", 2)
    assert (org.count("start"), org.count("send"), org.applied()) == (1, 1, 1)
    assert org.open_sessions == []


def test_a_worker_that_shuts_down_lets_its_message_be_answered(cluster, org):
    hold = org.hold("send")
    run = cluster.trigger("talk")
    hold.wait_until_held(300)
    worker = cluster.worker_of(run.runner("talk"))
    process = cluster.shut_down(worker)
    until("it takes no more tasks", lambda: "warm shutdown" in cluster.printed(worker).lower())
    hold.release()
    assert run.wait() == "success"
    process.wait(300)

    assert run.task("talk")["try_number"] == 1
    assert (org.count("send"), org.applied(), org.count("end")) == (2, 2, 1)


def test_a_worker_whose_processes_are_all_told_to_stop_ends_its_session(cluster, org):
    hold = org.hold("send")
    run = cluster.trigger("talk")
    hold.wait_until_held(300)
    worker = cluster.worker_of(run.runner("talk"))
    kill(*cluster.processes_of(worker), by=signal.SIGTERM)
    # The org does not end a session while the agent works in it.
    until("the end is tried", lambda: org.count("end"))
    hold.release()
    assert run.wait() == "failed"

    assert (org.count("start"), org.count("send"), org.applied()) == (1, 1, 1)
    # While it shuts down it takes no task, and the next test would count on it.
    until("the worker has stopped", lambda: not cluster.processes_of(worker))


def test_a_clock_that_is_wrong_changes_nothing(cluster, org):
    first, second = WORKERS
    cluster.lose(second)
    run, hold, _ = started_batch(cluster, org)
    cluster.skew(second, "-5m")
    cluster.lose(first)
    hold.release()
    assert run.wait() == "success"

    check_batch(cluster, org, run, unknown=AT_ONCE)
    assert run.xcom("batch")["duration"] >= 0


def test_a_try_that_does_not_see_the_disk_of_the_first_sends_nothing(cluster, org):
    hold = org.hold("send")
    run = cluster.trigger("batch_on_own_disk")
    hold.wait_until_held(300, count=AT_ONCE)
    worker = cluster.worker_of(run.runner("batch"))
    parts = cluster.home / worker / "disk"

    def noted():
        written = "".join(path.read_text() for path in parts.rglob("part-*.jsonl"))
        return all(one in written for one in org.open_sessions)

    until("the sessions are written down", noted)
    cluster.lose(worker)
    hold.release()
    assert run.wait() == "failed"
    assert "is not the folder that an earlier try of this task used" in run.log("batch", 2)
    assert org.count("send") == AT_ONCE

    cluster.lose(next(name for name in WORKERS if name != worker))
    cluster.start_part(worker)
    run.clear("batch")
    until("it has run again", lambda: run.wait() == "success")
    assert run.xcom("batch")["counts"] == {"answered": RECORDS - AT_ONCE, "unknown": AT_ONCE}
    assert (org.count("send"), org.applied()) == (RECORDS, RECORDS)
