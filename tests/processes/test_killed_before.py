"""A task that is killed before a message left: the retry sends it, once."""

from __future__ import annotations

import pytest
from real_airflow import kill


@pytest.mark.parametrize("operation", ["token", "start"])
def test_a_task_killed_before_its_message_sends_it_once_in_the_next_try(airflow, org, figures, operation):
    hold = org.hold(operation)
    run = airflow.trigger("talk")
    hold.wait_until_held(180)
    figures.kind, figures.at = "SIGKILL", kill(run.runner("talk"))
    hold.release()
    assert run.wait() == "success"

    assert run.task("talk")["try_number"] == 2
    assert (org.count("send"), org.applied("first"), org.applied("second")) == (2, 1, 1)
    left = org.open_sessions
    if operation == "token":
        assert left == []
    else:
        # The org opened a session for a task that was gone before it could learn its id. Nobody can end it,
        # but the next try tells the key under which the org's event log shows it.
        (session,) = left
        assert org.sessions[session].applied == 0
        assert org.sessions[session].external_session_key in run.log("talk", 2)
