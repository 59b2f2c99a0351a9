"""What the agent's planner did in a turn: read when asked for, and never worth an answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_provider_agentforce.client.plans import summary_of
from airflow_provider_agentforce.exceptions import AgentforceInputError, AgentforceRequestError


@pytest.fixture
def turn(org, client):
    with client.conversation() as chat:
        return chat.send("Where is order 42?")


def test_a_plan_names_the_subagent_and_the_actions(org, client, turn):
    plan = client.get_plan(turn)
    assert (plan["type"], plan["planId"]) == ("PlanSuccessResponse", turn.plan_id)
    assert client.get_plan(turn.to_dict()) == plan
    found = client.with_plan(turn).plan
    assert found["subagent"] == "DefaultTopic"
    (action,) = found["actions"]
    assert (action["name"], action["seconds"]) == ("Get_Order_Status", 0.412)
    sent = [record for record in org.requests if record.operation == "trace"]
    assert {record.headers["x-client-name"] for record in sent} == {"afdx"}


@pytest.mark.parametrize(
    "fault",
    [
        *({"status": status} for status in (400, 401, 403, 404, 429, 500, 503)),
        {"drop": True},
        {"body": "<html>"},
        {"body": []},
        {"cut": 10},
        {"body": "<html>" + "x" * 5_000_000},
        {"body": {"plan": [{"type": "FunctionStep", "function": {"input": "x" * 20_000_000}}]}},
    ],
    ids=lambda fault: str(fault)[:40],
)
def test_a_plan_that_cannot_be_had_costs_a_warning_and_nothing_else(org, client, turn, fault, caplog):
    org.fail("trace", times=10, **fault)
    assert client.with_plan(turn) == turn
    assert "The plan of message 1 is not known" in caplog.text
    assert 1 <= org.count("trace") <= 3
    org.reset()


def test_a_plan_that_does_not_come_in_time_costs_a_warning(org, make_client, turn, caplog):
    org.fail("trace", times=10, delay=1)
    assert make_client(org, timeout=0.2).with_plan(turn) == turn
    assert "The plan of message 1 is not known" in caplog.text
    org.reset()


def test_a_turn_without_a_plan_is_left_alone(org, client, turn):
    bare = replace(turn, plan_id=None)
    assert client.with_plan(bare) == bare
    assert org.count("trace") == 0
    with pytest.raises(AgentforceInputError, match="plan_id"):
        client.get_plan(bare)
    with pytest.raises(AgentforceRequestError, match="planner"):
        client.get_plan(replace(turn, plan_id="no-such-plan"))


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"plan": None, "topic": 7},
        {"plan": [1, {"type": "FunctionStep", "function": 3}]},
    ],
)
def test_a_plan_of_another_shape_says_what_it_can(plan):
    found = summary_of(plan)
    assert found["subagent"] is None
    assert all(action["name"] is None and action["seconds"] is None for action in found["actions"])
