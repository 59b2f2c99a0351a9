"""The check of a connection: what it finds, and that it starts nothing."""

import pytest
import wire
from telling import look_over

from airflow_provider_agentforce.client import diagnostics
from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceError,
    AgentforceInputError,
    AgentforceRequestError,
    AgentforceTransientError,
)


def test_good_connection_is_told_with_its_facts(org, client):
    good, told = diagnostics.diagnose(client)
    assert good is True
    for fact in (org.url, "a JWT for 30 minutes", "api chatbot_api sfap_api", org.agent_id, "No session was"):
        assert fact in told
    assert (org.count("token"), org.count("start")) == (1, 0)


def test_opaque_token_is_a_problem(make_org, make_client):
    good, told = diagnostics.diagnose(make_client(make_org(opaque_tokens=True)))
    assert good is False
    assert "Issue JSON Web Token" in told


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ({"scope": "api"}, "lacks the scopes chatbot_api, sfap_api"),
        ({"instance_url": "https://other.my.salesforce.com"}, "calls itself https://other.my.salesforce.com"),
    ],
)
def test_problem_that_the_token_reply_shows_is_told(make_client, reply, problem):
    answer = wire.response({"access_token": "eyJhbGciOiJSUzI1NiJ9.e30.c2ln", **reply})
    with wire.Server(wire.answering(answer)) as server:
        client = make_client(host=server.url)
        good, told = diagnostics.diagnose(client)
        client.close()
    assert good is False
    assert problem in told


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"error": "wrong_secret"}, AgentforceAuthError),
        ({"status": 503, "times": 3}, AgentforceTransientError),
    ],
)
def test_connection_without_a_token_is_an_error(org, client, fault, kind):
    org.fail("token", **fault)
    with pytest.raises(kind) as caught:
        diagnostics.diagnose(client)
    look_over(caught.value, client)


@pytest.mark.parametrize("by", ["developer_name", "id"])
def test_default_agent_is_told_by_name_id_and_activity(org, make_client, by):
    good, told = diagnostics.diagnose(make_client(org, agent_id=getattr(org.agents[0], by)))
    assert good is True
    assert f"Default agent: Service_Agent, {org.agent_id}, active." in told
    assert (org.count("query"), org.count("start")) == (1, 0)


def test_connection_without_a_default_agent_is_good_and_asks_for_none(org, make_client):
    good, told = diagnostics.diagnose(make_client(org, agent_id=None))
    assert (good, org.count("query")) == (True, 0)
    assert "Default agent: none." in told


@pytest.mark.parametrize(
    ("agent", "kind", "problem"),
    [
        ("Nobody", AgentforceInputError, "has the API name Nobody"),
        ("0XxEM0000000009", AgentforceInputError, "has the id 0XxEM0000000009"),
        ("Inactive_Agent", AgentforceRequestError, "has no active version"),
        ("0XxEM0000000002", AgentforceRequestError, "has no active version"),
    ],
)
def test_agent_that_no_task_could_use_is_a_problem(org, make_client, agent, kind, problem):
    client = make_client(org, agent_id=agent)
    with pytest.raises(kind, match=problem) as caught:
        diagnostics.diagnose(client)
    look_over(caught.value, client)


def test_lookup_that_is_refused_spoils_only_a_connection_that_needs_it(org, client, make_client):
    org.fail("query", error="rest_invalid_type", times=2)
    good, told = diagnostics.diagnose(client)
    assert good is True
    assert f"{org.agent_id}, which could not be looked up" in told
    with pytest.raises(AgentforceError, match="BotDefinition"):
        diagnostics.diagnose(make_client(org, agent_id="Service_Agent"))
