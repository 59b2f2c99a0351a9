"""What a Dag author gets of a batch: rows and files, and one clear error for what cannot be used."""

from __future__ import annotations

import json
from collections import OrderedDict
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from airflow.sdk import DAG, ObjectStoragePath
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout, TaskDeferred
from airflow.sdk.io import attach, store
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import BaseModel

from airflow_provider_agentforce.batch.storage import storage_of
from airflow_provider_agentforce.client.org_state import forget_orgs
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    BatchFailedError,
    TaskStoppedError,
)
from airflow_provider_agentforce.operators import AnswerStore, ConversationBatchOperator

ARGUMENTS = {"records": [{"id": 1}], "message": "x", "result_path": "file:///results"}
ACCOUNTS = [{"id": "A1", "name": "Acme"}, {"id": "A2", "name": "Globex"}, {"id": "A3", "name": "Initech"}]
FIELDS = {
    "key",
    "status",
    "text",
    "outcome",
    "result",
    "earlier_answers",
    "request",
    "earlier_requests",
    "session_id",
    "sequence_id",
    "error",
    "applied",
    "attempts",
    "started_at",
    "duration",
    "resolution",
    "external_session_key",
    "agent_version",
    "reused_from",
    "record",
}


class Bucket(MemoryFileSystem):
    """A store that writes whole files only: no appending, no renaming."""

    cachable = False

    def __init__(self):
        super().__init__()
        self.store = {}
        self.pseudo_dirs = [""]

    def _open(self, path, mode="rb", **options):
        if mode == "xb":
            raise NotImplementedError("this store replaces files that are there")
        assert mode in {"rb", "wb"}, f"{mode}: an object store cannot append"
        if path.startswith("/misspelt"):
            raise FileNotFoundError("no bucket")
        return super()._open(path, mode=mode, **options)

    def put_file(self, lpath, rpath, **_):
        # Others also make the folder.
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def mv(self, *_, **__):
        raise AssertionError("an object store cannot rename")

    rename = move = mv


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setattr(store, "_STORE_CACHE", {})
    bucket = Bucket()
    attach(protocol="memory", conn_id="the_store", fs=bucket)
    return bucket


DEEP = []
for _ in range(100_000):
    DEEP = [DEEP]


class Pair(NamedTuple):
    one: Any
    other: Any


class Listed(list):
    pass


def reference(value):
    """Return what stands for *value*, as the output of a task."""
    return SimpleNamespace(resolve=lambda _context: value, iter_references=tuple)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def ask(run, org, folder, monkeypatch):
    """Run a batch and give its manifest, error, XComs, and rows by key."""

    def do(records=ACCOUNTS, *, context=None, task_instance=None, resume=None, kill=False, **arguments):
        arguments = {
            "key": "id",
            "message": "What do you know of account {{ record.name }}?",
            "result_path": f"file://{folder}",
            "max_concurrency": 1,
            **arguments,
        }
        operator = ConversationBatchOperator(task_id="ask", records=records, **arguments)
        if resume:
            operator.execute = getattr(operator, resume)
        if kill:
            operator.on_kill()
        try:
            done = run(operator, context, **(task_instance or {}))
        except TaskDeferred as error:
            done = SimpleNamespace(value=None, xcoms={}, error=error)
        results = folder / "results.jsonl"
        done.lines = (
            [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
        )
        done.rows = {row["key"]: row for row in done.lines}
        return done

    return do


def texts(org):
    return [turn.text for session in org.sessions.values() for turn in session.turns]


def statuses(done):
    return {key: row["status"] for key, row in done.rows.items()}


def lines_of(uri):
    with ObjectStoragePath(uri).open("rb") as file:
        return [line.decode() for line in file.read().splitlines()]


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"file://{path}"


# What comes back


def test_every_record_has_a_row_in_the_order_of_the_input_and_the_manifest_says_where(ask, org, folder):
    done = ask(max_concurrency=3)
    assert done.error is None
    assert [row["key"] for row in done.lines] == ["A1", "A2", "A3"]
    for account, row in zip(ACCOUNTS, done.lines, strict=True):
        assert set(row) == FIELDS
        assert row["record"] == account
        assert (row["status"], row["outcome"], row["applied"]) == ("answered", "answered", True)
        assert row["text"].startswith(f"{account['name']} is in ")
        assert org.sessions[row["session_id"]].turns[0].text.endswith(f"account {account['name']}?")
        assert (row["sequence_id"], row["attempts"], row["error"], row["result"]) == (1, 1, None, None)
        assert row["started_at"].endswith("+00:00")
        assert row["duration"] > 0
    duration = done.value.pop("duration")
    assert duration > 0
    assert done.value == {
        "result_path": f"file://{folder}",
        "results": f"file://{folder}/results.jsonl",
        "plan": None,
        "tables": {"csv": f"file://{folder}/results.csv", "jsonl": f"file://{folder}/results.jsonl"},
        "dead_letter": None,
        "records": 3,
        "counts": {"answered": 3},
        "sessions": 3,
        "messages": 3,
        "sample": None,
        "agreement": None,
        "resolved": 0,
        "shard": None,
        "agent_id": org.agent_id,
        "agent_version": row["agent_version"],
        "agent_versions": [row["agent_version"]],
        "reused": 0,
    }
    assert done.xcoms == {}
    assert org.open_sessions == []
    assert not list(folder.glob("dead_letter*"))


class Order(BaseModel):
    order: str
    items: int


def test_every_outcome_has_its_status(ask, org):
    words = {
        "answered": "order 4711",
        "needs_input": "which one",
        "needs_confirmation": "please refund order 4711",
        "escalated": "a human please",
        "failed": "please fail",
    }
    done = ask([{"id": status, "text": text} for status, text in words.items()], message="{{ record.text }}")
    assert statuses(done) == {status: status for status in words}
    assert {key: row["outcome"] for key, row in done.rows.items()} == {status: status for status in words}
    assert all(row["applied"] for row in done.lines)
    assert done.rows["failed"]["error"]
    assert done.value["counts"] == dict.fromkeys(words, 1)


def test_an_agent_that_ends_the_session_has_failed_the_record_if_it_gave_no_answer(ask, org):
    org.fail("send", body={"messages": [{"type": "SessionEnded", "reason": "ClientRequest"}]})
    done = ask(ACCOUNTS[:1])
    assert done.rows["A1"]["error"] == "The agent ended the session without an answer."
    assert statuses(done) == {"A1": "failed"}


def test_a_conversation_of_several_messages_keeps_the_earlier_answers(ask, org):
    done = ask(ACCOUNTS[:1], message=["Tell me of order 1.", "And of {{ record.name }}, order 2."])
    row = done.rows["A1"]
    assert row["earlier_answers"][0].startswith("Order 1 ")
    assert row["text"].startswith("Order 2 ")
    assert (row["sequence_id"], done.value["messages"], done.value["sessions"]) == (2, 2, 1)


def test_an_answer_may_have_to_fit_a_type_and_one_that_does_not_is_marked(ask, org):
    given = [{"id": "good", "text": "order 4711 as JSON"}, {"id": "bad", "text": "which one"}]
    org.fail("send", body={"messages": [{"type": "Inform", "message": '{"order": "4711", "items": 3}'}]})
    org.fail("send", body={"messages": [{"type": "Inform", "message": "no idea"}]}, times=2)
    done = ask(given, message="{{ record.text }}", output_type=Order)
    assert done.rows["good"]["result"] == {"order": "4711", "items": 3}
    assert statuses(done) == {"good": "answered", "bad": "invalid_output"}
    bad = done.rows["bad"]
    assert (bad["result"], bad["text"], bad["earlier_answers"]) == (None, "no idea", ["no idea"])
    assert bad["error"] == "The answer holds no valid JSON."
    assert len(texts(org)) == 3


def test_an_agent_with_a_custom_connection_is_told_to_answer_in_its_formats(ask, org):
    org.fail("send", body={"messages": [{"type": "Inform", "message": '{"order": "4711", "items": 3}'}]})
    assert ask(ACCOUNTS[:1], output_type=Order, surface_type="Custom").error is None
    (start,) = (
        request.body for request in org.requests if request.operation == "start" and request.status == 200
    )
    assert start["surfaceConfig"] == {"surfaceType": "Custom"}


def test_an_agent_may_be_given_by_its_name_which_is_looked_up_once(ask, org):
    assert ask(agent_id="Service_Agent").error is None
    assert {session.agent_id for session in org.sessions.values()} == {org.agent_id}
    # By its name, and its version at the beginning and at the end.
    assert org.count("query") == 3


def test_a_name_that_no_agent_has_fails_the_batch_before_its_first_record(ask, org):
    error = ask(agent_id="Nobody").error
    assert "has the API name Nobody" in str(error)
    assert isinstance(error, AirflowFailException)
    assert org.count("start") == 0


def test_without_corrective_questions_none_is_asked(ask, org):
    org.fail("send", body={"messages": [{"type": "Inform", "message": "no idea"}]})
    done = ask([*ACCOUNTS[:1], {"id": "B"}], output_type={"type": "object"}, output_retries=0)
    assert statuses(done) == {"A1": "invalid_output", "B": "failed"}
    assert len(texts(org)) == 1


def test_a_message_whose_fate_is_unknown_is_not_repeated_and_the_others_go_on(ask, org):
    org.fail("send", drop=True, after=True)
    done = ask()
    assert statuses(done) == {"A1": "unknown", "A2": "answered", "A3": "answered"}
    assert done.rows["A1"]["applied"] is None
    assert len(texts(org)) == 3
    assert done.value["dead_letter"] is None


def test_a_message_that_does_no_harm_twice_is_repeated_when_its_fate_is_unknown(ask, org):
    org.fail("send", drop=True, after=True)
    done = ask(ACCOUNTS[:1], on_unknown_delivery="resend")
    assert statuses(done) == {"A1": "answered"}
    assert done.rows["A1"]["attempts"] == 2
    assert len(texts(org)) == 2


# A dry run


def test_a_dry_run_returns_the_plan_and_asks_the_org_for_nothing(ask, org, folder):
    done = ask(
        dry_run=True,
        credits_per_message=20,
        message="{{ ds }}: {{ record.name }}",
        context={"ds": "2026-11-28"},
    )
    assert done.error is None
    assert org.requests == []
    assert (done.value["plan"], done.value["credits"]) == (f"file://{folder}/plan.json", 60)
    assert done.value["summary"].startswith("A dry run of 3 records: nothing was sent.")
    assert done.value["characters"] == sum(len(f"2026-11-28: {one['name']}") for one in ACCOUNTS)
    assert sorted(path.name for path in folder.iterdir()) == ["plan.json", "plan.txt"]


def test_a_dry_run_of_records_that_cannot_be_asked_fails_with_its_plan_as_an_xcom(ask, org):
    done = ask(dry_run=True, message="{{ record.nmae }}")
    assert isinstance(done.error, AirflowFailException)
    assert "3 of 3 records cannot be asked" in str(done.error)
    assert done.xcoms["manifest"]["failed"] == 3


# A record that cannot be asked about


def test_a_record_that_lacks_its_key_or_a_field_fails_with_the_reason_and_the_others_go_on(ask, org):
    done = ask([ACCOUNTS[0], {"name": "nameless"}, {"id": "A9"}, ACCOUNTS[2]])
    assert done.error is None
    assert [row["status"] for row in done.lines] == ["answered", "failed", "failed", "answered"]
    assert done.lines[1]["key"] is None
    assert done.lines[1]["error"] == (
        "records[1]: the field id, which names the record, is missing or empty."
    )
    assert done.lines[2]["error"].startswith("records[2]: UndefinedError: ")
    assert "'name'" in done.lines[2]["error"]
    assert [row["applied"] for row in done.lines] == [True, False, False, True]
    assert len(texts(org)) == 2
    assert lines_of(done.value["dead_letter"]) == ['{"name": "nameless"}', '{"id": "A9"}']


@pytest.mark.parametrize("shown", ["{'name': record.nmae}", "[record.nmae] | string", "(1, record.nmae)"])
def test_a_field_that_is_missing_inside_a_list_or_dict_is_not_sent(ask, org, shown):
    done = ask(message=f"Look at {{{{ {shown} }}}}")
    assert "'dict object' has no attribute 'nmae'" in str(done.error)
    assert texts(org) == []


def test_a_batch_whose_records_all_fail_fails_with_its_results_written(ask, org):
    done = ask([{"id": "A1"}, {"id": "A2"}], task_instance={"try_number": 1})
    assert isinstance(done.error, BatchFailedError)
    assert isinstance(done.error, AirflowFailException)  # a retry would fail the same way
    assert str(done.error).startswith(
        "2 of 2 records failed: 2 \u00d7 'dict object' has no attribute 'name' "
        "(first: A1; the record has: id). Results: file://"
    )
    assert statuses(done) == {"A1": "failed", "A2": "failed"}
    assert done.xcoms["manifest"]["counts"] == {"failed": 2}
    assert org.count("start") == 0


def test_a_failure_fails_the_task_when_that_is_asked_for(ask, org, folder):
    arguments = {"message": "{{ record.name }}", "fail_on_partial_error": True}
    done = ask([{"id": "A1", "name": "order 1"}, {"id": "A2", "name": "please fail"}], **arguments)
    assert isinstance(done.error, BatchFailedError)
    assert statuses(done) == {"A1": "answered", "A2": "failed"}
    assert done.xcoms["manifest"]["dead_letter"] == f"file://{folder}/dead_letter.jsonl"
    assert "1 of 2 records failed" in str(done.error)


def test_what_is_no_failure_does_not_fail_the_task_that_wants_none(ask, org):
    given = [{"id": 1, "text": "which one"}, {"id": 2, "text": "a human please"}]
    done = ask(given, message="{{ record.text }}", fail_on_partial_error=True)
    assert done.error is None
    assert done.value["counts"] == {"needs_input": 1, "escalated": 1}


@pytest.mark.parametrize(("most", "failed"), [(0, 1), (1, 2), (0.05, 2), (0.01, 1)])
def test_a_batch_stops_when_more_have_failed_than_may_and_the_rest_is_skipped(ask, org, most, failed):
    given = [{"id": number, "text": "please fail"} for number in range(30)]
    done = ask(given, message="{{ record.text }}", max_failures=most)
    assert isinstance(done.error, BatchFailedError)
    assert "more than max_failures allows; the rest was skipped" in str(done.error)
    counts = done.xcoms["manifest"]["counts"]
    # What the workers had begun is finished: two records at most for each.
    assert failed <= counts["failed"] <= failed + 2
    assert counts["failed"] + counts["skipped"] == 30
    assert len(done.lines) == 30
    skipped = done.lines[-1]
    assert (skipped["status"], skipped["session_id"], skipped["attempts"]) == ("skipped", None, 0)
    assert len(lines_of(done.xcoms["manifest"]["dead_letter"])) == 30
    assert org.open_sessions == []


def test_as_many_failures_as_may_be_are_no_reason_to_stop(ask, org):
    given = [{"id": 1, "text": "please fail"}, {"id": 2, "text": "order 2"}]
    assert ask(given, message="{{ record.text }}", max_failures=1).error is None


def test_a_row_says_what_was_asked_unless_requests_are_not_to_be_stored(ask, org, tmp_path):
    arguments = {
        "message": ["Order 1.", "{{ record.name }}, order 2."],
        "variables": {"Id": "{{ record.id }}"},
    }
    row = ask(ACCOUNTS[:1], **arguments).rows["A1"]
    texts_of = [one["text"] for one in (*row["earlier_requests"], row["request"])]
    assert texts_of == ["Order 1.", "Acme, order 2."]
    assert row["request"] == {"type": "Text", "text": texts_of[1], "reply": None, "variables": []}
    shared = ask(ACCOUNTS[:1], **arguments, result_path=f"file://{tmp_path}/2", messages_per_session=5)
    lines = lines_of(shared.value["results"])
    assert json.loads(lines[0])["earlier_requests"][0]["variables"] == [
        {"name": "Id", "type": "Text", "value": "A1"}
    ]
    without = ask(ACCOUNTS[:1], **arguments, result_path=f"file://{tmp_path}/3", store_requests=False)
    (row,) = map(json.loads, lines_of(without.value["results"]))
    assert (row["request"], row["earlier_requests"]) == (None, [])


def test_the_commonest_reasons_are_told_with_a_key_each(ask, org):
    given = [{"id": n, "text": "please fail"} for n in range(3)] + [{"id": 9, "txt": "a\nERROR forged"}]
    error = ask(given, message="{{ record.text }}", fail_on_partial_error=True).error
    assert str(error).startswith("4 of 4 records failed: 3 \u00d7 ")
    assert "1 \u00d7 'dict object' has no attribute 'text' (first: 9; the record has: id, txt)" in str(error)
    assert str(error).isprintable()


# The dead letter


def test_the_dead_letter_of_csv_is_csv_and_is_the_next_input_as_it_is(ask, org, tmp_path, folder):
    content = 'id,name,note\n1,Acme,"a, ""b""\nc"\n2,,\n3\n4,Globex,last\n'
    uri = written(tmp_path / "a.csv", content)
    done = ask(uri, message="Account {{ record.name or fail }}: {{ record.note }}")
    assert statuses(done) == {"1": "answered", "2": "failed", "3": "failed", "4": "answered"}
    letter = folder / "dead_letter.csv"
    assert done.value["dead_letter"] == f"file://{letter}"
    assert letter.read_bytes() == b"id,name,note\r\n2,,\r\n3\r\n"
    again = ask(
        done.value["dead_letter"], message="Order {{ record.id }}", result_path=f"file://{tmp_path}/2"
    )
    assert again.value["counts"] == {"answered": 2}
    assert texts(org)[-2:] == ["Order 2", "Order 3"]


def test_the_dead_letter_of_json_lines_keeps_every_field_as_it_was(ask, org, tmp_path, folder):
    lost = {"id": 2, "nested": {"a": [1, None, "Ö"], "price": 1.5}, "half": "\ud800", "zero": "\0"}
    uri = written(tmp_path / "a.jsonl", f'{{"id": 1, "name": "Acme"}}\n\n{json.dumps(lost)}\n')
    done = ask(uri)
    assert statuses(done) == {1: "answered", 2: "failed"}
    assert [json.loads(line) for line in lines_of(done.value["dead_letter"])] == [lost]


def test_what_failed_before_the_agent_acted_is_asked_again_and_the_dead_letter_goes(ask, org, folder):
    org.fail("start", status=503, times=9)
    done = ask(ACCOUNTS[:1])
    assert isinstance(done.error, BatchFailedError)
    assert not isinstance(done.error, AirflowFailException)  # a retry may mend it
    assert (done.rows["A1"]["status"], done.rows["A1"]["applied"]) == ("failed", False)
    assert (folder / "dead_letter.jsonl").exists()
    again = ask(ACCOUNTS[:1], task_instance={"try_number": 2})
    assert again.error is None
    assert again.value["counts"] == {"answered": 1}
    assert again.rows["A1"]["attempts"] > done.rows["A1"]["attempts"]
    assert len(texts(org)) == 1
    assert not (folder / "dead_letter.jsonl").exists()


def test_a_batch_does_not_read_the_file_that_it_writes(ask, org, tmp_path, folder):
    folder.mkdir()
    for name in ("dead_letter.csv", "dead_letter.jsonl", "results.jsonl"):
        done = ask(written(folder / name, '{"key": 1, "name": "Acme"}\n'), key="key")
        assert isinstance(done.error, AgentforceInputError)
        assert "is a file that this batch writes. Choose another result_path" in str(done.error)
        assert (folder / name).read_text() == '{"key": 1, "name": "Acme"}\n'
    assert org.requests == []


# What nothing can be made of


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"records": []}, "records is empty"),
        (
            {"records": {"id": 1}},
            "must be a list of dicts, the URI of a file or folder, or a function",
        ),
        ({"records": 5}, "but is int"),
        ({"records": ["A1"]}, "records[0] must be a dict, but is str"),
        ({"records": "file:///nowhere/a.csv"}, "records: the file file:///nowhere/a.csv does not exist"),
        ({"records": "file:///etc/hosts"}, "must end in .jsonl, .ndjson, .csv or .parquet"),
        ({"records": "file:///dev/null/a.csv"}, "a.csv cannot be read (NotADirectoryError: Not a directory)"),
        ({"records": f"file:///tmp/{'x' * 300}.csv"}, "cannot be read (OSError: File name too long)"),
        ({"records": "file:///nowhere/a\x85ERROR.csv"}, "a ERROR.csv does not exist"),
        ({"records": [{"id": 10**5000}]}, "records[0]: the id cannot be a key"),
        ({"records": [{"id": DEEP}]}, "records[0], because of the field 'id', cannot be written"),
        ({"records": [{"id": 1, "a": DEEP}]}, "because of the field 'a', cannot be written as JSON"),
        ({"records": "nope://bucket/a.csv"}, "records: 'nope://bucket/a.csv' cannot be used: Unsupported"),
        ({"records": "memory://b/a.csv"}, "cannot be used: No filesystem registered for scheme memory"),
        ({"records": [*ACCOUNTS, {"id": "A2"}]}, "records[3] has the same id as records[1]: 'A2'"),
        ({"records": [{"id": 1}, {"id": "1"}]}, "records[1] has the same id as records[0]"),
        ({"records": lambda: {"id": 1}}, "the function must return an iterable of dicts, but returned dict"),
        ({"records": lambda: ["A1"]}, "records[0] must be a dict, but is str"),
        ({"records": iter([])}, "records is empty"),
        ({"key": "nummer"}, "key: no record has a value in the field 'nummer'"),
        # Stores whose packages no make target installs.
        ({"result_path": "gs://bucket/folder"}, "result_path: 'gs://bucket/folder' cannot be used: "),
        ({"result_path": "gs://b/f"}, "It needs the package apache-airflow-providers-google."),
        ({"result_path": "abfs://b/f"}, "It needs the package apache-airflow-providers-microsoft-azure."),
        ({"result_path": "file:///proc/nothing"}, "result_path: file:///proc/nothing cannot be used"),
        ({"result_path": "file:///etc/hosts"}, "result_path: file:///etc/hosts cannot be used"),
        ({"result_path": "file:///etc/hosts/below"}, "result_path: file:///etc/hosts/below cannot be used"),
        ({"message": ["Hello."] * 101}, "101 messages are more than a session may have (100)"),
        ({"variables": "x"}, "variables must be"),
        ({"messages_per_session": 101}, "messages_per_session is 101, and the connection allows 100"),
        ({"output_type": 5}, "output_type must be"),
        ({"output_type": {"type": "nothing"}}, "output_type is not a JSON schema"),
        ({"agent_id": "a/b"}, "agent_id must be"),
    ],
)
def test_what_cannot_be_used_is_one_clear_error_before_anything_is_sent(ask, org, folder, arguments, words):
    try:
        error = ask(**arguments).error
        assert isinstance(error, AirflowFailException)
    except AgentforceInputError as refused:  # when the Dag is parsed
        error = refused
    assert isinstance(error, AgentforceInputError)
    told = str(error)
    assert words in told
    assert told.isprintable()
    assert len(told) < 400
    assert org.requests == []
    assert not (folder / "results.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"records": "accounts.csv"}, "records must be a URI such as s3://bucket/accounts"),
        ({"records": "[{'id': 1}]"}, "To pass on what a task returned, give its .output, not a template"),
        ({"records": "file://a.csv"}, "records must be a URI"),
        ({"result_path": "results"}, "result_path must be a URI"),
        ({"result_path": ""}, "result_path must be a URI"),
        ({"message": ""}, "message is blank"),
        ({"message": []}, "message is empty"),
        ({"message": None}, "message must be given"),
        ({"result_path": None}, "result_path must be given"),
        ({"tz": "Berlin"}, "tz must be a time zone name"),
        ({"bypass_user": "yes"}, "bypass_user must be True or False"),
        ({"surface_type": "a b"}, "surface_type must be"),
        ({"result_path": "file://no_such_conn@/tmp/x"}, "result_path must be a URI"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"max_concurrency": 1.5}, "max_concurrency"),
        ({"output_formats": "xlsx"}, "output_formats must be csv or jsonl or parquet, but is 'xlsx'"),
        ({"credits_per_message": -1}, "credits_per_message must be a number from 0, or None, but is -1"),
        ({"credits_per_message": "20"}, "credits_per_message must be a number from 0"),
        ({"output_formats": None}, "output_formats must be csv or jsonl or parquet, but is None"),
        ({"messages_per_session": 0}, "messages_per_session"),
        ({"key": 5}, "key must be the name of a field"),
        ({"max_failures": -1}, "max_failures must be a whole number from 0, or a share between 0 and 1"),
        ({"max_failures": 1.5}, "max_failures must be"),
        ({"max_failures": True}, "max_failures must be"),
        ({"max_failures": "1"}, "max_failures must be"),
        ({"variables": {"a": DEEP}}, "variables is nested too deep"),
        ({"message": "{{ record.name"}, "message is not a valid template: unexpected end of template"),
        ({"variables": {"a": "{% if %}"}}, r"variables\['a'\] is not a valid template"),
        ({"output_type": "Order"}, "Give the class itself, not its name"),
        ({"output_retries": 2}, "output_retries must be 0 or 1"),
        ({"on_change": "ignore"}, "on_change must be fail or continue"),
        ({"on_unknown_delivery": "skip"}, "on_unknown_delivery must be .* but has .skip."),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_where_the_dag_is_written(ask, org, arguments, words):
    with pytest.raises(AgentforceInputError, match=words):
        ask(**arguments)


def test_a_limit_of_zero_in_the_connection_is_refused(ask, org, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection(max_concurrent_sessions=0))
    done = ask()
    assert isinstance(done.error, AgentforceInputError)
    assert "max_concurrent_sessions" in str(done.error)
    assert org.requests == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"id": 1}\n{"id": 2,\n', "line 2 of"),
        ("a.jsonl", '{"id": 1}\n[2]\n', "line 2 of"),
        ("a.jsonl", "\n", "records is empty"),
        ("a.csv", "id,name\n1,a,b\n", "line 2 of"),
        ("a.csv", b"id\n\xff\n", "is not UTF-8"),
        ("a.csv", "id,id\n1,2\n", "the header of"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_error_before_anything_is_sent(
    ask, tmp_path, name, content, words
):
    done = ask(written(tmp_path / name, content))
    assert isinstance(done.error, AgentforceInputError)
    assert words in str(done.error)
    assert done.lines == []


def test_a_folder_of_another_batch_is_refused_and_says_what_differs(ask, org, folder):
    before = ask()
    for change, words in [
        ({"records": ACCOUNTS[:2]}, "What differs: records"),
        ({"message": "Hello."}, "What differs: message or variables"),
        ({"variables": {"a": "b"}}, "What differs: message or variables"),
        ({"agent_id": "0XxEM0000000099"}, "What differs: agent"),
    ]:
        done = ask(**change)
        assert isinstance(done.error, AgentforceInputError)
        assert words in str(done.error)
        assert 'on_change="continue"' in str(done.error)
        assert done.lines == before.lines
    assert len(texts(org)) == 3


def test_changed_records_keep_the_rows_that_are_there_when_that_is_allowed(ask, org):
    ask()
    more = [{"id": "A0", "name": "Hooli"}, *ACCOUNTS[1:]]
    done = ask(more, on_change="continue")
    assert [row["key"] for row in done.lines] == ["A0", "A2", "A3"]
    assert len(texts(org)) == 4
    assert ask(more).error is None


# Waiting without a worker


def test_a_deferrable_batch_waits_for_the_hour_without_a_worker_and_then_goes_on(ask, org, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection(max_sessions_per_hour=2))
    waiting = ask(deferrable=True)
    assert isinstance(waiting.error, TaskDeferred)
    assert waiting.error.method_name == "execute_complete"
    left = waiting.error.trigger.moment - datetime.now(timezone.utc)
    assert 3500 < left.total_seconds() < 3700
    assert len(texts(org)) == 2
    assert org.open_sessions == []
    assert waiting.lines == []
    # When it comes back before its time, it waits on: what it has started is on record.
    forget_orgs()
    assert isinstance(ask(deferrable=True, resume="execute_complete").error, TaskDeferred)
    assert len(texts(org)) == 2
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection())
    forget_orgs()
    done = ask(deferrable=True, resume="execute_complete", allow_nested_operators=False)
    assert done.value["counts"] == {"answered": 3}
    assert (done.value["sessions"], len(texts(org))) == (3, 3)


def test_whether_a_batch_is_deferrable_is_airflows_setting_unless_it_says_so_itself(monkeypatch, folder):
    arguments = {"task_id": "ask", "records": [], "message": "Hello.", "result_path": f"file://{folder}"}
    assert not ConversationBatchOperator(**arguments).deferrable
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "True")
    assert ConversationBatchOperator(**arguments).deferrable
    assert not ConversationBatchOperator(**arguments, deferrable=False).deferrable


def test_a_batch_that_is_killed_before_it_asks_sends_nothing(ask, org):
    done = ask(kill=True)
    assert isinstance(done.error, TaskStoppedError)
    assert not isinstance(done.error, AirflowFailException)  # the next try goes on
    assert org.count("start") == 0


# Templates


def test_the_context_of_the_task_is_there_in_a_message_and_the_folder(ask, org):
    context = {"ds": "2026-11-25", "params": {"tone": "kind"}}
    ask(ACCOUNTS[:1], message="{{ ds }} {{ params.tone }} {{ record.name }}", context=context)
    assert texts(org) == ["2026-11-25 kind Acme"]


def test_macros_and_filters_of_the_dag_are_there_too(run, org, folder):
    with DAG(
        "dag",
        schedule=None,
        user_defined_macros={"greeting": "Hello"},
        user_defined_filters={"loud": str.upper},
        render_template_as_native_obj=True,
    ):
        operator = ConversationBatchOperator(
            task_id="ask",
            records=[{"name": "Acme", "number": 7, "none": None}],
            message="{{ greeting }} {{ record.name | loud }}, {{ [record.number] }}{{ record.none }}",
            result_path=f"file://{folder}",
        )
    assert run(operator).error is None
    assert texts(org) == ["Hello ACME, [7]None"]


def test_a_number_is_sent_as_its_text_in_a_dag_that_renders_to_native_objects(run, org, folder):
    with DAG("dag", schedule=None, render_template_as_native_obj=True):
        operator = ConversationBatchOperator(
            task_id="ask",
            records=[{"order": "4711"}],
            message=["{{ record.order }}", "[1, 2]"],
            variables={"Order": "{{ record.order }}"},
            result_path=f"file://{folder}",
        )
    assert run(operator).error is None
    assert texts(org) == ["4711", "[1, 2]"]
    assert next(iter(org.sessions.values())).variables["Order"] == "4711"


def test_a_message_is_text_in_a_dag_that_escapes_html(run, org, folder):
    with DAG("dag", schedule=None, jinja_environment_kwargs={"autoescape": True}):
        operator = ConversationBatchOperator(
            task_id="ask",
            records=[{"name": "<i>Acme</i>"}],
            message=[reference("<b>"), "{{ record.name }}"],
            variables={"Name": "{{ record.name }}"},
            result_path=f"file://{folder}",
        )
    operator.render_template_fields({})
    assert run(operator).error is None
    assert texts(org) == ["<b>", "<i>Acme</i>"]
    assert next(iter(org.sessions.values())).variables["Name"] == "<i>Acme</i>"


def test_a_reference_is_resolved_in_every_kind_of_collection(run, org, folder):
    values = [
        Pair(reference("a"), 1),
        Listed([reference("b")]),
        (reference("c"),),
        {"x": [reference("d")]},
        OrderedDict(x=Pair(1, Listed([reference("e")]))),
    ]
    operator = ConversationBatchOperator(
        task_id="ask",
        records=[{"q": value} for value in values],
        message="{{ record.q | tojson }}",
        result_path=f"file://{folder}",
        max_concurrency=1,
    )
    operator.render_template_fields({})
    assert run(operator).error is None
    assert texts(org) == ['["a", 1]', '["b"]', '["c"]', '{"x": ["d"]}', '{"x": [1, ["e"]]}']


def test_a_field_with_the_name_of_a_method_is_the_field(ask, org):
    record = {"id": 1, "items": "three", "keys": "two", "nested": {"values": "one"}}
    ask(
        [record],
        message="{{ record.items }} {{ record.keys }} {{ record.nested.values }} {{ record.get('x') }}",
    )
    assert texts(org) == ["three two one None"]


def test_a_value_without_a_text_is_not_sent(ask, org):
    records = [{"id": 1, "tags": ["a", "b"]}, {"id": 2, "tags": None}]
    done = ask(records, message="{% if record.tags %}{{ record.tags | map('upper') }}{% else %}Hi{% endif %}")
    assert done.lines[0]["error"].startswith("records[0]: the template gives an object of the type generator")
    assert "| join(', ')" in done.lines[0]["error"]
    ask(
        records[:1], message="{{ record.tags | map('upper') | list }} {{ record.tags }}", on_change="continue"
    )
    assert texts(org) == ["Hi", "['A', 'B'] ['a', 'b']"]


def test_a_function_gets_the_record(ask, org):
    ask(
        message=lambda record: [f"{record['name']}?", "{{ more }}"],
        variables=lambda record: {"Id": record["id"]},
    )
    assert texts(org) == ["Acme?", "{{ more }}", "Globex?", "{{ more }}", "Initech?", "{{ more }}"]
    assert [session.variables["Id"] for session in org.sessions.values()] == ["A1", "A2", "A3"]


def test_the_data_of_a_record_is_never_rendered(ask, org, tmp_path):
    data = ["{{ 7 * 7 }}", "{% if", "{{ conn.agentforce_default.password }}"]
    given = [{"id": str(index), "name": text} for index, text in enumerate(data)]
    uri = written(tmp_path / "a.jsonl", "".join(json.dumps(record) + "\n" for record in given))
    for records in (given, tuple(given), uri):
        org.reset()
        done = ask(records, message="{{ record.name }}", result_path=f"file://{tmp_path}/{type(records)}")
        assert done.error is None
        assert texts(org) == data


def test_records_of_a_task_are_not_rendered_and_not_shown_among_the_rendered_fields(run, org, folder):
    given = [{"id": number, "text": "{{ 7 * 7 }}"} for number in range(10_000)]
    operator = ConversationBatchOperator(
        task_id="ask",
        records=reference(given),
        key="id",
        message="{{ record.text }}",
        result_path=f"file://{folder}/{{{{ run_id }}}}",
        max_failures=0,
    )
    operator.render_template_fields({"run_id": "run"})
    assert operator.records == "10,000 records"
    assert operator.result_path == f"file://{folder}/run"
    org.fail("send", body={"messages": [{"type": "Failure"}]}, times=10_000)
    done = run(operator)
    assert isinstance(done.error, BatchFailedError)
    assert done.xcoms["manifest"]["records"] == 10_000
    assert set(texts(org)) == {"{{ 7 * 7 }}"}
    org.reset()


# Where files lie


def test_a_folder_may_have_the_characters_of_a_run_id_and_spaces(ask, org, tmp_path):
    folder = tmp_path / "the results" / "manual__2026-11-25T13:49:02.123+00:00 #1?%20"
    uri = written(tmp_path / "the accounts.jsonl", '{"id": 1, "name": "Acme"}\n')
    done = ask(uri, result_path=f"file://{folder}")
    assert done.error is None
    assert (folder / "results.jsonl").read_text().startswith('{"key": 1, "status": "answered"')
    assert done.value["results"] == f"file://{folder}/results.jsonl"
    assert len(lines_of(done.value["results"])) == 1


def test_a_plain_path_is_a_file_too(ask, org, tmp_path):
    written(tmp_path / "a.csv", "id,name\n1,Acme\n")
    done = ask(str(tmp_path / "a.csv"), result_path=str(tmp_path / "out"))
    assert done.error is None
    assert (tmp_path / "out" / "results.jsonl").exists()


def test_a_store_that_can_only_write_whole_files_is_enough(ask, org, bucket):
    bucket.pipe("/bucket/a.csv", b"id,name\n1,Acme\n2\n3,Globex\n")
    here = {"records": "memory://the_store@bucket/a.csv", "result_path": "memory://the_store@bucket/out/run"}
    done = ask(**here)
    assert done.error is None
    assert done.value["counts"] == {"answered": 2, "failed": 1}
    rows = [json.loads(line) for line in lines_of(done.value["results"])]
    assert [row["status"] for row in rows] == ["answered", "failed", "answered"]
    assert lines_of(done.value["dead_letter"]) == ["id,name", "2"]
    assert bucket.exists("/bucket/out/run/results.jsonl")
    again = ask(**here, task_instance={"try_number": 2})
    assert again.value["counts"] == done.value["counts"]
    assert len(texts(org)) == 2


def test_a_sample_and_its_rest_need_no_more_of_a_store(ask, org, bucket):
    bucket.pipe("/bucket/a.csv", b"id,name\n" + b"".join(b"%d,Account %d\n" % (n, n) for n in range(9)))
    here = {"records": "memory://the_store@bucket/a.csv", "result_path": "memory://the_store@bucket/out"}
    first = ask(**here, sample=3)
    assert first.value["counts"] == {"answered": 3}
    second = ask(None, result_path=None, continue_from=first.value, agreement_share=0.2)
    assert second.error is None
    assert second.value["counts"] == {"answered": 9}
    assert len(lines_of(second.value["agreement"]["results"])) == second.value["agreement"]["records"] == 2
    assert len(lines_of(second.value["results"])) == 9
    assert len(texts(org)) == 11


@pytest.mark.parametrize("given", ["", "/*", "/**/*.csv", "/[ab].*"])
def test_a_folder_or_a_pattern_of_a_store_stands_for_its_files(ask, org, bucket, given):
    bucket.pipe({"/bucket/in/b.csv": b"id,name\n2,Globex\n", "/bucket/in/a.csv": b"id,name\n1,Acme\n"})
    bucket.pipe("/bucket/inner.csv", b"id,name\n3,Initech\n")
    result_path = "memory://the_store@bucket/out"
    done = ask(f"memory://the_store@bucket/in{given}", result_path=result_path)
    assert done.error is None
    assert [json.loads(line)["key"] for line in lines_of(done.value["results"])] == ["1", "2"]
    assert lines_of(done.value["tables"]["csv"])[0].startswith("id,name,key,status,text,")
    refused = ask("memory://the_store@bucket/in/*.jsonl", result_path=result_path)
    assert "memory://the_store@/bucket/in/*.jsonl has no file" in str(refused.error)


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_parquet_is_read_from_a_store_and_written_to_one(ask, org, bucket):
    result_path = "memory://the_store@bucket/out"
    bucket.pipe("/bucket/in.jsonl", b'{"id": 1, "name": "Acme", "since": {"year": 1999}}\n')
    done = ask("memory://the_store@bucket/in.jsonl", result_path=result_path, output_formats="parquet")
    assert done.value["tables"] == {"parquet": "memory://the_store@/bucket/out/results.parquet"}
    again = ask(done.value["tables"]["parquet"], result_path=f"{result_path}2", message="{{ record.since }}")
    assert texts(org)[1] == '{"year": 1999}'
    assert json.loads(lines_of(again.value["results"])[0])["record"]["status"] == "answered"


def test_a_function_takes_what_it_wants_of_the_context_and_is_kept_in_the_store(ask, org, bucket):
    calls = []

    def accounts(ds, *, ti):
        calls.append((ds, ti.task_id))
        yield from ACCOUNTS

    here = {"context": {"ds": "2026-11-28"}, "result_path": "memory://the_store@bucket/out"}
    assert ask(accounts, **here).value["counts"] == {"answered": 3}
    assert ask(accounts, **here, task_instance={"try_number": 2}).value["counts"] == {"answered": 3}
    assert calls == [("2026-11-28", "task")]
    assert len(texts(org)) == 3


def test_an_iterator_gives_the_records(ask, org):
    assert ask(iter(ACCOUNTS)).value["counts"] == {"answered": 3}


def test_a_file_of_a_store_is_replaced_as_a_whole_or_not_at_all(bucket):
    storage = storage_of(ObjectStoragePath("memory://the_store@bucket/out"))
    storage.write("results.jsonl", lambda: [b"one", b"two"])

    def interrupted():
        yield b"on"
        raise AirflowTaskTimeout

    with pytest.raises(AirflowTaskTimeout):
        storage.write("results.jsonl", interrupted)
    assert storage.read("results.jsonl") == b"onetwo"


def test_a_bucket_that_is_not_there_is_an_error_and_is_not_made(ask, org, bucket, monkeypatch):
    attach(protocol="s3", conn_id="the_store", fs=bucket)
    bucket.pipe("/crm/a.csv", b"id,name\n1,Acme\n")
    monkeypatch.setattr(bucket, "makedirs", lambda *_, **__: pytest.fail("a bucket would be made"))
    assert ask("s3://the_store@crm/a.csv", result_path="s3://the_store@crm/out").error is None
    org.reset()
    done = ask(result_path="s3://the_store@misspelt/out")
    assert str(done.error).endswith(
        "s3://the_store@misspelt/out cannot be used (FileNotFoundError: no bucket)."
    )
    assert org.requests == []


def test_a_path_object_is_as_good_as_its_uri(ask, org, bucket):
    bucket.pipe("/bucket/a.jsonl", b'{"id": 1, "name": "Acme"}\n')
    done = ask(
        ObjectStoragePath("memory://bucket/a.jsonl", conn_id="the_store"),
        result_path=ObjectStoragePath("memory://the_store@bucket/out"),
    )
    assert done.error is None
    assert len(lines_of(done.value["results"])) == 1


# Earlier answers, and the agent's version


@pytest.mark.parametrize("uri", ["memory://the_store@bucket/answers", "file://{tmp_path}/answers"])
def test_earlier_answers_are_reused_from_any_store_and_pruned_there(ask, org, bucket, tmp_path, uri):
    uri = uri.format(tmp_path=tmp_path)
    first = ask(result_path=f"file://{tmp_path}/1", reuse=uri)
    second = ask(result_path=f"file://{tmp_path}/2", reuse=AnswerStore(uri, max_age=timedelta(hours=1)))
    assert (first.value["reused"], second.value["reused"]) == (0, 3)
    assert len(texts(org)) == 3
    (row, *_) = [json.loads(line) for line in lines_of(second.value["results"])]
    assert row["reused_from"]["session_id"] in org.sessions
    assert row["agent_version"] == second.value["agent_version"] is not None
    assert AnswerStore(uri, max_age=timedelta(hours=1)).prune() == 0
    assert AnswerStore(uri, max_age=timedelta(microseconds=1)).prune() == 3
    assert ask(result_path=f"file://{tmp_path}/3", reuse=uri).value["reused"] == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AnswerStore("answers"), "reuse must be a URI"),
        (lambda: ConversationBatchOperator(task_id="a", **ARGUMENTS, reuse=7), "reuse must be a URI"),
        (lambda: AnswerStore("file:///a", max_age=timedelta(0)), "max_age must be a timedelta above zero"),
        (lambda: AnswerStore("file:///a", max_age=30), "max_age must be a timedelta above zero"),
        (lambda: AnswerStore("file:///a").prune(), "max_age says which answers are removed"),
        (
            lambda: AnswerStore("file:///a/{{ ds }}", timedelta(1)).prune(),
            "path is a template or the output of a task, which prune does not resolve",
        ),
        (
            lambda: ConversationBatchOperator(task_id="a", **ARGUMENTS, on_agent_change="fail"),
            "on_agent_change must be mark or stop",
        ),
    ],
)
def test_what_cannot_be_a_store_is_refused_when_the_dag_is_parsed(make, words):
    with pytest.raises(AgentforceInputError, match=words):
        make()


def test_the_address_of_a_store_is_a_template():
    store = AnswerStore("file:///data/{{ dag.dag_id }}", max_age=timedelta(days=1))
    operator = ConversationBatchOperator(task_id="a", **ARGUMENTS, reuse=store)
    operator.render_template_fields({"dag": SimpleNamespace(dag_id="crm", has_task=lambda _: False)})
    assert operator.reuse == "file:///data/crm"
    assert store.path == "file:///data/{{ dag.dag_id }}"
