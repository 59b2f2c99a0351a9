"""A long wait for a limit gives the worker slot back; nothing is sent twice or lost by it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred
from stand_ins import Task, texts

from airflow_provider_agentforce.exceptions import AgentforceInputError, RateLimitedError
from airflow_provider_agentforce.operators import (
    Budget,
    ConversationOperator,
    SendMessageOperator,
    StartSessionOperator,
)

pytestmark = pytest.mark.usefixtures("task_folder")

LONG = {"status": 429, "headers": {"Retry-After": "300"}}


def deferred(task):
    """Run a task until it gives its slot back, and return how."""
    with pytest.raises(TaskDeferred) as caught:
        task.run()
    return caught.value


def until(wait):
    return wait.trigger.serialize()[1]["moment"] - datetime.now(timezone.utc)


def forget_the_pause():
    """Stand for the process that goes on when the time is up."""
    from airflow_provider_agentforce.client.org_state import forget_orgs  # noqa: PLC0415

    forget_orgs()


def test_a_message_waits_without_a_slot_and_is_sent_once(org, session):
    org.fail("send", **LONG)
    task = Task(SendMessageOperator, session=session, text="order 7?", deferrable=True)
    wait = deferred(task)
    assert timedelta(seconds=280) < until(wait) <= timedelta(seconds=300)
    assert texts(org) == []
    forget_the_pause()
    assert task.resume(wait)["outcome"] == "answered"
    assert texts(org) == [("order 7?", 1)]


def test_a_start_waits_without_a_slot(org):
    org.fail("start", **LONG)
    task = Task(StartSessionOperator, deferrable=True)
    wait = deferred(task)
    forget_the_pause()
    assert task.resume(wait)["session_id"] in org.sessions
    assert len(org.sessions) == 1


def test_a_conversation_waits_in_the_middle_and_goes_on_in_its_session(org):
    task = Task(ConversationOperator, messages=["order 1?", "order 2?"], deferrable=True)
    org.fail("send", times=1)
    org.fail("send", **LONG)
    wait = deferred(task)
    assert texts(org) == [("order 1?", 1)]
    assert len(org.open_sessions) == 1
    forget_the_pause()
    value = task.resume(wait)
    assert [turn["outcome"] for turn in value["turns"]] == ["answered"] * 2
    assert texts(org) == [("order 1?", 1), ("order 2?", 1)]
    assert len(org.sessions) == 1
    assert org.open_sessions == []


def test_a_conversation_that_waits_before_its_first_answer_holds_no_session_meanwhile(org):
    task = Task(ConversationOperator, messages=["order 1?"], deferrable=True)
    org.fail("send", **LONG)
    wait = deferred(task)
    assert org.open_sessions == []
    forget_the_pause()
    assert task.resume(wait)["outcome"] == "answered"
    assert texts(org) == [("order 1?", 1)]


def test_what_was_rendered_before_the_wait_is_sent_after_it(org, session):
    org.fail("send", **LONG)
    task = Task(SendMessageOperator, session=session, text="as rendered first", deferrable=True)
    wait = deferred(task)
    forget_the_pause()
    task.resume(wait, datetime.now(timezone.utc), text="as rendered again")
    assert texts(org) == [("as rendered first", 1)]


def test_a_wait_whose_trigger_is_lost_goes_on(org, session):
    org.fail("send", **LONG)
    task = Task(SendMessageOperator, session=session, text="order 7?", deferrable=True)
    wait = deferred(task)
    forget_the_pause()
    assert task.resume(wait, error="Trigger failure")["outcome"] == "answered"
    assert texts(org) == [("order 7?", 1)]


@pytest.mark.parametrize(
    ("kind", "operation", "arguments"),
    [
        (SendMessageOperator, "send", {"text": "order 7?"}),
        (ConversationOperator, "start", {"messages": ["order 7?"]}),
        (StartSessionOperator, "start", {}),
    ],
)
def test_a_task_that_is_not_deferrable_fails_as_before(org, session, kind, operation, arguments):
    org.fail(operation, **LONG)
    given = {"session": session, **arguments} if kind is SendMessageOperator else arguments
    with pytest.raises(RateLimitedError, match="300 s"):
        Task(kind, deferrable=False, **given).run()
    assert texts(org) == []


def test_a_short_wait_is_made_in_the_slot(org, session):
    org.fail("send", status=429, headers={"Retry-After": "1"})
    task = Task(SendMessageOperator, session=session, text="order 7?", deferrable=True)
    assert task.run()["outcome"] == "answered"


def test_a_budget_without_a_store_is_refused_and_so_is_what_is_no_budget(org, session):
    with pytest.raises(AgentforceInputError, match="limits_conn_id"):
        Task(StartSessionOperator, budget=Budget("sessions", per_day=5)).run()
    with DAG("refused", schedule=None), pytest.raises(AgentforceInputError, match="budget must be a Budget"):
        ConversationOperator(task_id="talk", messages=["hi"], budget=5000)
