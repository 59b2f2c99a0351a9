"""An event for each new version of an agent: none at the beginning, and none twice."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

import pytest
from airflow.sdk import Asset, AssetWatcher
from airflow.triggers.base import BaseEventTrigger
from real_airflow import until

from airflow_provider_agentforce.exceptions import AgentforceInputError
from airflow_provider_agentforce.triggers.agent_published import AgentPublishedTrigger

OFTEN = timedelta(milliseconds=10)


class AssetStore:
    """What Airflow keeps with an asset.

    :param watched: by how many assets.
    :param failures: how many writes fail.
    :ivar first: what the next reading finds instead, because it is from before the last writes.
    """

    def __init__(self, watched=1, failures=0):
        self.watched = watched
        self.failures = failures
        self.values = {}
        self.first = None

    async def aget(self, key, default=None):
        self._check()
        values, self.first = self.first or self.values, None
        return values.get(key, default)

    async def aset(self, key, value):
        self._check()
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the database is away")
        self.values[key] = value

    def _check(self):
        if self.watched != 1:
            raise ValueError("which asset?")


def watching(*, store=None, agent_id="Service_Agent", connection="agentforce_default"):
    """Return a trigger as the triggerer makes it."""
    path, arguments = AgentPublishedTrigger(
        agent_id=agent_id, agentforce_conn_id=connection, poke_interval=OFTEN
    ).serialize()
    assert path == f"{AgentPublishedTrigger.__module__}.AgentPublishedTrigger"
    trigger = AgentPublishedTrigger(**arguments)
    trigger.asset_state_store = store
    return trigger


async def events_of(org, trigger, *acts, events=1):
    """Let a trigger look while each of *acts* happens, and return what it tells."""
    found = []

    async def listen():
        async for event in trigger.run():
            note(event.payload)

    note = found.append
    listening = asyncio.create_task(listen())
    for act in (lambda: None, *acts):
        await asyncio.to_thread(act)
        end = len(org.requests) + 4
        await asyncio.to_thread(until, "more looks", lambda end=end: len(org.requests) >= end)
    await asyncio.to_thread(until, "the events", lambda: len(found) >= events)
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    return found


def test_each_change_is_told_once(org):
    events = asyncio.run(events_of(org, watching(), org.publish, org.publish, events=2))
    first, second = events
    assert first["agent_id"] == second["agent_id"] == org.agent_id
    assert (first["agent"], first["version"]) == ("Service_Agent", second["previous_version"])
    assert len({first["previous_version"], first["version"], second["version"]}) == 3


def test_changes_between_two_polls_are_one_event(org):
    def publish_twice():
        hold = org.hold("query")
        hold.wait_until_held(60)
        org.publish()
        org.publish()
        hold.release()

    (event,) = asyncio.run(events_of(org, watching(), publish_twice))
    assert event["version"] != event["previous_version"]
    org.publish()
    assert asyncio.run(events_of(org, watching(), events=0)) == []


def test_the_version_of_the_beginning_and_an_agent_without_one_are_not_told(org):
    assert asyncio.run(events_of(org, watching(), events=0)) == []
    assert asyncio.run(events_of(org, watching(agent_id="Inactive_Agent"), events=0)) == []
    assert asyncio.run(events_of(org, watching(agent_id="No_Such_Agent"), events=0)) == []


def test_a_triggerer_that_starts_again_tells_nothing_twice_and_what_it_missed(org):
    store = AssetStore()
    assert asyncio.run(events_of(org, watching(store=store), events=0)) == []
    (first,) = asyncio.run(events_of(org, watching(store=store), org.publish))
    assert asyncio.run(events_of(org, watching(store=store), events=0)) == []
    org.publish()
    (second,) = asyncio.run(events_of(org, watching(store=store)))
    assert second["previous_version"] == first["version"]


def test_watchers_of_two_orgs_may_belong_to_one_asset(org, make_org, monkeypatch):
    other = make_org()
    monkeypatch.setenv("AIRFLOW_CONN_OTHER_ORG", other.connection())
    other.publish()
    store = AssetStore()
    for _ in range(2):
        assert asyncio.run(events_of(org, watching(store=store), events=0)) == []
        assert asyncio.run(events_of(other, watching(store=store, connection="other_org"), events=0)) == []


def test_a_version_that_cannot_be_stored_at_first_is_told_once(org):
    store = AssetStore()
    asyncio.run(events_of(org, watching(store=store), events=0))
    store.failures = 2
    assert len(asyncio.run(events_of(org, watching(store=store), org.publish, lambda: None))) == 1
    assert store.failures == 0
    assert asyncio.run(events_of(org, watching(store=store), events=0)) == []


def test_what_another_triggerer_has_told_is_not_told_again(org):
    store = AssetStore()
    asyncio.run(events_of(org, watching(store=store), events=0))
    before = dict(store.values)
    assert len(asyncio.run(events_of(org, watching(store=store), org.publish))) == 1
    store.first = before
    assert asyncio.run(events_of(org, watching(store=store), events=0)) == []


def test_a_connection_that_is_corrected_is_read_again(org, monkeypatch):
    name, right = "AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection()
    monkeypatch.setenv(name, right.replace(org.consumer_secret, "expired"))
    correct = partial(monkeypatch.setenv, name, right)
    assert len(asyncio.run(events_of(org, watching(), correct, org.publish))) == 1


def test_several_assets_of_one_watcher_begin_with_what_is_there(org):
    store = AssetStore(watched=2)
    assert len(asyncio.run(events_of(org, watching(store=store), org.publish))) == 1
    assert asyncio.run(events_of(org, watching(store=store), events=0)) == []


def test_an_outage_is_looked_through(org):
    def outage():
        org.fail("query", status=503, times=3)

    assert len(asyncio.run(events_of(org, watching(), outage, org.publish))) == 1


def test_it_is_a_watcher_of_an_asset():
    trigger = AgentPublishedTrigger(agent_id="Service_Agent")
    assert isinstance(trigger, BaseEventTrigger)
    Asset("agent", watchers=[AssetWatcher("published", trigger)])
    path, arguments = trigger.serialize()
    assert BaseEventTrigger.hash(path, arguments) == BaseEventTrigger.hash(*trigger.serialize())


@pytest.mark.parametrize(
    "given",
    [
        {"agent_id": "no agent"},
        {"poke_interval": 60},
        {"poke_interval": timedelta(0)},
        {"agentforce_conn_id": ""},
        {"agentforce_conn_id": None},
    ],
    ids=str,
)
def test_a_mistake_is_found_when_the_dag_is_parsed(given):
    with pytest.raises(AgentforceInputError, match=next(iter(given))):
        AgentPublishedTrigger(**{"agent_id": "Service_Agent", **given})
