"""The limits of the org: held when they are known, found when they are not."""

import time

import pytest
from batches import accounts, job, rows

from airflow_provider_agentforce.batch import runner
from airflow_provider_agentforce.batch.todo import LongWait
from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceRequestError,
    RateLimitedError,
    TaskStoppedError,
)


def never():
    return False


def refused(org):
    return sum(request.status == 429 for request in org.requests)


def most_open(org):
    """Return how many sessions were open at once, by the order of what the org answered."""
    open_now = most = 0
    for request in org.requests:
        if request.status == 200:
            open_now += {"start": 1, "end": -1}.get(request.operation, 0)
            most = max(most, open_now)
    return most


def test_with_the_right_limit_nothing_is_refused(make_org, make_client, folder):
    org = make_org(max_concurrent_sessions=6)
    client = make_client(org, max_concurrent_sessions=6)
    manifest = job(client, folder, accounts(60), max_concurrency=None).run(killed=never)
    assert manifest["counts"] == {"answered": 60}
    assert refused(org) == 0
    assert org.tokens_issued == 1


def test_with_a_limit_that_is_too_high_nothing_is_lost_and_the_right_one_is_found(
    make_org, make_client, folder, caplog
):
    org = make_org(max_concurrent_sessions=3)
    client = make_client(org, max_concurrent_sessions=24)
    caplog.set_level("INFO")
    manifest = job(client, folder, accounts(120), max_concurrency=None).run(killed=never)
    assert manifest["counts"] == {"answered": 120}
    assert all(row["attempts"] == 1 for row in rows(folder).values())
    assert org.applied() == 120
    # The first burst, and a probe now and then.
    assert 0 < refused(org) <= 24 + 24
    assert "429" in caplog.text


def test_the_org_is_given_the_time_it_asks_for(make_org, make_client, folder):
    org = make_org(max_concurrent_sessions=2, retry_after=1)
    began = time.monotonic()
    manifest = job(make_client(org), folder, accounts(8), max_concurrency=4).run(killed=never)
    assert manifest["counts"] == {"answered": 8}
    assert time.monotonic() - began >= 1
    assert refused(org) <= 4


@pytest.mark.parametrize("operation", ["send", "end"])
def test_a_limit_that_any_call_meets_slows_all_and_what_is_open_goes_on(
    make_org, make_client, folder, operation
):
    org = make_org()
    org.fail(operation, status=429, headers={"Retry-After": "1"})
    manifest = job(make_client(org), folder, accounts(60)).run(killed=never)
    assert manifest["counts"] == {"answered": 60}
    assert org.applied() == 60
    (told,) = (request.at for request in org.requests if request.status == 429)
    # Those that were on their way when the org said it.
    starts = [request for request in org.requests if request.operation == "start"]
    assert sum(told < request.at < told + 0.9 for request in starts) <= 3


def test_no_more_sessions_start_in_an_hour_than_are_allowed(org, make_client, folder):
    client = make_client(max_sessions_per_hour=5)
    client.limiter.window = hour = 0.5
    began = time.time()
    assert job(client, folder, accounts(12)).run(killed=never)["counts"] == {"answered": 12}
    starts = [request.at - began for request in org.requests if request.operation == "start"]
    assert sum(start < hour for start in starts) <= 5
    assert sum(start < 2 * hour for start in starts) <= 10
    assert refused(org) == 0


def test_sessions_that_an_earlier_process_started_count_for_the_hour(org, make_client, folder):
    job(make_client(max_sessions_per_hour=5), folder, accounts(3)).run(killed=never)
    client = make_client(max_sessions_per_hour=5)
    with pytest.raises(LongWait) as wait:
        job(client, folder, accounts(9), changes_allowed=True, yields=True).run(killed=never)
    assert org.count("start") == 5
    assert 3500 < wait.value.seconds <= 3600


def test_a_long_wait_gives_the_slot_back_and_is_taken_up_again(org, make_client, folder, monkeypatch):
    records = accounts(7)
    with pytest.raises(LongWait):
        job(make_client(max_sessions_per_hour=3), folder, records, yields=True).run(killed=never)
    assert not (folder / "results.jsonl").exists()
    assert org.open_sessions == []
    # Two hours later.
    late = time.time() + 7200
    monkeypatch.setattr("airflow_provider_agentforce.batch.todo.time.time", lambda: late)
    with pytest.raises(LongWait):
        job(make_client(max_sessions_per_hour=3), folder, records, yields=True).run(killed=never)
    assert org.count("start") == 6
    manifest = job(make_client(max_sessions_per_hour=3), folder, records, yields=True).run(killed=never)
    assert manifest["counts"] == {"answered": 7}
    assert org.applied() == 7


def test_a_wait_that_is_not_given_back_can_be_killed(org, make_client, folder):
    client = make_client(max_sessions_per_hour=3)
    with pytest.raises(TaskStoppedError):
        job(client, folder, accounts(7)).run(killed=lambda: org.applied() == 3)
    assert org.count("start") == 3


def test_an_org_that_refuses_everything_for_hours_ends_the_batch(org, client, folder, monkeypatch):
    monkeypatch.setattr(runner, "_REFUSED_SECONDS", 0.2)
    client.limiter.longest_pause = 0.1
    org.fail("start", status=429, times=1000)
    with pytest.raises(RateLimitedError, match="refused every session"):
        job(client, folder, accounts(7)).run(killed=never)
    org.reset()
    monkeypatch.undo()
    assert job(client, folder, accounts(7)).run(killed=never)["counts"] == {"answered": 7}


def test_an_app_that_is_refused_ends_the_batch_at_once(org, make_client, folder):
    client = make_client(consumer_secret="wrong")
    with pytest.raises(AgentforceAuthError):
        job(client, folder, accounts(50)).run(killed=never)
    assert org.count("start") == 0
    assert org.count("token") <= 8


def test_an_app_that_is_refused_in_the_middle_ends_the_batch_and_keeps_the_rows(
    org, gate, make_client, folder
):
    gate.after = 10
    client = make_client()

    def refuse_later():
        if gate.reached.is_set() and not gate.open.is_set():
            org.fail("send", status=403, times=4)
            gate.open.set()
        return False

    with pytest.raises(AgentforceAuthError):
        job(client, folder, accounts(50)).run(killed=refuse_later)
    org.reset()
    manifest = job(make_client(), folder, accounts(50)).run(killed=never)
    assert manifest["counts"] == {"answered": 50}


def test_an_agent_that_cannot_be_used_ends_the_batch_at_once(org, client, folder):
    inactive = next(agent for agent in org.agents if not agent.active)
    with pytest.raises(AgentforceRequestError):
        job(client, folder, accounts(500), start={"agent_id": inactive.id}).run(killed=never)
    # As many as were on their way when the first one was refused.
    assert org.count("start") <= client.settings.max_concurrent_sessions


def test_a_start_that_is_refused_for_one_record_fails_that_one(org, gate, make_client, folder):
    records = accounts(6)
    manifest = job(make_client(), folder, records, variables={"$Context.X": "{{ record.name }}"}).run(
        killed=never
    )
    assert manifest["counts"] == {"answered": 6}
    variables = [
        request.body["variables"][0]["value"] for request in org.requests if request.operation == "start"
    ]
    assert sorted(variables) == [one["name"] for one in records]
