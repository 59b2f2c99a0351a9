"""Whole Dag runs in a real Airflow: rendering, XCom, setups and teardowns, and the org's side of it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from pathlib import Path

import pytest
from airflow_commands import start

from airflow_provider_agentforce.emulator import Emulator

ROOT = Path(__file__).resolve().parents[2]
BATCH = "example_agentforce_batch"
SAMPLE = "example_agentforce_enrichment_sample"
PERSON, LLM = "example_agentforce_person", "example_agentforce_llm_agent"
LOOP = "example_agentforce_loop"  # test_borders.py runs it, where Airflow has loops
SALESFORCE, PUBLISHED = "example_agentforce_salesforce", "example_agentforce_published"
OTHERS = {BATCH, SAMPLE, PERSON, LLM, LOOP, SALESFORCE, PUBLISHED}
EXAMPLES = sorted({path.stem for path in (ROOT / "example_dags").glob("example_*.py")} - OTHERS)
LLM_CONNECTION = '{"conn_type": "pydanticai", "extra": {"model": "test"}}'
needs_common_ai = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="the Common AI provider needs Python 3.11"
)


def sent(org):
    return [
        (turn.sequence_id, turn.text, turn.applied)
        for session in org.sessions.values()
        for turn in session.turns
    ]


class RevokesTokens:
    """An agent in whose org every token is revoked while it answers."""

    def __init__(self):
        self.org = None

    def __call__(self, turn):
        self.org.revoke_tokens()
        return f"You said: {turn.text}"


@pytest.mark.parametrize(
    ("dag_id", "texts", "refused"),
    [
        # Every task of the chain gets its own token, the conversation has to replace those that are revoked.
        ("chain", ["one", "two ", "three"], 0),
        ("conversation", ["one", "two Acme"], 2),
    ],
)
def test_turns_are_applied_once_though_every_answer_revokes_the_token(dag_test, dag_id, texts, refused):
    agent = RevokesTokens()
    with Emulator(script=agent, strict_sequence=True) as org:
        agent.org = org
        status, output = dag_test(dag_id, org)
        assert status == 0, output
        assert [number for number, _, _ in sent(org)] == list(range(1, len(texts) + 1))
        for (_, text, applied), expected in zip(sent(org), texts, strict=True):
            assert text.startswith(expected)
            assert applied == 1
        assert org.open_sessions == []
        assert [request.status for request in org.requests].count(401) == refused
        assert org.consumer_secret not in output


def test_a_failed_answer_ends_the_run_without_a_retry_and_the_teardown_ends_the_session(dag_test):
    with Emulator() as org:
        status, output = dag_test("chain_that_fails", org)
        assert status != 0
        assert "AgentFailedError" in output
        assert org.count("send") == 1
        assert org.open_sessions == []


def test_a_reply_to_an_older_turn_is_refused_though_its_session_is_as_old(dag_test):
    with Emulator() as org:
        status, output = dag_test("an_older_question", org)
        assert status == 1
        assert [text for _, text, _ in sent(org)] == ["Please refund order 42.", "one"]
        assert "reply answers message 1 of session" in output
        assert "but the last one is message 2 of session" in output


def test_a_function_chooses_the_messages(dag_test):
    with Emulator() as org:
        status, output = dag_test("function", org)
        assert status == 0, output
        assert [text for _, text, _ in sent(org)] == ["message 1", "message 2", "message 3"]


def test_a_decorated_function_writes_the_messages_and_nothing_it_returns_is_rendered(dag_test):
    with Emulator(script=lambda turn: f"You said: {turn.text}") as org:
        status, output = dag_test("decorated", org)
        assert status == 0, output
        assert [text for _, text, _ in sent(org)] == ["talk of Acme and Acme: {{ 7 * 7 }}", "{{ 1 + 1 }}"]
        (session,) = org.sessions.values()
        assert (session.agent_id, session.variables) == (org.agent_id, {"$Context.A": "Acme"})
        assert org.open_sessions == []


def test_a_decorated_function_can_be_mapped_and_overridden(dag_test):
    with Emulator() as org:
        status, output = dag_test("decorated_and_mapped", org)
        assert status == 0, output
        assert sorted(text for _, text, _ in sent(org)) == ["hello one", "hello {{ 7 * 7 }}"]
        assert all(turn.stream for session in org.sessions.values() for turn in session.turns)
        assert org.open_sessions == []


def test_a_decorated_function_that_returns_no_message_ends_the_run_without_a_retry(dag_test):
    with Emulator() as org:
        status, output = dag_test("decorated_with_nothing", org)
        assert status != 0
        assert "the function must return a message" in output
        assert "a second try" not in output
        assert org.requests == []


def test_mapping_gives_every_record_a_session_of_its_own(dag_test):
    with Emulator() as org:
        status, output = dag_test("mapped", org)
        assert status == 0, output
        assert sorted(text for _, text, _ in sent(org)) == ["one", "three", "two"]
        assert len({session.external_session_key for session in org.sessions.values()}) == 3
        assert org.open_sessions == []


def test_a_type_reaches_tasks_and_mapped_tasks_and_its_value_the_next_ones(dag_test):
    with Emulator() as org:
        status, output = dag_test("structured", org)
        assert status == 0, output
        assert org.count("send") == 3
        assert org.open_sessions == []


def test_an_answer_is_never_rendered_as_a_template(dag_test):
    with Emulator(script=lambda _turn: "{{ 7 * 7 }}") as org:
        status, output = dag_test("answer_with_a_template", org)
        assert status == 0, output
        assert [text for _, text, _ in sent(org)] == ["say template", "{{ 7 * 7 }}", "{{ 7 * 7 }}"]


@pytest.mark.parametrize("dag_id", ["batches", "batches_native"])
def test_records_reach_a_batch_from_everywhere_and_are_never_rendered(dag_test, dag_id):
    with Emulator() as org:
        status, output = dag_test(dag_id, org)
        assert status == 0, output
        texts = sorted(text for _, text, _ in sent(org))
        batches = ["literal in literal", "xcom in xcom", "mapped 0 in mapped", "mapped 1 in mapped"]
        if dag_id == "batches":
            batches += ["file in file", "file in path", "one of many in many"]
        assert texts == sorted(
            batch.replace(" in ", f" {data} in ") for batch in batches for data in ("{{ 7 * 7 }}", "{% if %}")
        )
        assert org.open_sessions == []
        for session in org.sessions.values():
            assert session.turns[0].text.startswith(session.variables["Said"])
            assert session.variables["Run"].startswith("manual__")


def test_traces_that_come_late_are_waited_for_and_settle_what_is_unknown(dag_test):
    with Emulator() as org:
        org.fail("send", drop=True, after=True)
        org.fail("session_trace", error="rest_not_found", times=3)
        status, output = dag_test("late_traces", org)
        assert status == 0, output
        # Six traces are wanted, and each that was not there was looked for again.
        assert org.count("session_trace") >= 6 + 3
        assert {text for _, text, _ in sent(org)} == {
            *("account Acme", "account Globex", "order 1", "order 2"),
        }
        assert org.applied() == 4
        assert org.unused_faults() == []


def test_the_batch_example_adds_the_answers_to_a_csv_file_in_its_order(dag_test, tmp_path):
    with Emulator(max_concurrent_sessions=10) as org:
        status, output = dag_test(BATCH, org, ROOT / "example_dags")
        assert status == 0, output
        assert 429 not in {request.status for request in org.requests}
        assert org.open_sessions == []
    given = (ROOT / "example_dags" / "agentforce_accounts.csv").read_text().splitlines()
    enriched = (tmp_path / "agentforce_accounts_enriched.csv").read_text().splitlines()
    assert len(enriched) == len(given) == 37
    for account, row in zip(given[1:], enriched[1:], strict=True):
        name = account.split(",")[1]
        assert row.startswith(f"{account},answered,{name} is in ")


@needs_common_ai
@pytest.mark.parametrize(("dag_id", "lost"), [("llm_talks", False), ("llm_asks_a_group", True)])
def test_a_task_of_a_model_asks_an_agent_and_no_retry_asks_again(dag_test, dag_id, lost):
    with Emulator() as org, Emulator() as standby:
        if lost:
            org.fail("send", drop=True, after=True)
        connections = {
            "AIRFLOW_CONN_AGENTFORCE_STANDBY": standby.connection(),
            "AIRFLOW_CONN_LLM": LLM_CONNECTION,
        }
        status, output = dag_test(dag_id, org, Path(__file__).parent / "llm_dags", **connections)
        assert (status != 0) == lost, output
        assert ("DeliveryUnknownStop" in output) == lost
        assert (org.applied(), standby.applied()) == (1, 0)
        assert org.open_sessions == []
        assert org.consumer_secret not in output


def labels(airflow_db, dag_id):
    """Return what Airflow's pages show for each mapped task, instead of its number."""
    asked = "SELECT task_id, rendered_map_index FROM task_instance WHERE dag_id = ? AND map_index >= 0"
    with contextlib.closing(sqlite3.connect(Path(airflow_db) / "airflow.db")) as database:
        return set(database.execute(asked, [dag_id]).fetchall())


@needs_common_ai
def test_the_model_of_the_example_asks_the_agent_once(dag_command):
    with Emulator() as org:
        model = {"AIRFLOW_CONN_PYDANTICAI_DEFAULT": LLM_CONNECTION}
        status, output = dag_command(LLM, org, ROOT / "example_dags" / f"{LLM}.py", **model)
        assert status == 0, output
        assert org.applied() == 1
        assert org.open_sessions == []


@contextlib.contextmanager
def person(dag_id, words, log):
    """Have somebody answer what a Dag asks people."""
    process = start([str(ROOT / "scripts" / "person.py"), dag_id, words], {**os.environ}, log)
    try:
        yield
    finally:
        process.terminate()
        process.join()


@pytest.mark.parametrize(("decision", "questions"), [("Approve", 36 + 4), ("Reject", 6)])
def test_a_person_sees_a_sample_and_decides_about_the_rest(dag_command, tmp_path, decision, questions):
    log = tmp_path / "person.log"
    with Emulator() as org:
        with person(SAMPLE, decision, log):
            status, output = dag_command(SAMPLE, org, ROOT / "example_dags" / f"{SAMPLE}.py")
        assert status == 0, output + log.read_text()
        assert len(sent(org)) == questions
        assert len({text for _, text, _ in sent(org)}) == min(questions, 36)
        assert org.open_sessions == []
    asked = log.read_text()
    assert "Ask about 30 more accounts?" in asked
    assert "credits" in asked
    assert asked.count('"industry": ') == 6
    table = tmp_path / "agentforce_accounts_typed.csv"
    assert table.exists() == (decision == "Approve")
    if table.exists():
        header, *rows = table.read_text().splitlines()
        assert header == "id,name,country,status,result_industry,result_risk,result_employees"
        assert len(rows) == 36
        assert all(",answered," in row for row in rows)


@pytest.mark.parametrize(
    ("request_", "asked", "turns"),
    [
        ("Which case?", "Please give me the case number.", ["Which case?", "case 42"]),
        (
            "Please refund {{ 7 * 7 }}.",
            "Shall I go ahead? You asked: Please refund {{ 7 * 7 }}.",
            ["Please refund {{ 7 * 7 }}.", ""],
        ),
    ],
)
def test_a_person_reads_what_the_agent_asks_and_their_answer_is_the_next_message(
    dag_command, tmp_path, request_, asked, turns
):
    log = tmp_path / "person.log"
    with Emulator() as org:
        with person(PERSON, "case 42", log):
            status, output = dag_command(
                PERSON, org, ROOT / "example_dags" / f"{PERSON}.py", {"request": request_}
            )
        assert status == 0, output + log.read_text()
        assert [text for _, text, _ in sent(org)] == turns
        assert {turn.type for turn in next(iter(org.sessions.values())).turns} <= {"Text", "Reply"}
        assert org.open_sessions == []
    assert asked in log.read_text()


_ACCOUNTS = ("Acme", "Globex", "Initech")
# What Airflow shows in the place of the number of a mapped task.
LABELS = {
    "example_agentforce_enrichment": {
        *(("question", name) for name in _ACCOUNTS),
        *(("ask", f"What do you know of account {name}?") for name in _ACCOUNTS),
    },
    "example_agentforce_decorator": {("ask", "Acme"), ("ask", "Globex")},
}


@pytest.mark.parametrize("dag_id", EXAMPLES)
def test_an_example_runs_as_it_is(dag_test, airflow_db, dag_id, tmp_path):
    with Emulator() as org:
        status, output = dag_test(dag_id, org, ROOT / "example_dags")
        assert status == 0, output
        assert sent(org)
        assert org.open_sessions == []
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {
        "example_agentforce_report": {"agentforce_report.md"},
        "example_agentforce_enrichment": {"agentforce_accounts.jsonl"},
        "example_agentforce_session_trace": {"agentforce_actions.csv", "agentforce_session_trace"},
        "example_agentforce_tests": {
            *("agentforce_conversations", "agentforce_conversations.xml"),
            *("agentforce_org_tests.xml", "agentforce_tests"),
        },
    }.get(dag_id, set())
    assert labels(airflow_db, dag_id) == LABELS.get(dag_id, set())


def test_the_answers_about_the_org_s_accounts_are_in_their_records(dag_command, tmp_path):
    log = tmp_path / "person.log"
    with Emulator() as org:
        with person(SALESFORCE, "Approve", log):
            status, output = dag_command(SALESFORCE, org, ROOT / "example_dags" / f"{SALESFORCE}.py")
        assert status == 0, output + log.read_text()
        accounts = org.records("Account")
        assert sum(one["Agent_Checked__c"] and bool(one["Agent_Summary__c"]) for one in accounts) == 8
        assert len(sent(org)) == 8
        assert org.open_sessions == []
    assert "Ask about 6 more accounts?" in log.read_text()


def test_a_new_version_of_the_agent_is_tested(dag_test, airflow_db):
    with Emulator() as org:
        status, output = dag_test(PUBLISHED, org, ROOT / "example_dags")
        assert status == 0, output
        assert [run.definition for run in org.test_runs.values()] == ["Order_Tests"]
