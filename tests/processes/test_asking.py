"""A person decides what the agent asks amid a conversation, in a whole Airflow; processes are killed."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("figures")

# What the agent of these tests asks, see conftest.py.
ASKS = "    Please give me {{ 7 * 7 }} numbers.\n"


def turns(org):
    (session,) = org.sessions.values()
    return [turn.text.partition(" ")[0] or turn.type for turn in session.turns]


@pytest.mark.parametrize(
    ("request_", "option", "said"),
    [
        ("needs_confirmation", "Approve", "Reply"),
        ("needs_confirmation", "Decline", "Cancel"),
        ("needs_input", "Send", "Reply"),
        ("needs_input", "Decline", "Cancel"),
    ],
)
def test_a_person_decides(airflow, org, request_, option, said):
    run = airflow.trigger("talk_decided", request=request_)
    asked = run.asked("talk")
    assert ASKS in asked["body"]
    assert (asked["options"][0] in ("Approve", "Send"), len(org.open_sessions)) == (True, 1)
    fields = dict.fromkeys(asked["params"], "{{ 6 * 6 }}")
    run.answer("talk", option, fields)
    assert run.wait() == "success", run.log("talk", 1)
    assert (turns(org), org.open_sessions) == ([request_, said, "after"], [])
    if option == "Send":
        (item,) = run.xcom("talk")["turns"][1]["request"]["reply"]
        assert item["value"] == "{{ 6 * 6 }}"
    assert f"has decided: {option}" in run.log("talk", 1)
    assert run.task("talk")["try_number"] == 1


def test_what_no_one_decides_in_time_is_cancelled(airflow, org):
    run = airflow.trigger("talk_decided_in_time", request="needs_confirmation")
    assert run.wait() == "success", run.log("talk", 1)
    assert (turns(org), org.open_sessions) == (["needs_confirmation", "Cancel"], [])
    assert "No person decided in time" in run.log("talk", 1)


@pytest.mark.parametrize("early", [True, False])
def test_a_task_that_is_killed_while_it_asks_asks_once(airflow, org, killed_while_asking, early):
    run = airflow.trigger("talk_decided_stopping", request="needs_confirmation")
    killed_while_asking(run, "Approve", {}, early=early)
    assert (turns(org), org.open_sessions) == (["needs_confirmation", "Reply", "after"], [])
