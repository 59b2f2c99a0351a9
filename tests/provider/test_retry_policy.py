"""Airflow's own retries at the time that the org asks for."""

from __future__ import annotations

from datetime import timedelta

import pytest
from airflow.sdk import RetryAction

from airflow_provider_agentforce.operators import StartSessionOperator
from airflow_provider_agentforce.retry_policy import AgentforceRetryPolicy


@pytest.fixture
def refused(org, run):
    """The error of a start that the org refuses for *seconds*."""

    def start(seconds):
        headers = {} if seconds is None else {"Retry-After": str(seconds)}
        org.fail("start", status=429, headers=headers, times=3 if seconds is None else 1)
        return run(StartSessionOperator(task_id="start")).error

    return start


def test_the_next_try_comes_when_the_org_asks_for_it(refused):
    decision = AgentforceRetryPolicy().evaluate(refused(90), 1, 3)
    assert (decision.action, decision.retry_delay) == (RetryAction.RETRY, timedelta(seconds=90))
    assert "90 s" in decision.reason


def test_a_wait_that_is_too_long_fails_the_task(refused):
    assert AgentforceRetryPolicy(longest=60).evaluate(refused(90), 1, 3).action is RetryAction.FAIL


def test_other_errors_keep_the_delay_of_the_task(refused):
    policy = AgentforceRetryPolicy()
    for error in (refused(None), ValueError("of the Dag")):
        assert policy.evaluate(error, 1, 3).action is RetryAction.DEFAULT


def test_an_operator_takes_it_and_it_survives_being_stored():
    operator = StartSessionOperator(task_id="start", retry_policy=AgentforceRetryPolicy(longest=5))
    stored = operator.retry_policy.serialize()
    assert AgentforceRetryPolicy.deserialize(stored).longest == 5
