"""A task of a model that ends while an Agentforce agent works for it: its session must not outlive it."""

from __future__ import annotations

import signal
import sys

import pytest
from real_airflow import kill, until

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the Common AI provider needs Python 3.11")


@pytest.mark.parametrize("dag_id", ["llm_asks", "llm_talks"])
def test_a_stopped_task_ends_its_session(airflow, org, figures, dag_id):
    hold = org.hold("send")
    run = airflow.trigger(dag_id)
    hold.wait_until_held(180)
    figures.kind, figures.at = "SIGTERM", kill(run.runner("think"), by=signal.SIGTERM)
    # The first try to end the session finds it locked, as the agent still works on the message.
    until("a try to end the session", lambda: org.count("end"), timeout=10)
    hold.release()
    assert run.wait() == "failed"
    assert org.open_sessions == []
    assert org.applied() == 1


@pytest.mark.parametrize("dag_id", ["llm_asks_in_time", "llm_talks_in_time"])
def test_a_task_whose_time_is_over_ends_its_session(airflow, org, figures, dag_id):
    hold = org.hold("send")
    run = airflow.trigger(dag_id)
    hold.wait_until_held(180)
    figures.kind, figures.at = "timeout", org.requests[-1].at
    until("a try to end the session", lambda: org.count("end"), timeout=30)
    hold.release()
    assert run.wait() == "failed"
    assert "AirflowTaskTimeout" in run.log("think", 1)
    assert org.open_sessions == []
    assert org.applied() == 1
