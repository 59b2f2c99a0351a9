"""What a Dag author gets of the org's traces: lines of sessions, rows that are resolved, and clear errors."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import shutil
import threading
import time
import tracemalloc
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from airflow.sdk.io import attach, store
from fsspec.implementations.memory import MemoryFileSystem
from stand_ins import TaskInstance
from unknown_deliveries import trace

from airflow_provider_agentforce.client.trace_lookup import NO_KIND
from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceInputError,
    AgentforceRequestError,
    AgentforceTransientError,
    BatchFailedError,
    TaskStoppedError,
)
from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    SessionTraceOperator,
)

ACCOUNTS = [{"id": "A1", "name": "Acme"}, {"id": "A2", "name": "Globex"}, {"id": "A3", "name": "Initech"}]
DROPPED = {"drop": True, "after": True}
AT_ONCE = timedelta(0)


@pytest.fixture
def batch(run, make_org, tmp_path, monkeypatch):
    """Ask about three accounts in an org, with faults for the messages; give the org and the manifest."""

    def do(
        *faults,
        records=ACCOUNTS,
        message="What do you know of account {{ record.name }}?",
        settings=None,
        **arguments,
    ):
        org = make_org(**(settings or {}))
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection())
        for fault in faults:
            org.fail("send", **fault)
        arguments = {"max_concurrency": 1, **arguments}
        operator = ConversationBatchOperator(
            task_id="ask",
            records=records,
            key="id",
            message=message,
            result_path=f"file://{tmp_path}/results",
            **arguments,
        )
        done = run(operator)
        if isinstance(done.error, BatchFailedError):
            return org, done.error.manifest
        assert done.error is None
        return org, done.value

    return do


@pytest.fixture
def fetch(run):
    """Fetch traces; give the value or the error, and what is in the files."""

    def do(results, *, timeout=AT_ONCE, resume=None, kill=False, **arguments):
        operator = SessionTraceOperator(task_id="traces", results=results, timeout=timeout, **arguments)
        if resume is not None:
            operator.execute = lambda context: operator.execute_complete(context, resume)
        if kill:
            operator.on_kill()
        try:
            done = run(operator)
        except TaskDeferred as wait:
            done = SimpleNamespace(value=None, error=wait)
        if isinstance(results, dict) and "results" in results:
            done.rows = {row["key"]: row for row in read(results["results"])}
            done.traces = read(f"{results['result_path']}/traces.jsonl")
        return done

    return do


def read(uri):
    path = path_of(uri)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write(uri, values):
    path_of(uri).write_text("".join(json.dumps(value) + "\n" for value in values))


def path_of(uri):
    return Path(uri.removeprefix("file://"))


def statuses(done):
    return {key: row["status"] for key, row in done.rows.items()}


# What comes back


def test_every_session_has_a_line_with_its_actions_tokens_and_an_estimate(batch, fetch):
    org, manifest = batch()
    before = read(manifest["results"])
    done = fetch(manifest, credits_per_action=20)
    assert done.value.pop("total_tokens") > 0
    assert done.value == {
        "traces": f"{manifest['result_path']}/traces.jsonl",
        "found": 3,
        "missing": 0,
        "resolved": 0,
        "unknown": 0,
        "actions": 3,
        "credits": 60,
    }
    assert [line["session_id"] for line in done.traces] == list(org.sessions)
    for line in done.traces:
        assert line["complete"] is True
        assert line["agent"] == "Service_Agent"
        assert line["actions"] == [{"name": "Get_Account", "success": True, "duration": 0.412}]
        assert (line["credits"], line["messages"], line["note"]) == (20, 1, None)
    assert list(done.rows.values()) == before
    assert (org.count("session_trace"), org.count("send")) == (3, 3)


def test_an_unknown_row_gets_its_answer_back_and_one_that_never_arrived_stays_unknown(batch, fetch):
    # The first reply is lost after the agent acted, the second message is lost before.
    org, manifest = batch(DROPPED, {"drop": True})
    assert manifest["counts"] == {"answered": 1, "unknown": 2}
    done = fetch(manifest)
    assert statuses(done) == {"A1": "answered", "A2": "unknown", "A3": "answered"}
    row = done.rows["A1"]
    [turn] = org.sessions[row["session_id"]].turns
    assert row["text"] == turn.messages[0]["message"]
    assert (row["outcome"], row["sequence_id"], row["applied"], row["error"]) == ("answered", 1, True, None)
    assert row["resolution"]["at"].endswith("+00:00")
    assert row["resolution"] == {
        "by": "trace",
        "acted": True,
        "answer": "recovered",
        "user": None,
        "at": row["resolution"]["at"],
        "note": f"The message is in the org's trace of its session. {NO_KIND}",
    }
    assert done.rows["A2"]["applied"] is None
    assert done.rows["A2"]["resolution"] is None
    assert {name: done.value[name] for name in ("found", "missing", "resolved", "unknown")} == {
        "found": 2,
        "missing": 1,
        "resolved": 1,
        "unknown": 1,
    }
    # Nothing was sent, and a second run finds the same.
    assert org.applied() == 2
    again = fetch(manifest)
    assert (again.value, again.rows) == (done.value, done.rows)


def test_the_tables_of_the_batch_are_made_again_when_a_row_is_resolved(batch, fetch):
    formats = ["csv", *(["parquet"] if find_spec("pyarrow") else [])]
    _, manifest = batch(DROPPED, output_formats=formats, csv_bom=True)

    def first():
        table = path_of(manifest["tables"]["csv"]).read_text(encoding="utf-8-sig")
        return next(csv.DictReader(io.StringIO(table, newline="")))

    before = first()
    assert (before["name"], before["status"], before["text"]) == ("Acme", "unknown", "")
    done = fetch(manifest)
    after = first()
    assert list(after) == list(before)
    assert (after["name"], after["status"], after["text"]) == ("Acme", "answered", done.rows["A1"]["text"])
    if "parquet" in formats:
        parquet = import_module("pyarrow.parquet").read_table(path_of(manifest["tables"]["parquet"]))
        assert parquet.to_pylist()[0]["text"] == after["text"]


def test_without_its_ledger_a_batch_keeps_the_tables_that_it_has(batch, fetch, caplog):
    _, manifest = batch(DROPPED)
    shutil.rmtree(path_of(manifest["result_path"]) / "_ledger")
    done = fetch(manifest)
    assert statuses(done)["A1"] == "answered"
    assert "tables of the batch are not updated" in caplog.text


def test_a_message_without_its_answer_has_lost_it_when_the_time_is_over(batch, fetch):
    org, manifest = batch(DROPPED, settings={"trace_delay": 3600})
    for session in org.sessions.values():
        session.started_at -= 4000
        session.turns[0].at -= 4000
    done = fetch(manifest)
    row = done.rows["A1"]
    assert (row["status"], row["outcome"], row["text"], row["applied"]) == (
        *("answer_lost", "answer_lost", ""),
        True,
    )
    assert row["resolution"]["answer"] == "lost"
    assert done.value["resolved"] == 1
    assert [line["complete"] for line in done.traces] == [False] * 3


@pytest.mark.parametrize("then", [404, 503])
def test_a_message_that_a_trace_has_shown_stays_delivered(batch, fetch, then):
    question = "What do you know of account Acme?"
    org, manifest = batch(DROPPED, settings={"trace_delay": 3600}, on_unknown_delivery="fail")
    org.fail("session_trace", status=200, body=trace(question), content_type="application/json", times=3)
    waits = fetch(manifest, timeout=timedelta(hours=1), deferrable=True)
    assert isinstance(waits.error, TaskDeferred)
    row = waits.rows["A1"]
    assert (row["status"], row["applied"], row["resolution"]["answer"]) == ("unknown", True, None)
    # A batch that goes on now does not send it again.
    batch_of = {"records": ACCOUNTS, "key": "id", "message": "What do you know of account {{ record.name }}?"}
    again = ConversationBatchOperator(
        task_id="ask", result_path=manifest["result_path"], on_unknown_delivery="resend", **batch_of
    )
    assert again.execute({"ti": TaskInstance(2, 3)})["counts"] == {"answered": 2, "unknown": 1}
    # The trace never comes back.
    if then == 503:
        org.fail("session_trace", status=then)
    over = {**waits.error.trigger.event, "end_time": time.time()}
    done = fetch(manifest, deferrable=True, resume=over)
    row = done.rows["A1"]
    assert (row["status"], row["resolution"]["answer"]) == ("answer_lost", "lost")
    assert (done.value["resolved"], done.value["unknown"], org.applied(question)) == (1, 0, 1)


def test_in_a_conversation_of_several_messages_the_right_one_is_found(batch, fetch, make_org):
    # The same text twice: the second reply of the first record is lost.
    org, manifest = batch({"delay": 0.0}, DROPPED, message=["again", "again"])
    done = fetch(manifest)
    row = done.rows["A1"]
    first, second = org.sessions[row["session_id"]].turns
    assert (row["status"], row["sequence_id"]) == ("answered", 2)
    assert row["text"] == second.messages[0]["message"]
    assert row["earlier_answers"] == [first.messages[0]["message"]]


def test_the_second_of_two_that_are_the_same_may_not_have_arrived(batch, fetch):
    _, manifest = batch({"delay": 0.0}, {"drop": True}, message=["again", "again"])
    assert statuses(fetch(manifest))["A1"] == "unknown"


def test_in_a_shared_session_the_message_of_the_record_is_found(batch, fetch):
    # Rows and traces name milliseconds: the two messages must not begin in the same one.
    org, manifest = batch({"delay": 0.01}, DROPPED, message="the same", messages_per_session=3)
    done = fetch(manifest)
    row = done.rows["A2"]
    assert row["session_id"] == done.rows["A1"]["session_id"]
    assert (row["status"], row["sequence_id"]) == ("answered", 2)
    assert len(org.sessions[row["session_id"]].turns) == 2


@pytest.mark.parametrize(("fault", "status"), [(DROPPED, "answered"), ({"drop": True}, "unknown")])
def test_a_message_that_was_not_kept_is_found_by_its_place(batch, fetch, fault, status):
    _, manifest = batch(fault, store_requests=False)
    assert statuses(fetch(manifest))["A1"] == status


def test_a_row_without_a_session_stays_unknown(batch, fetch):
    _, manifest = batch()
    rows = read(manifest["results"])
    rows[0].update(status="unknown", session_id=None, request=None)
    write(manifest["results"], rows)
    done = fetch(manifest)
    assert statuses(done)["A1"] == "unknown"
    assert (done.value["found"], done.value["unknown"]) == (2, 1)


def test_the_sessions_of_conversations_are_found_without_a_folder(fetch, run, org):
    task = ConversationOperator(task_id="talk", messages=["order 1", "order 2"])
    talks = [run(task).value for _ in range(2)]
    done = fetch(talks)
    assert (done.value["traces"], done.value["found"], done.value["actions"]) == (None, 2, 4)
    assert [line["session_id"] for line in done.value["sessions"]] == [one["session_id"] for one in talks]
    assert fetch(talks[0]).value["found"] == 1
    assert fetch(talks[0]["turns"]).value["found"] == 1


def test_a_store_that_empties_a_file_before_it_is_written_loses_no_row(run, org, monkeypatch):
    monkeypatch.setattr(store, "_STORE_CACHE", {})
    attach(protocol="memory", conn_id="the_store", fs=MemoryFileSystem())
    org.fail("send", **DROPPED)
    folder = f"memory://the_store@bucket/{time.time_ns()}"
    arguments = {"records": ACCOUNTS, "key": "id", "message": "hello", "max_concurrency": 1}
    ask = ConversationBatchOperator(task_id="ask", result_path=folder, **arguments)
    manifest = run(ask).value
    done = run(SessionTraceOperator(task_id="traces", results=manifest, timeout=AT_ONCE))
    assert (done.value["found"], done.value["resolved"]) == (3, 1)
    lines = {
        name: ObjectStoragePath(uri).read_text().splitlines()
        for name, uri in (("rows", manifest["results"]), ("traces", done.value["traces"]))
    }
    assert {name: len(found) for name, found in lines.items()} == {"rows": 3, "traces": 3}
    assert [json.loads(line)["status"] for line in lines["rows"]] == ["answered"] * 3


# Waiting


def test_it_looks_until_every_trace_is_complete(batch, fetch):
    org, manifest = batch(DROPPED)
    org.fail("session_trace", status=404)
    done = fetch(manifest, timeout=timedelta(seconds=30), deferrable=False)
    assert statuses(done) == dict.fromkeys(("A1", "A2", "A3"), "answered")
    assert (done.value["found"], done.value["resolved"]) == (3, 1)
    assert org.count("session_trace") > 3


@pytest.mark.parametrize("lost", ["Trigger timeout", "Trigger failure"])
def test_it_looks_on_when_the_trigger_is_lost(batch, tmp_path, lost):
    batch(DROPPED)
    results = {"result_path": f"file://{tmp_path}/results"}
    operator = SessionTraceOperator(task_id="fetch", results=results, deferrable=True)
    found = operator.resume_execution("__fail__", {"error": lost}, {})
    assert (found["found"], found["missing"]) == (3, 0)


def test_it_waits_without_a_worker_slot_and_goes_on_where_it_was(batch, fetch):
    org, manifest = batch(DROPPED, settings={"trace_delay": 3600})
    first = fetch(manifest, timeout=timedelta(minutes=30), deferrable=True)
    assert isinstance(first.error, TaskDeferred)
    assert first.error.method_name == "execute_complete"
    trigger = first.error.trigger
    assert 25 < trigger.until - time.time() <= 30
    path, arguments = trigger.serialize()
    assert path == "airflow_provider_agentforce.triggers.pause.PauseTrigger"
    assert json.loads(json.dumps(arguments)) == arguments
    # One trace has come meanwhile; it is not asked for again.
    [known, *_] = org.sessions.values()
    known.started_at -= 8000
    known.turns[0].at -= 8000
    second = fetch(manifest, deferrable=True, resume=trigger.event)
    assert isinstance(second.error, TaskDeferred)
    assert 55 < second.error.trigger.until - time.time() <= 60
    assert statuses(second)["A1"] == "answered"
    before = org.count("session_trace")
    over = {**second.error.trigger.event, "end_time": time.time()}
    done = fetch(manifest, deferrable=True, resume=over)
    assert org.count("session_trace") - before == 2
    assert (done.value["found"], done.value["missing"], done.value["resolved"]) == (1, 2, 1)


def test_the_pause_gives_back_what_it_was_given():
    from airflow_provider_agentforce.triggers.pause import PauseTrigger  # noqa: PLC0415

    async def events():
        trigger = PauseTrigger(until=time.time() + 0.05, event={"end_time": 7.5, "pause": 30.0})
        return [event.payload async for event in trigger.run()]

    assert asyncio.run(events()) == [{"end_time": 7.5, "pause": 30.0}]


def test_a_kill_ends_a_wait_and_a_call(batch, fetch):
    org, manifest = batch(settings={"trace_delay": 3600})
    waiting = fetch(manifest, timeout=timedelta(hours=1), deferrable=False, kill=True)
    assert isinstance(waiting.error, TaskStoppedError)
    operator = SessionTraceOperator(task_id="traces", results=manifest)
    ended = threading.Event()

    def execute():
        with pytest.raises(TaskStoppedError):
            operator.execute({})
        ended.set()

    org.sessions[next(iter(org.sessions))].started_at -= 4000
    with org.hold("session_trace") as hold:
        thread = threading.Thread(target=execute)
        thread.start()
        hold.wait_until_held(30)
        operator.on_kill()
        thread.join()
    assert ended.is_set()


# What cannot be


@pytest.mark.parametrize(
    ("tracing", "kind", "words"),
    [
        ("no_dataspace", AgentforceRequestError, "No data space is chosen"),
        ("no_feedback", AgentforceRequestError, "Switch on Audit and Feedback"),
        ("forbidden", AgentforceAuthError, "Agentforce Session Tracing"),
    ],
)
def test_an_org_that_keeps_no_traces_fails_the_task_at_once(batch, fetch, tracing, kind, words):
    _, manifest = batch(settings={"session_tracing": tracing}, max_concurrency=3)
    error = fetch(manifest, timeout=timedelta(hours=1)).error
    assert isinstance(error, kind)
    assert isinstance(error, AirflowFailException)
    assert words in str(error)


def test_traces_that_never_come_are_missing_and_the_log_says_what_to_look_at(batch, fetch, caplog):
    _, manifest = batch(DROPPED, settings={"session_tracing": "missing"})
    done = fetch(manifest)
    assert (done.value["found"], done.value["missing"], done.value["unknown"]) == (0, 3, 1)
    assert all("HTTP 404" in line["note"] for line in done.traces)
    assert "3 sessions have no trace" in caplog.text
    assert "Setup > Einstein Audit" in caplog.text


def test_a_trace_that_cannot_be_read_leaves_the_others_alone(batch, fetch):
    org, manifest = batch(max_concurrency=1)
    org.fail("session_trace", body="x" * (17 * 1024 * 1024))
    done = fetch(manifest)
    assert sorted(line["found"] for line in done.traces) == [False, True, True]
    assert "longer than 16 MiB" in str([line["note"] for line in done.traces])


def test_many_long_answers_need_the_memory_of_a_few(batch, run, tmp_path):
    long = {"script": lambda _: "x" * 300_000}

    def peak(number):
        shutil.rmtree(tmp_path / "results", ignore_errors=True)
        records = [{"id": f"A{place}", "name": "Acme"} for place in range(number)]
        lost = {**DROPPED, "times": number}
        _, manifest = batch(lost, records=records, settings=long)
        tracemalloc.start()
        try:
            done = run(SessionTraceOperator(task_id="traces", results=manifest, timeout=AT_ONCE))
            return done.value["resolved"], tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    (few, least), (many, most) = peak(20), peak(80)
    assert (few, many) == (20, 80)
    assert most - least < 9_000_000  # and not 60 times 300 kB


def test_an_org_that_is_away_for_all_of_the_time_is_left_to_a_retry(batch, fetch):
    org, manifest = batch()
    org.fail("session_trace", status=503, times=9)
    error = fetch(manifest).error
    assert isinstance(error, AgentforceTransientError)
    assert not isinstance(error, AirflowFailException)
    assert fetch(manifest).value["found"] == 3


def test_what_an_earlier_run_has_found_stays_when_the_org_has_it_no_more(batch, fetch):
    org, manifest = batch(settings={"trace_without": "nothing"})
    done = fetch(manifest)
    lines = done.traces
    assert lines[0]["found"]
    lines[0]["complete"] = False
    write(f"{manifest['result_path']}/traces.jsonl", lines)
    for session in org.sessions.values():
        session.started_at -= 73 * 3600
    assert fetch(manifest).traces == lines


def test_results_that_are_no_rows_are_refused(batch, fetch, tmp_path):
    _, manifest = batch()
    (tmp_path / "results" / "results.jsonl").write_text('"a text"\n')
    error = fetch({"result_path": manifest["result_path"]}).error
    assert isinstance(error, AgentforceInputError)
    assert "line 1 of" in str(error)
    (tmp_path / "results" / "results.jsonl").unlink()
    assert "does not exist" in str(fetch(manifest).error)


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (None, "results"),
        ([], "left no session"),
        ("text", "results must be"),
        ({}, "no session_id"),
        ([{"result_path": "file:///x"}], "expand(results=ask.output)"),
        ({"result_path": "nowhere://x"}, "cannot be used"),
    ],
)
def test_what_names_no_session_is_refused(run, org, results, words):
    operator = SessionTraceOperator(task_id="traces", results={"session_id": "abc"}, timeout=AT_ONCE)
    operator.results = results  # as Airflow renders it
    error = run(operator).error
    assert isinstance(error, AgentforceInputError)
    assert words in str(error)


@pytest.mark.parametrize(
    "arguments",
    [
        *({"timeout": one} for one in (30, None, timedelta(seconds=-1))),
        *({"credits_per_action": one} for one in (-1, "20", True, float("nan"), float("inf"))),
        {"time_out": AT_ONCE},
    ],
)
def test_arguments_that_cannot_be_right_are_refused_when_the_dag_is_parsed(arguments):
    with pytest.raises(AgentforceInputError, match=next(iter(arguments))):
        SessionTraceOperator(task_id="traces", results={"session_id": "abc"}, **arguments)


def test_a_task_in_the_place_of_its_output_is_refused():
    task = ConversationOperator(task_id="talk", messages=["hi"])
    with pytest.raises(AgentforceInputError, match=r"results is a task; give its output: talk\.output"):
        SessionTraceOperator(task_id="traces", results=task)


def test_whether_it_is_deferrable_is_airflows_setting_unless_it_says_so_itself(monkeypatch):
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "True")
    assert SessionTraceOperator(task_id="traces", results={"session_id": "abc"}).deferrable
    assert not SessionTraceOperator(
        task_id="traces", results={"session_id": "abc"}, deferrable=False
    ).deferrable
