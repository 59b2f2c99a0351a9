"""Which version of the agent answered, and what follows when another one is published meanwhile."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from batches import accounts, in_a_process, job, rest, rows, trial
from quick import QUICK

from airflow_provider_agentforce.client.timing import use_timing
from airflow_provider_agentforce.exceptions import AgentforceInputError, BatchFailedError

NOT_ALLOWED = {"status": 400, "body": [{"errorCode": "INVALID_TYPE", "message": "no BotDefinition"}]}
NOTHING = {"body": {"records": [], "done": True, "totalSize": 0}}


def never():
    return False


@pytest.fixture
def client(make_client):
    """A client that looks at the agent again and again."""
    with use_timing(replace(QUICK, version_pause=0.0)):
        yield make_client()


@pytest.fixture
def usual_client(make_client):
    """A client that looks at the agent every minute."""
    return make_client()


@pytest.fixture
def versions(org, client):
    """The active version of the agent after so many were published."""

    def active():
        (found,) = client.find_agents(org.agent_id)
        return found.version

    return active


def versions_in(folder, ids):
    return [rows(folder)[one]["agent_version"] for one in ids]


def run_until(gate, after, run):
    """Run a batch in a thread until its agent has answered so often and is asked again."""
    gate.after = after
    pool = ThreadPoolExecutor(1)
    running = pool.submit(run)
    assert gate.reached.wait(60)
    return running


def wait_for(event):
    end = time.monotonic() + 60
    while not event():
        assert time.monotonic() < end
        time.sleep(0.01)


def looked_again(org):
    """Wait until a look that began after this is taken: the one behind it has come."""
    before = org.count("query")
    wait_for(lambda: org.count("query") >= before + 2)


def test_all_rows_name_the_version_that_is_looked_up_at_both_ends(org, usual_client, folder):
    manifest = job(usual_client, folder, accounts(20)).run(killed=never)
    assert org.count("query") == 2
    (agent,) = usual_client.find_agents(org.agent_id)
    assert {row["agent_version"] for row in rows(folder).values()} == {agent.version}
    assert (manifest["agent_id"], manifest["agent_version"]) == (org.agent_id, agent.version)
    assert manifest["agent_versions"] == [agent.version]


def test_rows_say_which_version_answered_when_one_is_published_meanwhile(org, gate, client, folder, versions):
    first = versions()
    asked = job(client, folder, accounts(40), max_concurrency=1)
    running = run_until(gate, 20, lambda: asked.run(killed=never))
    looked_again(org)
    org.publish()
    looked_again(org)
    gate.open.set()
    manifest = running.result(60)
    named = versions_in(folder, [f"A{number}" for number in range(40)])
    # The session of the 21st began before.
    assert (named[:20], named[21:]) == ([first] * 20, [versions()] * 19)
    assert named[20] in {first, None}
    assert (manifest["agent_version"], manifest["agent_versions"]) == (None, [first, versions()])


def test_a_row_between_two_looks_that_differ_names_no_version(org, gate, usual_client, folder):
    asked = job(usual_client, folder, accounts(6), max_concurrency=1)
    running = run_until(gate, 3, lambda: asked.run(killed=never))
    org.publish()
    gate.open.set()
    running.result(60)
    assert {row["agent_version"] for row in rows(folder).values()} == {None}


def test_a_batch_stops_at_another_version_and_goes_on_with_it_after_a_clear(
    org, gate, client, make_client, folder, versions, caplog
):
    records, first = accounts(40), versions()
    given = {"max_concurrency": 1, "on_agent_change": "stop"}
    asked = job(client, folder, records, **given)
    running = run_until(gate, 20, lambda: asked.run(killed=never))
    looked_again(org)
    org.publish()
    wait_for(lambda: any("Nothing more is asked" in one for one in caplog.messages))
    gate.open.set()
    with pytest.raises(BatchFailedError, match="The agent has changed from version") as caught:
        running.result(60)
    assert not caught.value.retryable
    counts = caught.value.manifest["counts"]
    assert counts["answered"] == org.applied() < 40
    assert counts["answered"] + counts["skipped"] == 40
    assert len(rows(folder)) == 40

    with pytest.raises(BatchFailedError, match="The agent has changed"):
        job(make_client(), folder, records, **given).run(killed=never)
    assert org.applied() == counts["answered"]

    manifest = job(make_client(), folder, records, **given, cycle=1).run(killed=never)
    assert manifest["counts"] == {"answered": 40}
    assert org.applied() == 40
    assert manifest["agent_versions"] == [first, versions()]
    assert versions_in(folder, ["A0", "A39"]) == [first, versions()]


def test_a_change_that_only_the_last_look_sees_fails_the_batch_too(org, gate, usual_client, folder):
    asked = job(usual_client, folder, accounts(6), max_concurrency=1, on_agent_change="stop")
    running = run_until(gate, 3, lambda: asked.run(killed=never))
    org.publish()
    gate.open.set()
    with pytest.raises(BatchFailedError, match="0 of 6 records were not asked, and 6 may have") as caught:
        running.result(60)
    assert not caught.value.retryable
    assert caught.value.manifest["counts"] == {"answered": 6}


@pytest.mark.parametrize(("cleared", "tries"), [(0, 0), (2, 0), (3, 2)])
def test_the_rest_expects_the_version_of_the_sample(org, client, make_client, folder, cleared, tries):
    given, stop = accounts(8), {"on_agent_change": "stop"}
    trial(client, folder, given, 2, **stop, cycle=cleared).run(killed=never)
    org.publish()
    with pytest.raises(BatchFailedError, match="The agent has changed from version"):
        rest(make_client(), folder, given, **stop, cycle=tries).run(killed=never)
    assert org.applied() == 2
    # Whoever clears it wants the version of today.
    rest(make_client(), folder, given, **stop, cycle=tries + 1).run(killed=never)
    assert org.applied() == 8


@pytest.mark.parametrize("fault", [NOT_ALLOWED, NOTHING])
def test_a_version_that_cannot_be_read_stops_nothing(org, usual_client, folder, caplog, fault):
    org.fail("query", **fault)
    manifest = job(usual_client, folder, accounts(3)).run(killed=never)
    assert {row["agent_version"] for row in rows(folder).values()} == {None}
    assert (manifest["agent_version"], manifest["agent_versions"]) == (None, [])
    assert sum("agent's version is not known" in one for one in caplog.messages) == 1


@pytest.mark.parametrize("fault", [NOT_ALLOWED, NOTHING])
def test_a_batch_that_stops_at_a_change_needs_to_see_one(org, client, folder, fault):
    org.fail("query", **fault)
    with pytest.raises(AgentforceInputError, match='on_agent_change="stop": the version'):
        job(client, folder, accounts(3), on_agent_change="stop").run(killed=never)
    assert org.count("start") == 0


def test_looks_that_are_refused_for_a_while_change_nothing(org, gate, client, folder, versions):
    first = versions()
    asked = job(client, folder, accounts(20), max_concurrency=1)
    running = run_until(gate, 10, lambda: asked.run(killed=never))
    looked_again(org)
    org.fail("query", times=3, **NOT_ALLOWED)
    wait_for(lambda: not org.unused_faults())
    looked_again(org)
    gate.open.set()
    assert running.result(60)["counts"] == {"answered": 20}
    assert {row["agent_version"] for row in rows(folder).values()} == {first}


def test_rows_that_no_later_look_confirms_name_no_version(org, gate, usual_client, folder):
    asked = job(usual_client, folder, accounts(6), max_concurrency=1)
    running = run_until(gate, 3, lambda: asked.run(killed=never))
    org.fail("query", **NOT_ALLOWED)
    gate.open.set()
    assert running.result(60)["counts"] == {"answered": 6}
    assert {row["agent_version"] for row in rows(folder).values()} == {None}


@pytest.mark.parametrize("published", [False, True])
def test_what_a_killed_try_could_not_confirm_is_confirmed_by_the_next_or_left_open(
    org, gate, fields, client, folder, versions, published
):
    records, first = accounts(20), versions()
    gate.after = 10
    process = in_a_process(fields, folder, records, max_concurrency=1)
    assert gate.reached.wait(60)
    process.kill()
    process.wait()
    if published:
        org.publish()
    gate.open.set()
    gate.after = None
    manifest = job(client, folder, records).run(killed=never)
    assert manifest["counts"] == {"answered": 19, "unknown": 1}
    named = versions_in(folder, [f"A{number}" for number in range(20)])
    assert named[:9] == [None if published else first] * 9
    assert named[11:] == [versions()] * 9
