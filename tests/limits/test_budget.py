"""A budget a day: counted once, whatever happens, and for all processes."""

import signal
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "batch"))

from batches import in_a_process, job, rows
from quick import fields_of

from airflow_provider_agentforce.batch.todo import LongWait
from airflow_provider_agentforce.client import AgentforceClient, Settings
from airflow_provider_agentforce.client.budget import Budget
from airflow_provider_agentforce.client.limits_store import LimitsStore
from airflow_provider_agentforce.client.org_state import forget_orgs
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    AgentforceTransientError,
    BudgetExceededError,
    DeliveryUnknownError,
)

ACCOUNTS = [{"id": f"A{number}", "name": f"account-{number}"} for number in range(20)]


@pytest.fixture
def client(store, org, make_client):
    """Build clients with a budget; each stands for a process of its own."""

    opened = []

    def build(budget, **replaced):
        forget_orgs()
        limits = LimitsStore(redis.Redis(port=store.port), "org", lease=9.0, beat=2.0)
        made = AgentforceClient(Settings(**fields_of(org, **replaced)), limits=limits)
        opened.extend([made, limits])
        return made.with_budget(budget)

    yield build
    forget_orgs()
    for one in opened:
        one.close()


def used(store, kind="messages"):
    (key,) = store.client.keys(f"agentforce:*:budget:{kind}") or [None]
    return store.client.scard(key) if key else 0


def run(client, folder, **replaced):
    return job(client, folder, ACCOUNTS, max_concurrency=3, **replaced).run(killed=lambda: False)


def talk(client, texts):
    with client.conversation() as chat:
        return [chat.send(text).outcome for text in texts]


def test_a_batch_stops_at_its_budget_and_the_next_run_of_the_day_sends_nothing(client, org, store, tmp_path):
    budget = Budget("messages", per_day=7)
    manifest = run(client(budget), tmp_path / "one")
    assert manifest["counts"] == {"answered": 7, "skipped": 13}
    assert org.applied() == used(store) == 7
    starts = org.count("start")
    assert starts <= 7 + 3
    manifest = run(client(budget), tmp_path / "two")
    assert manifest["counts"] == {"skipped": 20}
    assert (org.applied(), org.count("start")) == (7, starts)
    assert len(Path(manifest["dead_letter"]).read_text().splitlines()) == 20


def test_a_batch_waits_for_the_next_day_without_a_slot_and_asks_the_rest(client, org, store, tmp_path):
    budget = Budget("messages", per_day=7, at_limit="wait")
    for _ in range(2):
        with pytest.raises(LongWait) as wait:
            run(client(budget), tmp_path / "one")
        assert 0 < wait.value.seconds <= 86400
        assert org.applied() == 7
    (day,) = store.client.keys("agentforce:*:budget:messages:day")
    store.client.set(day, "19000")  # what is there is of a day that has passed
    with pytest.raises(LongWait):
        run(client(budget), tmp_path / "one")
    assert org.applied() == 14
    store.client.set(day, "19000")
    assert run(client(budget), tmp_path / "one")["counts"] == {"answered": 20}
    assert org.applied() == 20
    assert len({row["session_id"] for row in rows(tmp_path / "one").values()}) == 20


def test_sessions_are_counted_too(client, org, tmp_path):
    manifest = run(client(Budget("sessions", per_day=5)), tmp_path / "one")
    assert manifest["counts"] == {"answered": 5, "skipped": 15}
    assert org.count("start") == 5


def test_what_the_org_refuses_does_not_count(client, org, store):
    org.fail("send", status=400, times=1)
    with pytest.raises(Exception, match="400"):
        talk(client(Budget("messages", per_day=5)), ["one"])
    assert used(store) == 0


def test_a_message_that_is_repeated_counts_once(client, org, store):
    org.fail("send", status=401, times=1)
    assert talk(client(Budget("messages", per_day=5)), ["one"]) == ["answered"]
    assert used(store) == 1


def test_a_message_of_which_nothing_is_known_counts(client, org, store):
    org.fail("send", status=500, after=True)
    with pytest.raises(DeliveryUnknownError):
        talk(client(Budget("messages", per_day=5)), ["one"])
    assert used(store) == 1


def test_the_error_says_until_when_and_that_nothing_was_sent(client, org):
    budget = Budget("messages", per_day=1)
    with pytest.raises(BudgetExceededError, match="budget of 1 messages a day is used up") as caught:
        talk(client(budget), ["one", "two"])
    assert not caught.value.retryable
    assert caught.value.applied is False
    assert 0 < caught.value.retry_after <= 86400
    assert org.applied() == 1
    waiting = Budget("messages", per_day=1, at_limit="wait")
    with pytest.raises(BudgetExceededError) as caught:
        talk(client(waiting), ["three"])
    assert caught.value.retryable
    assert org.count("start") == 1


def test_nothing_is_sent_while_nothing_can_be_counted(client, org, store):
    paying = client(Budget("messages", per_day=5))
    assert talk(paying, ["one"]) == ["answered"]
    store.stop()
    with pytest.raises(AgentforceTransientError, match="cannot be counted"):
        talk(paying, ["two"])
    assert org.applied() == 1
    store.start()
    # What this process knows to be used is used, also of a Redis that has forgotten it.
    budget = Budget("messages", per_day=1)
    with pytest.raises(BudgetExceededError):
        talk(paying.with_budget(budget), ["three"])


def test_what_a_restarted_store_has_forgotten_is_known_to_the_tasks_that_run(client, org, store):
    first, second = client(Budget("messages", per_day=9)), client(Budget("messages", per_day=9))
    talk(first, ["1", "2"])
    store.client.save()
    talk(first, ["3", "4"])
    talk(second, ["5"])
    store.stop()
    store.start()
    # Of the five, Redis knows two; the first task four; the second all.
    assert talk(first, ["6"]) == ["answered"]
    talk(second, ["7", "8", "9"])
    for one in (first, second, client(Budget("messages", per_day=9))):
        with pytest.raises(BudgetExceededError):
            talk(one, ["too many"])
    assert org.applied() == 9


def test_a_clock_that_is_put_back_across_midnight_begins_no_new_day(client, org, store):
    budget = Budget("messages", per_day=2)
    paying = client(budget)
    talk(paying, ["1", "2"])
    # As if they had been sent in the first minutes of the next day, by the clock as it was until now.
    (day,) = store.client.keys("agentforce:*:budget:messages:day")
    store.client.incr(day)
    for one in (paying, client(budget)):
        with pytest.raises(BudgetExceededError) as caught:
            talk(one, ["too many"])
        assert 86400 <= caught.value.retry_after <= 2 * 86400
    assert org.applied() == 2


def test_a_kill_neither_refunds_nor_counts_twice(make_org, store, tmp_path):
    reached, go_on = threading.Event(), threading.Event()

    def answer(turn):
        if turn.text.endswith("-6."):
            reached.set()
            go_on.wait(180)
        return f"This is about: {turn.text}"

    org = make_org(script=answer)
    fields = fields_of(org, timeout=20.0)
    paying = {**fields, "redis": {"port": store.port, "group": "a"}, "budget": 15}
    process = in_a_process(paying, tmp_path / "one", ACCOUNTS, max_concurrency=1)
    assert reached.wait(180)
    process.kill()
    process.wait()
    go_on.set()
    assert used(store) == org.count("send") == 7
    again = in_a_process(paying, tmp_path / "one", ACCOUNTS, max_concurrency=1)
    assert again.wait(180) == 0
    assert used(store) == org.count("send") == 15
    statuses = Counter(row["status"] for row in rows(tmp_path / "one").values())
    assert statuses == {"answered": 14, "unknown": 1, "skipped": 5}


def test_a_reply_that_is_lost_counts_once(client, org, store):
    paying = client(Budget("messages", per_day=5))
    talk(paying, ["one"])
    store.signal(signal.SIGSTOP)
    with pytest.raises(AgentforceTransientError, match="cannot be counted"):
        talk(paying, ["two"])
    store.signal(signal.SIGCONT)
    assert talk(paying, ["three"]) == ["answered"]
    assert used(store) == 2


def test_a_budget_needs_the_store_and_numbers(make_client, org):
    with pytest.raises(AgentforceInputError, match="set the connection's extra limits_conn_id"):
        make_client(org).with_budget(Budget("messages", per_day=5))
    for wrong in ({"kind": "tokens"}, {"per_day": 0}, {"per_day": "many"}, {"at_limit": "fail"}):
        with pytest.raises(AgentforceInputError, match="budget: "):
            Budget(**{"kind": "messages", "per_day": 5, **wrong})
