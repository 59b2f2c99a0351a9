"""Batches of several processes that share an org through Redis, counted at the org."""

import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "batch"))

from batches import in_a_process, rows
from quick import fields_of
from redis_and_takers import until

CAP = 6


@pytest.fixture
def org(make_org):
    def answer(turn):
        time.sleep(0.05)  # an agent thinks
        return f"This is about: {turn.text}"

    return make_org(max_concurrent_sessions=CAP, max_sessions_per_hour=100_000, script=answer)


@pytest.fixture
def start(org, store, tmp_path):
    """Start a batch in a process of its own, which shares the org through Redis."""
    processes = []

    def run(name):
        records = [{"id": f"A{number}", "name": f"{name}-{number}"} for number in range(60)]
        fields = fields_of(org, timeout=20.0, max_concurrent_sessions=CAP, limits_conn_id="redis_default")
        fields["redis"] = {"port": store.port, "group": name}
        given = {"identity": {"task instance": name}, "max_concurrency": None}
        log = tmp_path / f"{name}.log"
        process = in_a_process(fields, tmp_path / name, records, log=log, **given)
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


def answered(folder):
    return [row["key"] for row in rows(folder).values() if row["status"] == "answered"]


def asked_by(org, name):
    return sum(f"{name}-" in turn.text for session in list(org.sessions.values()) for turn in session.turns)


def refused(org):
    return sum(request.status == 429 for request in org.requests)


def test_two_batches_do_not_get_in_each_others_way(org, start, tmp_path):
    both = [start(name) for name in ("one", "two")]
    assert [process.wait(300) for process in both] == [0, 0]
    assert all(len(answered(tmp_path / name)) == 60 for name in ("one", "two"))
    assert org.applied() == 120
    assert refused(org) == 0


def test_a_batch_goes_on_without_redis_and_nothing_is_sent_twice_or_lost(org, start, store, tmp_path):
    both = [start(name) for name in ("one", "two")]
    until(lambda: asked_by(org, "one") > 5 and asked_by(org, "two") > 5)
    store.stop()
    applied = org.applied()
    until(lambda: org.applied() > applied + 20)
    store.start()
    assert [process.wait(300) for process in both] == [0, 0]
    assert all(len(answered(tmp_path / name)) == 60 for name in ("one", "two"))
    assert org.applied() == 120
    assert refused(org) == 0
    for name in ("one", "two"):
        assert (tmp_path / f"{name}.log").read_text().count("cannot be reached") == 1


def test_the_next_try_of_a_killed_batch_waits_for_no_lease_that_another_needs(org, start, tmp_path):
    one = start("one")
    until(lambda: org.applied() > 10)
    one.send_signal(signal.SIGKILL)
    one.wait()
    again, other = start("one"), start("two")
    assert [process.wait(300) for process in (again, other)] == [0, 0]
    assert len(answered(tmp_path / "one")) >= 60 - CAP
    assert len(answered(tmp_path / "two")) == 60
    assert all(len(session.turns) <= 1 for session in org.sessions.values())
