"""A task whose supervisor alone is killed goes on by itself, while Airflow already makes the next try."""

from __future__ import annotations

import time

from real_airflow import kill, named_in


def test_a_message_of_an_orphan_is_not_sent_by_the_next_try(airflow, org, figures):
    hold = org.hold("send")
    run = airflow.trigger("talk")
    hold.wait_until_held(180)
    orphan = run.runner("talk")
    airflow.follow(orphan)
    figures.kind, figures.at = "SIGKILL, orphan", kill(orphan.parent())
    assert run.wait() == "failed"
    assert orphan.is_running()
    assert run.task("talk")["try_number"] == 2
    assert "DeliveryUnknownError" in run.log("talk", 2)

    hold.release()
    orphan.wait(30)
    assert (org.count("send"), org.applied()) == (1, 1)
    # The orphan could tell nobody of the answer, but it ended its session.
    assert org.open_sessions == []


def test_an_orphan_between_turns_sends_nothing_more(airflow, org, figures, gates):
    run = airflow.trigger("talk_in_steps")
    gates.wait_for("between")
    orphan = run.runner("talk")
    airflow.follow(orphan)
    gates.forget("between")
    figures.kind, figures.at = "SIGKILL, orphan", kill(orphan.parent())
    # Both tries stand before the second message when the gate opens.
    gates.wait_for("between")
    assert orphan.is_running()
    gates.open("between")
    assert run.wait() == "success"
    orphan.wait(30)

    (session,) = org.sessions.values()
    assert [(turn.text, turn.applied) for turn in session.turns] == [
        ("step 1", 1),
        ("step 2", 1),
        ("step 3", 1),
    ]
    assert org.open_sessions == []


def test_a_message_on_its_way_when_the_scheduler_is_stopped_is_not_sent_again(airflow, org, figures):
    hold = org.hold("send")
    run = airflow.trigger("talk")
    hold.wait_until_held(180)
    figures.kind, figures.at = "shutdown, locked", time.time()
    airflow.stop_part("scheduler")
    hold.release()
    airflow.start_part("scheduler")
    assert run.wait() == "failed"

    assert "DeliveryUnknownError" in run.log("talk", run.task("talk")["try_number"])
    assert (org.count("send"), org.applied()) == (1, 1)
    assert named_in(run.log("talk", 1), org)
