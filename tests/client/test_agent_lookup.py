"""Agents by their API name: looked up once, by one query, and only when there is no id."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st
from quick import QUICK
from telling import look_over

from airflow_provider_agentforce.client import agent_lookup, validation
from airflow_provider_agentforce.emulator import Agent
from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceError,
    AgentforceInputError,
    AgentforceRequestError,
    AgentforceTransientError,
    RateLimitedError,
    TaskStoppedError,
)

ONE, OTHER = "0XxHs0000000001KAA", "0XxHs0000000002KAA"


def record(agent_id=ONE, versions=("Inactive", "Active"), name="My_Agent"):
    listed = {"records": [{"Status": status} for status in versions]} if versions else None
    return {"Id": agent_id, "DeveloperName": name, "BotVersions": listed}


def refused(client, name, kind):
    """Return the one line that says why *name* is no agent to talk to."""
    with pytest.raises(AgentforceError) as caught:
        client.start_session(name)
    assert type(caught.value) is kind
    assert caught.value.operation == "query"
    look_over(caught.value, client)
    return str(caught.value)


@pytest.fixture
def answered(make_client):
    """Ask for My_Agent in an org that answers the query with given records."""

    def ask(*records):
        replies = wire.answering(
            wire.TOKEN, wire.response({"totalSize": len(records), "records": list(records)})
        )
        with wire.Server(replies) as server:
            client = make_client(host=server.url, api_url=server.url)
            try:
                return client.agent("My_Agent"), server
            finally:
                client.close()

    return ask


def test_session_is_started_with_the_id_of_the_named_agent(org, client):
    session = client.start_session("Service_Agent")
    assert session.agent_id == org.agent_id
    assert org.sessions[session.session_id].agent_id == org.agent_id


def test_name_may_be_the_one_of_the_settings(org, make_client):
    client = make_client(org, agent_id=" Employee_Agent ")
    assert client.start_session(bypass_user=False).agent_id == org.agents[2].id


@pytest.mark.parametrize("length", [15, 18])
def test_id_is_never_looked_up(org, client, length):
    assert client.start_session(org.agent_id[:length]).agent_id == org.agent_id[:length]
    assert org.count("query") == 0


def test_query_goes_to_my_domain_with_the_token_and_asks_for_one_name(answered):
    found, server = answered(record())
    assert found == ONE
    request = server.requests[1]
    assert (request.method, urlsplit(request.target).path) == ("GET", "/services/data/v63.0/query")
    assert request.headers["authorization"].startswith("Bearer eyJ")
    (soql,) = parse_qs(urlsplit(request.target).query)["q"]
    assert soql.endswith("FROM BotDefinition WHERE DeveloperName = 'My_Agent' LIMIT 5")


def test_name_is_looked_up_once_for_all_clients_of_an_org(org, make_client):
    for _ in range(3):
        client = make_client(org)
        assert client.agent("Service_Agent") == client.agent("Service_Agent") == org.agent_id
    assert org.count("query") == 1


def test_orgs_do_not_share_names(org, client, make_org, make_client):
    other = make_org(agents=[Agent(developer_name="Service_Agent")])
    assert client.agent("Service_Agent") == org.agent_id
    assert make_client(other).agent("Service_Agent") == other.agent_id != org.agent_id


def test_25_threads_share_one_query(org, make_client):
    clients = [make_client(org) for _ in range(5)]
    hold = org.hold("query")
    with ThreadPoolExecutor(25) as pool:
        found = [pool.submit(clients[number % 5].agent, "Service_Agent") for number in range(25)]
        hold.wait_until_held()
        hold.release()
        assert {future.result(10) for future in found} == {org.agent_id}
    assert org.count("query") == 1


def test_name_is_looked_up_again_after_ten_minutes(org, make_client):
    now = [1000.0]
    client = make_client(org, timing=replace(QUICK, clock=lambda: now[0]))
    for later, queries in ((0, 1), (599, 1), (2, 2)):
        now[0] += later
        client.agent("Service_Agent")
        assert org.count("query") == queries


def test_agent_made_anew_is_found_after_one_failed_start(make_org, make_client):
    org = make_org(agents=[Agent(developer_name="Mine", id=ONE)])
    client = make_client(org)
    assert client.start_session("Mine").agent_id == ONE
    org.stop()
    make_org(agents=[Agent(developer_name="Mine", id=OTHER)], port=urlsplit(org.url).port)
    with pytest.raises(AgentforceError):
        client.start_session("Mine")
    assert client.start_session("Mine").agent_id == OTHER


def test_start_that_meets_a_limit_keeps_the_name(org, client):
    org.fail("start", status=429, times=3)
    with pytest.raises(RateLimitedError):
        client.start_session("Service_Agent")
    client.start_session("Service_Agent")
    assert org.count("query") == 1


def test_unknown_name_says_what_to_check_and_starts_nothing(org, client):
    told = refused(client, "Nobody", AgentforceInputError)
    assert told.startswith(
        f"agent_id: no agent of {org.url} has the API name Nobody. Check the agent's API Name"
    )
    assert org.count("start") == 0


def test_failed_lookup_is_not_remembered(org, client):
    refused(client, "Nobody", AgentforceInputError)
    org.fail("query", status=503, times=3)
    refused(client, "Service_Agent", AgentforceTransientError)
    assert client.agent("Service_Agent") == org.agent_id


def test_inactive_agent_says_so_and_starts_nothing(org, client):
    told = refused(client, "Inactive_Agent", AgentforceRequestError)
    assert f"the agent Inactive_Agent ({org.agents[1].id}) has no active version. Activate a version" in told
    assert org.count("start") == 0


@pytest.mark.parametrize("versions", [None, (), ("Inactive", "Inactive")])
def test_agent_without_an_active_version_is_inactive(answered, versions):
    with pytest.raises(AgentforceRequestError, match="has no active version"):
        answered(record(versions=versions))


def test_name_that_several_agents_have_asks_for_an_id(answered):
    with pytest.raises(AgentforceInputError) as caught:
        answered(record(ONE), record(OTHER))
    assert f"Give the id of the right one: {ONE}, {OTHER}." in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "kind", "remedy"),
    [
        ({"error": "rest_invalid_type"}, AgentforceRequestError, "give the agent's id (0Xx…)"),
        ({"error": "rest_invalid_field"}, AgentforceRequestError, "the app's scope api"),
        ({"status": 403}, AgentforceAuthError, "give the agent's id (0Xx…)"),
        ({"error": "session_not_valid"}, AgentforceAuthError, "the app's scope api"),
    ],
)
def test_org_that_does_not_let_look_up_names_asks_for_the_id(org, client, fault, kind, remedy):
    org.fail("query", times=2 if fault.get("error") == "session_not_valid" else 1, **fault)
    assert remedy in refused(client, "Service_Agent", kind)
    assert org.count("start") == 0


def test_stopped_client_looks_nothing_up(org, client):
    client.stop()
    with pytest.raises(TaskStoppedError):
        client.agent("Service_Agent")
    assert org.requests == []


def test_query_under_way_is_cut_by_a_stop(org, client):
    hold = org.hold("query")
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(client.agent, "Service_Agent")
        hold.wait_until_held()
        client.stop()
        with pytest.raises(TaskStoppedError):
            asking.result(5)
        hold.release()


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        " ",
        "My Agent",
        "x' OR Id != '",
        "../x",
        "0Xx",
        "0Xx" + "a" * 13,
        "0Xx'00000000001",
        "_X",
        "9a",
        "é",
        7,
    ],
)
def test_what_can_be_neither_name_nor_id_is_refused_before_anything_is_sent(org, client, wrong):
    with pytest.raises(AgentforceInputError, match="agent_id must be") as caught:
        client.find_agents(wrong)
    look_over(caught.value, client)
    assert org.requests == []


@given(st.text(max_size=20) | st.from_regex(r"\A[0Xxa-z'\\_]{1,20}\Z"))
def test_no_quote_gets_into_a_query(text):
    try:
        soql = agent_lookup.query_for(validation.agent(text))
    except AgentforceInputError:
        return
    assert soql.count("'") == 2
    assert "\\" not in soql


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b'{"records": {}}',
        b'{"records": [1]}',
        b"<html>",
    ],
)
def test_other_answers_are_unreadable(org, client, body):
    org.fail("query", body=body, times=2)
    with pytest.raises(AgentforceTransientError, match="not readable"):
        client.find_agents("Service_Agent")


UNKNOWN_AGENT = "0Xx000000000009AAA"


def test_start_with_an_unknown_id_says_so_and_is_final(org, client):
    error = failing_start(client, UNKNOWN_AGENT)
    assert (type(error), error.retryable, error.applied) == (AgentforceRequestError, False, False)
    assert f"no agent of {org.url} has the id {UNKNOWN_AGENT}" in str(error)
    assert (org.count("start"), org.count("query")) == (1, 1)


def test_start_that_fails_although_the_agent_exists_stays_transient(org, client):
    org.fail("start", error="unexpected_error")
    error = failing_start(client, org.agent_id)
    assert (type(error), error.retryable) == (AgentforceTransientError, True)
    assert f"Check in Setup > Agentforce Agents that {org.agent_id} is an active agent" in str(error)


def test_start_that_fails_where_nobody_may_look_names_the_agent_and_how_to_check_it(org, client):
    org.fail("query", status=403)
    error = failing_start(client, UNKNOWN_AGENT)
    assert error.retryable
    assert f"Setup > Agentforce Agents that {UNKNOWN_AGENT} is an active agent" in str(error)


def failing_start(client, agent_id):
    with pytest.raises(AgentforceError) as caught:
        client.start_session(agent_id)
    look_over(caught.value, client)
    return caught.value
