"""A task that is killed once its message left: what the next try finds in the task state store.

The agent acts on a message whether or not somebody waits for the answer, so every test here lets it finish
the one that it was given, and then counts.
"""

from __future__ import annotations

import pytest
from real_airflow import kill

KILLED = {"task": lambda runner: [runner], "both": lambda runner: [runner.parent(), runner]}


@pytest.mark.parametrize("whom", KILLED)
def test_a_message_on_its_way_at_the_kill_is_not_sent_again(airflow, org, figures, whom):
    hold = org.hold("send")
    run = airflow.trigger("talk")
    hold.wait_until_held(180)
    figures.kind, figures.at = "SIGKILL", kill(*KILLED[whom](run.runner("talk")))
    hold.release()
    assert run.wait() == "failed"

    assert run.task("talk")["try_number"] == 2
    assert "DeliveryUnknownError" in run.log("talk", 2)
    assert (org.count("start"), org.count("send"), org.applied()) == (1, 1, 1)
    # The second try knows the session from the first.
    assert (org.count("end"), org.open_sessions) == (1, [])


def test_a_send_killed_on_its_way_leaves_the_session_to_the_teardown(airflow, org, figures):
    hold = org.hold("send")
    run = airflow.trigger("shared")
    hold.wait_until_held(180)
    figures.kind, figures.at = "SIGKILL", kill(run.runner("send"))
    hold.release()
    run.wait()

    assert run.states() == {"start": "success", "send": "failed", "end": "success"}
    assert run.task("send")["try_number"] == 2
    assert "DeliveryUnknownError" in run.log("send", 2)
    assert (org.count("send"), org.applied()) == (1, 1)
    assert (org.count("end"), org.open_sessions) == (1, [])


def test_a_message_that_may_be_sent_twice_is_sent_again_after_a_kill(airflow, org, figures):
    hold = org.hold("send")
    run = airflow.trigger("shared_resend")
    hold.wait_until_held(180)
    figures.kind, figures.at, figures.again = "SIGKILL, resend", kill(run.runner("send")), True
    hold.release()
    assert run.wait() == "success"

    assert run.task("send")["try_number"] == 2
    (session,) = org.sessions.values()
    # Both carry the same number.
    assert [(turn.sequence_id, turn.text, turn.applied) for turn in session.turns] == [(1, "first", 2)]
    assert org.open_sessions == []


def test_a_session_that_the_agent_still_works_in_is_named_by_the_next_try(airflow, org, figures):
    hold = org.hold("send")
    run = airflow.trigger("talk")
    hold.wait_until_held(180)
    figures.kind, figures.at = "SIGKILL, locked", kill(run.runner("talk"))
    assert run.wait() == "failed"
    hold.release()

    assert org.count("send") == 1
    (session,) = org.open_sessions
    log = run.log("talk", 2)
    assert "DeliveryUnknownError" in log
    assert f"Session {session} may still be open" in log


def test_an_answered_message_is_returned_by_the_next_try(airflow, org, figures, gates):
    run = airflow.trigger("shared_recorded")
    gates.wait_for("recorded")
    figures.kind, figures.at = "SIGKILL", kill(run.runner("send"))
    gates.open("recorded")
    assert run.wait() == "success"

    assert run.task("send")["try_number"] == 2
    assert run.xcom("send", "text") == "You said: first"
    assert run.xcom("send")["text"] == "You said: first"
    assert run.xcom("send")["messages"] == org.sessions[run.xcom("start", "session_id")].turns[0].messages
    assert (org.count("send"), org.applied()) == (1, 1)
    assert (org.count("end"), org.open_sessions) == (1, [])


def test_a_whole_conversation_is_returned_by_the_next_try(airflow, org, figures, gates):
    run = airflow.trigger("talk_recorded")
    gates.wait_for("recorded")
    figures.kind, figures.at = "SIGKILL", kill(run.runner("talk"))
    gates.open("recorded")
    assert run.wait() == "success"

    assert run.task("talk")["try_number"] == 2
    answers = [turn["text"] for turn in run.xcom("talk")["turns"]]
    assert answers == ["You said: first", "You said: second"]
    assert (org.count("start"), org.count("send"), org.applied()) == (1, 2, 2)
    assert org.open_sessions == []


def test_a_conversation_killed_between_turns_goes_on_where_it_was(airflow, org, figures, gates):
    run = airflow.trigger("talk_in_steps")
    gates.wait_for("between")
    figures.kind, figures.at = "SIGKILL", kill(run.runner("talk"))
    gates.open("between")
    assert run.wait() == "success"

    assert run.task("talk")["try_number"] == 2
    (session,) = org.sessions.values()
    assert [(turn.sequence_id, turn.text, turn.applied) for turn in session.turns] == [
        (1, "step 1", 1),
        (2, "step 2", 1),
        (3, "step 3", 1),
    ]
    answers = [turn["text"] for turn in run.xcom("talk")["turns"]]
    assert answers == ["You said: step 1", "You said: step 2", "You said: step 3"]
    assert (org.count("start"), org.count("send"), org.open_sessions) == (1, 3, [])


def test_a_started_session_is_used_by_the_next_try(airflow, org, figures, gates):
    run = airflow.trigger("shared_started")
    gates.wait_for("recorded")
    figures.kind, figures.at = "SIGKILL", kill(run.runner("start"))
    gates.open("recorded")
    assert run.wait() == "success"

    assert run.task("start")["try_number"] == 2
    (session,) = org.sessions
    assert run.xcom("start", "session_id") == session
    assert (org.count("start"), org.applied(), org.open_sessions) == (1, 1, [])
