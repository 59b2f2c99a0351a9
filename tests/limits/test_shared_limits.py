"""The limits of an org, held by several processes together."""

import json
import signal
import time

import pytest
import redis
from redis_and_takers import BEAT, LEASE, most_at_once, until

from airflow_provider_agentforce.client.limits_store import LimitsStore


def open_in(store):
    """Return how many sessions the store counts as open."""
    (key,) = store.client.keys("agentforce:*:open") or [None]
    return store.client.zcard(key) if key else 0


def starts_in(store):
    (key,) = store.client.keys("agentforce:*:starts") or [None]
    return store.client.zcard(key) if key else 0


def test_processes_hold_the_cap_together_and_use_it(taker):
    takers = [taker(most_open=6, threads=6, sessions=60) for _ in range(2)]
    until(lambda: all(one.count("ending") == 60 for one in takers))
    assert most_at_once(*takers) == 6


def test_no_more_sessions_start_within_an_hour_than_are_allowed_to_all(taker):
    hour = 3.0
    takers = [taker(most_per_hour=10, window=hour, hold=0.0) for _ in range(2)]
    until(lambda: sum(one.count("started") for one in takers) >= 30)
    starts = sorted(event["at"] for one in takers for event in one.events("started"))
    # A start is noted a moment after it was allowed.
    assert all(later - first > hour - 1 for first, later in zip(starts, starts[10:], strict=False))
    waits = [event["retry_after"] for one in takers for event in one.events("refused")]
    assert any(wait is not None and wait <= hour for wait in waits)


def test_all_obey_what_the_org_asks_of_one(taker):
    one, other = taker(threads=2), taker(threads=2, sessions=10**6)
    until(lambda: one.count("ending") and other.count("ending"))
    seconds = 4.0
    told = taker(threads=1, throttled_at=0, retry_after=seconds)
    until(lambda: told.count("reported"))
    throttled, reported = (event["at"] for event in told.events("throttled", "reported"))
    until(lambda: all(any(e["at"] > reported + seconds for e in t.events("started")) for t in (one, other)))
    starts = [event["at"] for t in (one, other, told) for event in t.events("started")]
    # Those that were just being started, and none more before the time is up.
    assert [at for at in starts if reported + 1 < at < throttled + seconds] == []


def test_what_a_dead_process_held_comes_back(store, taker):
    dead = taker(most_open=3, threads=3, hold=1000)
    until(lambda: dead.count("started") == 3)
    other = taker(most_open=3, threads=1, sessions=1)
    until(lambda: other.count("refused") > 3)
    dead.signal(signal.SIGKILL)
    at = time.monotonic()
    until(lambda: other.count("started"))
    (came,) = (event["at"] for event in other.events("started"))
    assert came - at > LEASE / 3
    assert dead.count("ending") == 0


def test_a_process_that_was_frozen_takes_its_leases_up_again(store, taker):
    frozen = taker(most_open=3, threads=2, hold=1000)
    until(lambda: frozen.count("started") == 2)
    frozen.signal(signal.SIGSTOP)
    other = taker(most_open=3, threads=3, hold=1000)
    until(lambda: other.count("started") == 3)
    frozen.signal(signal.SIGCONT)
    # Its sessions are open, whatever the cap.
    until(lambda: open_in(store) == 5)
    third = taker(most_open=5, threads=1, sessions=1)
    until(lambda: third.count("refused") > 3)
    assert third.count("started") == 0


def test_a_lease_that_runs_is_kept_by_its_process(store, taker):
    long = taker(most_open=2, threads=2, hold=1000)
    until(lambda: long.count("started") == 2)
    other = taker(most_open=2, threads=1)
    began = time.monotonic()
    until(lambda: other.count("refused") and time.monotonic() - began > 2 * LEASE)
    assert other.count("started") == 0


@pytest.mark.parametrize(
    ("limits", "greedy", "late"),
    [
        pytest.param({"most_open": 6}, {"hold": 0.1}, {"hold": 0.1}, id="open sessions"),
        pytest.param({"most_open": 1}, {"hold": 0.05}, {"hold": 0.05}, id="sessions one by one"),
        pytest.param({"most_per_hour": 10, "window": 0.5}, {"hold": 0.0}, {"hold": 0.0}, id="starts"),
        # The one has hardly a session open, the other always some.
        pytest.param(
            {"most_per_hour": 10, "window": 0.5}, {"hold": 0.0}, {"hold": 0.5}, id="starts of long sessions"
        ),
    ],
)
def test_a_dag_that_comes_late_shares_with_one_that_has_many_more_waiting(taker, limits, greedy, late):
    many = [taker(group="greedy", threads=12, **limits, **greedy) for _ in range(3)]
    until(lambda: sum(one.count("started") for one in many) >= 30)
    few = taker(group="late", threads=6, **limits, **late)
    until(lambda: few.count("started") >= 30)
    own = [event["at"] for event in few.events("started")]
    others = sum(own[0] < event["at"] < own[-1] for one in many for event in one.events("started"))
    assert 0.6 < others / len(own) < 1.7


def test_without_the_store_each_goes_on_at_once_with_its_share_and_returns_when_it_is_back(store, taker):
    takers = [taker(most_open=6, threads=6, hold=0.1) for _ in range(2)]
    until(lambda: all(one.count("ending") > 10 for one in takers))
    store.stop()
    at = time.monotonic()
    until(lambda: all(one.count("WARNING") == 1 for one in takers))
    until(lambda: all(sum(e["at"] > at for e in one.events("started")) > 30 for one in takers))
    store.start()
    until(lambda: all(one.count("INFO") == 1 for one in takers))
    back = time.monotonic()
    until(lambda: all(sum(e["at"] > back + 2 for e in one.events("started")) > 10 for one in takers))
    assert most_at_once(*takers) <= 6
    for one in takers:
        assert one.count("WARNING") == one.count("INFO") == 1
        (warning,) = one.events("WARNING")
        assert "uses 1/2 of the org's limits" in warning["text"]
        one.finish()
    # Nothing that was held while it was away is left behind, and nothing counted twice.
    assert open_in(store) == 0
    started = sum(one.count("started") for one in takers)
    assert starts_in(store) == started


def test_a_store_that_comes_back_empty_is_told_what_is_open_before_anything_starts(store, taker):
    held = taker(most_open=4, threads=4, hold=1000)
    until(lambda: held.count("started") == 4)
    store.stop()
    store.start()
    other = taker(most_open=4, threads=2)
    until(lambda: other.count("refused") > 10)
    until(lambda: open_in(store) == 4)
    assert other.count("started") == 0


def test_a_store_that_has_begun_right_before_a_full_second_waits_as_long_as_any_other(store):
    limits = LimitsStore(redis.Redis(port=store.port), "org", lease=LEASE, beat=BEAT)
    took = 1.0
    while took > BEAT:
        store.stop()
        until(lambda: time.time() % 1 > 0.8)
        began = time.monotonic()
        store.start()
        until(lambda: store.up_for() == 1)
        took = time.monotonic() - began
    grant = limits.acquire("a lease", "a process", most_open=1, most_per_hour=1, window=1.0, age=None)
    assert not grant.granted or time.monotonic() - began > 2 * BEAT
    limits.close()


def test_a_store_that_loses_its_data_while_it_runs_is_told_what_is_open_before_anything_starts(store, taker):
    held = taker(most_open=4, threads=4, hold=1000)
    until(lambda: held.count("started") == 4)
    other = taker(most_open=4, threads=2)
    until(lambda: other.count("refused"))
    store.client.flushall()
    refused = other.count("refused")
    until(lambda: open_in(store) == 4)
    until(lambda: other.count("refused") > refused + 5)
    assert other.count("started") == 0


def test_a_store_that_comes_back_with_old_data_is_told_what_has_started_since(store, taker):
    one = taker(most_per_hour=6, threads=3, hold=0.0, sessions=3)
    until(lambda: one.count("ending") == 3)
    store.client.save()
    more = taker(most_per_hour=6, threads=2, hold=1000, sessions=2)
    until(lambda: more.count("started") == 2)
    store.stop()
    store.start()
    until(lambda: starts_in(store) == 5)
    other = taker(most_per_hour=6, threads=2, hold=0.0)
    until(lambda: other.count("started"))
    until(lambda: other.count("refused") > 5)
    assert other.count("started") == 1
    assert starts_in(store) == 6


def test_a_clock_that_is_put_back_frees_the_leases_of_the_dead_all_the_same(store, taker):
    dead = taker(most_open=3, threads=3, hold=1000)
    until(lambda: dead.count("started") == 3)
    dead.signal(signal.SIGKILL)
    # As if the clock of Redis had been an hour ahead until now.
    (key,) = store.client.keys("agentforce:*:open")
    for member, score in store.client.zrange(key, 0, -1, withscores=True):
        store.client.zadd(key, {member: score + 3600_000})
    store.client.persist(key)
    other = taker(most_open=3, threads=1, sessions=1)
    until(lambda: other.count("started"))
    assert other.count("refused") > 3


def test_a_store_that_was_never_there_leaves_a_shard_its_share(store, taker):
    store.stop()
    alone = taker(most_open=6, threads=6, hold=1000, expected=3)
    until(lambda: alone.count("started") and alone.count("refused") > 5)
    assert alone.count("started") == 2
    assert alone.count("WARNING") == 1


def test_a_reply_that_is_lost_counts_once(store, taker):
    # Redis does what it was asked, and nobody hears of it for longer than a client waits.
    one = taker(most_open=3, threads=3, hold=1000)
    store.signal(signal.SIGSTOP)
    until(lambda: one.count("WARNING") == 1)
    store.signal(signal.SIGCONT)
    until(lambda: one.count("INFO") == 1)
    until(lambda: one.count("started") == 3)
    one.signal(signal.SIGSTOP)
    assert open_in(store) == starts_in(store) == 3
    one.signal(signal.SIGCONT)
    notes = json.dumps(one.events())
    assert notes.count("WARNING") == 1
