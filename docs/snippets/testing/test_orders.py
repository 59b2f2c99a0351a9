"""Tests of a Dag that talks to an agent."""

from __future__ import annotations

# [START runs]
import pytest
from orders import dag

pytestmark = pytest.mark.usefixtures("airflow_db", "agentforce_connection")


def test_the_dag_asks_once_and_ends_its_session(agentforce_emulator):
    assert dag.test().state == "success"

    (session,) = agentforce_emulator.sessions.values()
    assert [turn.text for turn in session.turns] == ["Where is order 4711?"]
    assert agentforce_emulator.open_sessions == []
    # [END runs]


# [START faults]
@pytest.mark.parametrize(
    ("fault", "state", "acted"),
    [
        ({"status": 429, "headers": {"Retry-After": "0"}}, "success", 1),  # refused: sent again automatically
        ({"status": 500, "after": True}, "failed", 1),  # unknown: not sent again
        ({"drop": True, "after": True}, "failed", 1),
    ],
)
def test_no_message_is_acted_on_twice(agentforce_emulator, fault, state, acted):
    agentforce_emulator.fail("send", **fault)

    assert dag.test().state == state
    assert agentforce_emulator.applied() == acted
    assert agentforce_emulator.open_sessions == []
    # [END faults]


# [START hook]
def test_the_agent_wants_a_confirmation(agentforce_emulator):
    from airflow_provider_agentforce.hooks.agentforce import AgentforceHook

    with AgentforceHook().conversation(variables={"$Context.Tier": "gold"}) as chat:
        assert chat.send("Please refund it.").outcome == "needs_confirmation"

    (session,) = agentforce_emulator.sessions.values()
    assert session.variables == {"$Context.Tier": "gold"}
    (sent,) = [request for request in agentforce_emulator.requests if request.operation == "send"]
    assert sent.body["message"] == {"type": "Text", "sequenceId": 1, "text": "Please refund it."}
    # [END hook]
