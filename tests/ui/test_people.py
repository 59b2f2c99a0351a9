"""A person in the loop, as that person sees it in Airflow."""

from __future__ import annotations

import pytest
from real_airflow import DONE, until


@pytest.fixture
def waiting_run(connected, airflow):
    """A run in which the agent wants to act, and somebody is to approve it."""
    run = airflow.trigger("example_agentforce_person")
    path = f"dags/{run.dag_id}/dagRuns/{run.run_id}/hitlDetails"
    until("somebody is asked", lambda: airflow.ask("GET", path)["total_entries"])
    yield run
    assert run.wait() in DONE


def test_a_person_approves_what_the_agent_wants_to_do(page, waiting_run, org, picture):
    page.set_viewport_size({"width": 1500, "height": 700})
    page.goto(f"/dags/{waiting_run.dag_id}/runs/{waiting_run.run_id}/tasks/decide/required_actions")
    approve = page.get_by_role("button", name="approve", exact=True)
    approve.wait_for()
    asked = page.get_by_text("The agent asks for your approval", exact=True)
    picture("required-action", page.get_by_role("link", name="Logs"), asked, approve, margin=16)
    approve.click()
    assert waiting_run.wait() == "success"
    (session,) = org.sessions.values()
    assert [(turn.type, turn.text) for turn in session.turns] == [
        ("Text", "Please refund order 4711."),
        ("Reply", ""),
    ]
    assert not org.open_sessions
