"""What the log of a task says at its end, and how long its traceback is."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from airflow_provider_agentforce._compat import has_pages
from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
)

PACKAGE = "airflow_provider_agentforce"
TESTS = Path(__file__).resolve().parents[1]
CANARY = "canary/secret+42 %"


# An entry of Airflow's log in a shell, of version 3 and 2. Its other lines are indented.
LINE = re.compile(
    r"^\S+ \[(\w+) *\] (.*?(?:\n    .*?)*?)(?: +\[[\w.]+\] loc=\S+)?$(?!\n    )"
    r"|(ERROR|WARNING|INFO) - (.*(?:\n    .*)*)$",
    re.MULTILINE,
)
# As many characters as Airflow's page shows of a line in a window of 1,280 pixels.
SHOWN = 84
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def logged(run, capfd):
    """Run an operator, and give what ``run`` gives, and what its log says to people."""

    def execute(operator, **options):
        capfd.readouterr()
        done = run(operator, **options)
        done.log = ANSI.sub("", "".join(capfd.readouterr()))
        found = [(one[0].upper() or one[2], one[1] or one[3]) for one in LINE.findall(done.log)]
        done.entries = [text for _, text in found]
        lines = [(level, re.sub(r"\n +", " ", text)) for level, text in found]
        done.errors = [text for level, text in lines if level == "ERROR"]
        # Airflow warns of a test that calls execute() itself.
        warnings = [text for level, text in lines if level == "WARNING"]
        done.warnings = [text for text in warnings if "outside of the Task Runner" not in text]
        return done

    return execute


def frames_of_ours(error):
    """Return the frames of this package in all that Python shows of an error."""
    shown = traceback.TracebackException.from_exception(error)
    found = []
    while shown is not None:
        found += [frame.name for frame in shown.stack if f"/{PACKAGE}/" in frame.filename]
        shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)
    return found


OPERATORS = {
    "start": lambda: StartSessionOperator(task_id="t"),
    "send": lambda: SendMessageOperator(task_id="t", text="hi", session_id="s-1", sequence_id=0),
    "end": lambda: EndSessionOperator(task_id="t", session_id="s-1"),
    "conversation": lambda: ConversationOperator(task_id="t", messages=["hi"]),
}


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_an_error_is_two_lines_and_three_frames(org, logged, name):
    org.fail("token", error="no_run_as_user")
    done = logged(OPERATORS[name]())
    address = org.url.removeprefix("http://")
    fact, remedy = done.errors
    assert fact.startswith("Getting an access token failed: HTTP 400: invalid_grant: no client credentials")
    assert f"[host {address}, org {org.url}" in fact
    assert remedy.startswith("What to do: Set a Run As user")
    assert len(frames_of_ours(done.error)) <= 3
    assert "execute" in frames_of_ours(done.error)


def test_what_to_do_is_not_cut_off_at_the_edge_of_the_page(org, logged):
    org.fail("send", status=503)
    done = logged(ConversationOperator(task_id="t", agent_id="Service_Agent", messages=["hi"]))
    (remedy,) = [text for text in done.entries if text.startswith("What to do")]
    (fact,) = [text for text in done.entries if text.startswith("Sending the message failed")]
    assert len(remedy.splitlines()) > 2
    assert [line for line in (*remedy.splitlines(), *fact.splitlines()[1:]) if len(line) > SHOWN] == []
    (session,) = org.sessions
    assert f"session {session}" in fact


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"conn_type": "http"}, "Choose the type Salesforce Agentforce for it"),
        ({"host": "https://login.salesforce.com"}, "Correct the connection."),
        ({"password": None}, "Correct the connection."),
        ({"schema": "x"}, "Leave it empty."),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_error_of_the_connection_says_how_to_check_it(org, logged, monkeypatch, fields, remedy):
    connection = json.dumps({**json.loads(org.connection()), **fields})
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", connection)
    fact, told = logged(OPERATORS["start"]()).errors
    assert fact.startswith("Connection agentforce_default: ")
    assert told.startswith(f"What to do: {remedy}")
    assert told.endswith("Then check it: python -m airflow_provider_agentforce check agentforce_default.")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConversationOperator(task_id="t", messages=lambda turns: 7),
        lambda: ConversationBatchOperator(
            task_id="t", records=list, message=lambda record: "x", result_path="file:///dev/null/x"
        ),
        lambda: SendMessageOperator(task_id="t", text="hi", session_id="s-1", sequence_id=100),
    ],
    ids=["messages", "result_path", "limit"],
)
def test_an_argument_that_is_wrong_is_two_lines_too(org, logged, make):
    errors = logged(make()).errors
    assert len(errors) == 2
    assert errors[1].startswith("What to do: ")


def test_nothing_is_told_twice_of_an_agent_that_is_not_there(org, logged):
    for agent in ("Nobody", "Inactive_Agent"):
        done = logged(ConversationOperator(task_id="t", agent_id=agent, messages=["hi"]))
        assert len([text for text in done.entries if f"agent {agent}" in text or agent in text]) == 1


def test_the_log_begins_with_the_page_of_the_task(org, logged, monkeypatch):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/af")
    for make in (
        lambda: ConversationOperator(task_id="t", messages=["order 7?"]),
        lambda: StartSessionOperator(task_id="t", agentforce_conn_id="typo"),
    ):
        done = logged(make())
        told = [text for text in done.entries if text.startswith("Messages, answers and their state: ")]
        if has_pages():
            assert len(told) == 1
            assert "https://airflow.example/af/agentforce/?dag_id=" in told[0]
        else:
            assert told == []


def test_an_error_names_agent_session_and_request(org, logged):
    org.fail("send", status=503)
    done = logged(ConversationOperator(task_id="t", agent_id="Service_Agent", messages=["hi"]))
    (session,) = org.sessions.values()
    fact = done.errors[0]
    assert f"agent Service_Agent ({org.agent_id})" in fact
    assert f"session {session.session_id}, request " in fact
    assert "Whether the agent acted cannot be known." in fact
    assert len(frames_of_ours(done.error)) <= 3


def test_a_host_that_is_not_there_is_named_with_its_port(logged, org, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    connection = json.dumps({**json.loads(org.connection()), "host": f"http://127.0.0.1:{port}"})
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", connection)
    done = logged(OPERATORS["start"]())
    assert f"host 127.0.0.1:{port}" in done.errors[0]
    assert len(frames_of_ours(done.error)) <= 3


def test_a_connection_that_is_missing_is_told_without_an_org(logged):
    done = logged(StartSessionOperator(task_id="t", agentforce_conn_id="typo"))
    fact, remedy = done.errors
    assert fact == "Connection typo: it does not exist."
    assert remedy == (
        "What to do: Create it under Admin > Connections, or give the id of another one. Then check it: "
        "python -m airflow_provider_agentforce check typo."
    )
    assert len(frames_of_ours(done.error)) <= 3


def test_the_whole_traceback_is_at_debug(org):
    org.fail("token", error="no_run_as_user", times=2)
    code = (
        "from airflow_provider_agentforce.operators import StartSessionOperator\n"
        "from stand_ins import TaskInstance\n"
        "StartSessionOperator(task_id='t').execute({'ti': TaskInstance()})"
    )
    frames = {}
    for level in ("INFO", "DEBUG"):
        env = {**os.environ, "AIRFLOW__LOGGING__LOGGING_LEVEL": level}
        env["PYTHONPATH"] = os.pathsep.join([env.get("PYTHONPATH", ""), str(TESTS)])
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
        )
        assert len(re.findall(f'File ".*/{PACKAGE}/', done.stderr)) <= 3
        frames[level] = len(re.findall(f"{PACKAGE}/client/", done.stdout))
    assert frames["INFO"] == 0
    assert frames["DEBUG"] > 3


def test_a_cause_keeps_the_frames_that_are_not_ours(org, logged):
    def decide(turns):
        return int("no number")

    done = logged(ConversationOperator(task_id="t", messages=decide))
    assert isinstance(done.error, ValueError)
    assert done.errors == []

    def late(turns):
        return decide(turns) if turns else "order 7?"

    done = logged(ConversationOperator(task_id="t", messages=late))
    assert isinstance(done.error.__cause__, ValueError)
    assert "decide" in [frame.name for frame in traceback.extract_tb(done.error.__cause__.__traceback__)]
    assert len(frames_of_ours(done.error)) <= 3
    assert done.errors[0].startswith("ValueError after the answer to message 1.")


def test_no_secret_is_in_the_log(org, logged, monkeypatch):
    connection = json.dumps({**json.loads(org.connection()), "password": CANARY})
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", connection)
    done = logged(OPERATORS["start"]())
    assert len(done.errors) == 2
    assert "canary" not in done.log


def test_a_batch_that_fails_is_told_too(org, logged, tmp_path):
    records = [{"id": 1}, {"id": 2}]
    done = logged(
        ConversationBatchOperator(
            task_id="t", records=records, message="{{ record.name }}", result_path=f"file://{tmp_path}/out"
        )
    )
    assert done.errors[0].startswith("2 of 2 records failed")
    assert done.errors[1].startswith("What to do: Clearing the task asks about 2 records")
    assert f"org {org.url}, agent {org.agent_id}]" in done.errors[0]
    assert len(frames_of_ours(done.error)) <= 3


class TestAnOpenQuestion:
    def test_of_a_conversation_or_a_send_is_a_warning(self, org, logged, run):
        started = run(StartSessionOperator(task_id="start")).value
        for operator in (
            ConversationOperator(task_id="t", messages=["please refund order 7"]),
            SendMessageOperator(task_id="t", text="please refund order 7", session=started),
        ):
            done = logged(operator)
            assert done.value["outcome"] == "needs_confirmation"
            fact, remedy = done.warnings
            assert fact.startswith("The outcome is needs_confirmation: the agent waits for an answer")
            assert remedy.startswith("What to do: Answer")

    def test_of_a_batch_is_counted(self, org, logged, tmp_path):
        done = logged(
            ConversationBatchOperator(
                task_id="t",
                records=[{"n": 1}, {"n": 2}],
                message="please refund order {{ record.n }}",
                result_path=f"file://{tmp_path}/out",
            )
        )
        assert done.value["counts"] == {"needs_confirmation": 2}
        assert done.warnings[0].startswith("2 records end with a question")

    def test_that_is_answered_is_none(self, org, logged):
        done = logged(ConversationOperator(task_id="t", messages=["order 7?"]))
        assert (done.errors, done.warnings) == ([], [])


def test_a_subclass_that_handles_the_error_has_no_error_in_its_log(org, logged):
    class Lenient(StartSessionOperator):
        def execute(self, context):
            try:
                return super().execute(context)
            except Exception:  # noqa: BLE001 - whatever it is
                return {}

    org.fail("token", error="no_run_as_user")
    done = logged(Lenient(task_id="t"))
    assert (done.value, done.errors) == ({}, [])


def test_the_progress_lines_of_a_batch_add_up(org, run, tmp_path, caplog):
    caplog.set_level("INFO")
    records = [{"n": n, **({"text": "order 7?"} if n % 3 else {})} for n in range(12)]
    run(
        ConversationBatchOperator(
            task_id="t", records=records, message="{{ record.text }}", result_path=f"file://{tmp_path}/out"
        )
    )
    lines = [line for line in caplog.messages if " of 12 records (" in line]
    assert lines[-1].startswith("12 of 12 records (100%: 8 answered + 4 failed), ")
    assert "left" not in lines[-1]
