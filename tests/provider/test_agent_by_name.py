"""An agent may be given by its API name wherever one is given; the log says which id it has."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest

from airflow_provider_agentforce.decorators.agentforce import AgentforceDecoratedOperator
from airflow_provider_agentforce.hooks.agentforce import AgentforceHook
from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    ConversationTestOperator,
    EndSessionOperator,
    RunAgentTestOperator,
    SendMessageOperator,
    StartSessionOperator,
)

NAME = "Service_Agent"
GOLDEN = "name: order\nturns:\n  - say: Where is order 42?\n"


def started_and_sent(run, _path, **agent):
    session = run(StartSessionOperator(task_id="t", **agent)).value
    sent = run(SendMessageOperator(task_id="t", session=session, text="Hi"))
    run(EndSessionOperator(task_id="t", session=sent.value))
    return sent


def talk(run, _path, **agent):
    return run(ConversationOperator(task_id="t", messages=["Hi"], **agent))


def decorated(run, _path, **agent):
    return run(AgentforceDecoratedOperator(task_id="t", python_callable=lambda: "Hi", **agent))


def batch(run, path, **agent):
    records = [{"id": "1"}, {"id": "2"}]
    return run(
        ConversationBatchOperator(
            task_id="t", records=records, key="id", message="Hi", result_path=f"file://{path}/batch", **agent
        )
    )


def golden(run, path, **agent):
    (path / "a.yaml").write_text(GOLDEN)
    return run(ConversationTestOperator(task_id="t", conversations=f"file://{path}/a.yaml", **agent))


def org_test(run, path, **agent):
    within = timedelta(days=1)
    operator = RunAgentTestOperator(
        task_id="t",
        test="Order_Tests",
        poke_interval=timedelta(milliseconds=1),
        result_path=f"file://{path}/tests",
        skip_if_passed_within=within,
        **agent,
    )
    return run(operator)


def with_the_hook(_run, _path, **agent):
    with AgentforceHook().conversation(**agent) as chat:
        chat.send("Hi")


USES = (started_and_sent, talk, decorated, batch, golden, org_test, with_the_hook)


@pytest.mark.parametrize("where", ["argument", "connection"])
@pytest.mark.parametrize(
    "use",
    [started_and_sent, talk, decorated, batch, golden, org_test, with_the_hook],
    ids=lambda use: use.__name__,
)
def test_a_name_is_looked_up_once_and_the_log_has_name_and_id(
    org, run, tmp_path, monkeypatch, caplog, use, where
):
    caplog.set_level(logging.INFO)
    given = {"agent_id": NAME} if where == "argument" else {}
    agent = NAME if where == "connection" else None
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection(agent_id=agent))
    done = use(run, tmp_path, **given)
    assert done is None or done.error is None, done.error
    said = [record.getMessage() for record in caplog.records if NAME in record.getMessage()]
    assert said.count(f"The agent {NAME} has the id {org.agent_id}.") == 1
    assert {session.agent_id for session in org.sessions.values()} <= {org.agent_id}
    assert org.open_sessions == []
