"""People who answer what an agent asks, through Airflow's REST API, as its pages do."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("figures")

# "outcome": what the agent of these tests answers to it, see conftest.py.
ASKS = "Please give me {{ 7 * 7 }} numbers."


def turns(org):
    return [[turn.text or turn.type for turn in session.turns] for session in org.sessions.values()]


@pytest.mark.parametrize(
    ("outcome", "answer", "said"),
    [
        ("needs_input", ("ask", "Send", {"answer": "{{ 6 * 6 }}"}), "{{ 6 * 6 }}"),
        ("needs_confirmation", ("decide", "approve", {}), "Reply"),
        ("needs_confirmation", ("decide", "decline", {}), "Cancel"),
    ],
)
def test_what_a_person_says_is_the_next_message(airflow, org, outcome, answer, said):
    run = airflow.trigger("person", request=outcome)
    assert run.asked(answer[0])["body"] == ASKS
    assert len(org.open_sessions) == 1
    run.answer(*answer)
    assert run.wait() == "success", run.states()
    assert turns(org) == [[outcome, said]]
    assert org.open_sessions == []


def test_what_nobody_approves_in_time_is_declined(airflow, org):
    run = airflow.trigger("person_too_late", request="needs_confirmation")
    assert run.wait() == "success", run.states()
    assert turns(org) == [["needs_confirmation", "Cancel"]]
    assert org.open_sessions == []


def test_a_question_that_nobody_answers_in_time_fails_the_run_and_ends_the_session(airflow, org):
    run = airflow.trigger("person_too_late", request="needs_input")
    assert run.wait() == "failed"
    states = run.states()
    assert (states["ask"], states["tell"], states["end"]) == ("failed", "upstream_failed", "success")
    assert "HITLTimeoutError" in run.log("ask", 1)
    assert turns(org) == [["needs_input"]]
    assert org.open_sessions == []


def test_a_case_that_is_handed_over_keeps_no_session_open(airflow, org):
    run = airflow.trigger("person", request="escalated")
    assert run.asked("hand_over")["body"] == ASKS
    run.wait_for("end", "success")
    assert org.open_sessions == []
    run.answer("hand_over", "Taken over", {"note": "Called the customer."})
    assert run.wait() == "success"
    assert run.xcom("hand_over")["params_input"] == {"note": "Called the customer."}
