"""These tests start a whole Airflow, so they run only when asked for: by name, or by a variable."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from real_airflow import RealAirflow, kill, left_out, running, until

HERE = Path(__file__).resolve().parent
DAG_IDS = {
    "batch",
    "batch_deferred",
    "talk",
    "talk_in_steps",
    "talk_recorded",
    "talk_stopping",
    "talk_in_time",
    "talk_traced",
    "shared",
    "shared_recorded",
    "shared_resend",
    "shared_started",
    "shared_stopping",
    "person",
    "person_too_late",
    "talk_asks",
    "talk_asks_in_time",
    "talk_asks_twice",
    "talk_asks_stopping",
    *("talk_decided", "talk_decided_in_time", "talk_decided_stopping"),
    "talk_checks_later",
    "talk_looks",
    "shared_asks",
    "batch_asks",
    *("one_slot_asks", "one_slot_looks", "one_slot_batch"),
    "agent_tests",
    *("records", "records_written", "agent_published"),
    *(
        ("llm_asks", "llm_asks_in_time", "llm_talks", "llm_talks_in_time")
        if sys.version_info >= (3, 11)
        else ()
    ),
}
# Messages that have the agent ask a person, or hand over to one; it asks in words that are no template.
TYPES = {"needs_input": "Inquire", "needs_confirmation": "Confirm", "escalated": "Escalate"}
_ROWS = pytest.StashKey[list]()


def pytest_ignore_collect(collection_path, config):
    return left_out(HERE, "AGENTFORCE_PROCESS_TESTS", collection_path, config)


@pytest.fixture(scope="session")
def org_server():
    from airflow_provider_agentforce.emulator import Emulator  # noqa: PLC0415

    def says(turn):
        kind = TYPES.get(turn.text)
        return (
            {"type": kind, "text": "Please give me {{ 7 * 7 }} numbers."}
            if kind
            else f"You said: {turn.text}"
        )

    with Emulator(script=says) as server:
        yield server


@pytest.fixture(scope="session")
def gates_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gates")


@pytest.fixture(scope="session")
def airflow(org_server, gates_folder, tmp_path_factory):
    """Airflow with LocalExecutor, whose org is the emulator in this process."""
    home = tmp_path_factory.mktemp("airflow")
    environment = {
        "AIRFLOW_CONN_AGENTFORCE_DEFAULT": org_server.connection(),
        "AIRFLOW_CONN_LLM": '{"conn_type": "pydanticai", "extra": {"model": "test"}}',
        "AGENTFORCE_GATES": str(gates_folder),
    }
    with running(RealAirflow(home, HERE / "dags", environment), DAG_IDS) as started:
        yield started


@pytest.fixture
def org(org_server, airflow):
    """The org, empty. Afterwards no fault may be left over, and no task be running."""
    org_server.reset()
    yield org_server
    unused = org_server.unused_faults()
    org_server.reset()
    until("all tasks have ended", lambda: not airflow.task_runners())
    assert not unused


@pytest.fixture
def gates(gates_folder):
    """Where the Dags stop: ``wait_for`` a task to be there, ``open`` to let it and the next try pass.

    ``forget`` that one was there, to wait for another.
    """
    shutil.rmtree(gates_folder)
    gates_folder.mkdir()
    yield SimpleNamespace(
        wait_for=lambda name: until(f"the gate {name}", (gates_folder / f"{name}.reached").exists),
        open=lambda name: (gates_folder / f"{name}.open").touch(),
        forget=lambda name: (gates_folder / f"{name}.reached").unlink(),
    )
    for name in ("recorded", "between", "intended", "answered", "asking"):
        (gates_folder / f"{name}.open").touch()


@pytest.fixture
def figures(org, request):
    """What a test counts for the table that is printed at the end.

    ``kind`` is how the task was ended, ``at`` when; ``again``: a person asked for the messages again.
    """
    noted = SimpleNamespace(kind="none", at=None, again=False)
    yield noted
    texts = {turn.text for session in org.sessions.values() for turn in session.turns}
    done = [one.at for one in org.requests if one.operation == "end" and one.status == 200]
    after = [at - noted.at for at in done if noted.at and at >= noted.at]
    row = SimpleNamespace(
        name=request.node.name,
        kind=noted.kind,
        applied=org.applied(),
        duplicates=0 if noted.again else org.applied() - len(texts),
        left_open=len(org.open_sessions),
        seconds=min(after, default=None),
    )
    request.config.stash.setdefault(_ROWS, []).append(row)


@pytest.fixture
def killed_while_asking(airflow, gates, figures):
    """Kill a task while it asks a person, who answers before or after that; its next try succeeds."""
    from airflow_provider_agentforce._compat import questions_change  # noqa: PLC0415 - needs Airflow

    def kill_and_answer(run, option, fields, *, early):
        gates.wait_for("asking")
        figures.kind, figures.at = "SIGKILL", kill(run.runner("talk"))
        if early:
            run.answer("talk", option, fields)
        gates.open("asking")
        airflow.start_part("triggerer")
        try:
            if not early:
                # From 3.4 on, each try has its own question.
                run.asked("talk", "awaiting_input" if questions_change() else "deferred")
                run.answer("talk", option, fields)
            assert run.wait() == "success", run.log("talk", 2)
        finally:
            airflow.stop_part("triggerer")
        assert run.task("talk")["try_number"] == 2

    return kill_and_answer


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(_ROWS, [])
    if not rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("what happened to the messages")
    write(f"{'how it ended':<17}{'applied':>8}{'twice':>7}{'left open':>11}{'s to DELETE':>13}  test")
    for row in rows:
        seconds = "-" if row.seconds is None else f"{row.seconds:.1f}"
        write(
            f"{row.kind:<17}{row.applied:>8}{row.duplicates:>7}{row.left_open:>11}{seconds:>13}  {row.name}"
        )
    twice, left = sum(row.duplicates for row in rows), sum(row.left_open for row in rows)
    write(f"{len(rows)} cases, {twice} messages applied twice, {left} sessions left open")
