"""A task asks a sample of a batch, another one the rest: what it takes over, and what it refuses."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

from airflow_provider_agentforce._compat import AirflowFailException
from airflow_provider_agentforce.exceptions import AgentforceInputError, LedgerError
from airflow_provider_agentforce.operators import (
    AnswerStore,
    ConversationBatchOperator,
    Sample,
    SessionTraceOperator,
)

ACCOUNTS = [{"id": f"A{number}", "name": f"Account{number}", "seat": number % 2} for number in range(8)]
QUESTION = "What do you know of account {{ record.name }}?"


class Facts(BaseModel):
    account: str
    employees: int


class Other(BaseModel):
    account: str


def names(record):
    return f"What do you know of account {record['name']}?"


def others(record):
    return f"And of account {record['name']}?"


def facts(record):
    return {"Name": record["name"]}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def trial(run, org, folder):
    """Run the first task."""

    def do(**arguments):
        given = {
            "records": ACCOUNTS,
            "key": "id",
            "message": QUESTION,
            "result_path": f"file://{folder}",
            "sample": 3,
            "max_concurrency": 2,
            **arguments,
        }
        return run(ConversationBatchOperator(task_id="trial", **given))

    return do


@pytest.fixture
def rest(run):
    """Run the second task, which is another one of the same run."""

    def do(continue_from, task_id="rest", **arguments):
        operator = ConversationBatchOperator(task_id=task_id, continue_from=continue_from, **arguments)
        operator.render_template_fields({"run_id": "run"})
        return run(operator, None, task_id=task_id)

    return do


@pytest.fixture
def run():
    """Run an operator as a task of its own name."""
    from stand_ins import TaskInstance  # noqa: PLC0415 - of this fixture alone

    def execute(operator, context=None, task_id="trial"):
        ti = TaskInstance()
        ti.task_id = task_id
        try:
            return SimpleNamespace(value=operator.execute({**(context or {}), "ti": ti}), error=None)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return SimpleNamespace(value=None, error=error)

    return execute


def texts(org):
    return sorted(turn.text for session in org.sessions.values() for turn in session.turns)


ALL = sorted(names(record) for record in ACCOUNTS)


def test_the_second_task_needs_nothing_but_the_output_of_the_first(trial, rest, org, folder):
    first = trial(variables={"Seat": "{{ record.seat }}"}, tz="Europe/Berlin", output_formats="csv")
    assert first.error is None
    assert (first.value["records"], first.value["sample"]["remaining"]) == (3, 5)
    second = rest(first.value)
    assert second.error is None
    assert (second.value["result_path"], second.value["counts"]) == (f"file://{folder}", {"answered": 8})
    assert second.value["tables"].keys() == {"csv"}
    assert texts(org) == ALL
    starts = [one.body for one in org.requests if one.operation == "start"]
    assert {str(one["tz"]) for one in starts} == {"Europe/Berlin"}
    assert [len(one["variables"]) for one in starts] == [1] * 8
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == [one["id"] for one in ACCOUNTS]
    assert [row["record"] for row in rows] == ACCOUNTS
    assert trial(variables={"Seat": "{{ record.seat }}"}, tz="Europe/Berlin").value == first.value
    assert len(texts(org)) == 8


@pytest.mark.parametrize("form", ["list", "file", "function", "shard"])
def test_the_records_may_come_from_anywhere(trial, rest, org, folder, tmp_path, form):
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in ACCOUNTS))
    given = {"file": f"file://{file}", "function": lambda: iter(ACCOUNTS)}.get(form, ACCOUNTS)
    first = trial(records=given, **({"shard": "1/2", "sample": 2} if form == "shard" else {}))
    second = rest(first.value)
    assert second.error is None
    assert texts(org) == ALL if form != "shard" else len(set(texts(org))) == len(texts(org)) > 2
    assert second.value["result_path"] == first.value["result_path"]
    assert second.value["shard"] == first.value["shard"]


def test_the_folder_is_enough_and_equal_arguments_may_be_given_again(trial, rest, org, folder):
    trial(sample=Sample(2, by="seat"))
    done = rest(
        f"file://{folder}",
        key="id",
        message=QUESTION,
        result_path=f"file://{folder}",
        max_concurrency=1,
        agreement_share=0.25,
        max_failures=1,
        output_formats=["jsonl"],
    )
    assert done.error is None
    assert done.value["agreement"]["records"] == 2
    assert done.value["tables"].keys() == {"jsonl"}
    assert len(texts(org)) == 10


@pytest.mark.parametrize("max_age", [timedelta(days=1), timedelta.max])
def test_the_rest_reuses_answers_as_the_sample_does(trial, rest, org, folder, tmp_path, max_age):
    yesterday, store = tmp_path / "yesterday", AnswerStore(f"file://{tmp_path}/answers", max_age)
    trial(result_path=f"file://{yesterday}", sample=8, reuse=store, on_agent_change="stop")
    assert len(texts(org)) == 8
    first = trial(reuse=store, on_agent_change="stop")
    second = rest(first.value)
    assert second.error is None
    assert (first.value["reused"], second.value["reused"], len(texts(org))) == (3, 8, 8)
    begun = json.loads((folder / "_ledger" / "begun.json").read_text())["arguments"]
    assert (begun["max_age"], begun["on_agent_change"]) == (max_age.total_seconds(), "stop")


@pytest.mark.parametrize("policy", ["fail", "resend"])
def test_the_rest_keeps_an_answer_that_a_trace_has_given(trial, rest, run, org, folder, policy):
    org.fail("send", drop=True, after=True)
    first = trial(max_concurrency=1).value
    assert first["counts"] == {"answered": 2, "unknown": 1}
    look = SessionTraceOperator(task_id="trace", results=first, timeout=timedelta(seconds=30))
    assert run(look, task_id="trace").error is None
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert rest(first, on_unknown_delivery=policy).value["counts"] == {"answered": 8}
    after = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert all(line in after for line in lines)
    assert texts(org) == ALL


@pytest.mark.parametrize("given", ["{{ params.tone }}", "{{ ti.task_id }}"])
def test_a_message_that_the_context_has_changed_is_refused(run, org, folder, given):
    arguments = {"records": ACCOUNTS, "key": "id", "result_path": f"file://{folder}", "sample": 3}
    arguments["message"] = f"{{{{ record.name }}}} {given}"
    operator = ConversationBatchOperator(task_id="trial", **arguments)
    first = run(operator, {"params": {"tone": "kind"}}).value
    for params in ({"tone": "cross"}, {"tone": "kind"}):
        operator = ConversationBatchOperator(task_id="rest", continue_from=first)
        operator.render_template_fields({"run_id": "run"})
        done = run(operator, {"params": params}, task_id="rest")
        if params["tone"] == "cross" or "task_id" in given:
            assert "a value that has changed" in str(done.error)
            assert len(texts(org)) == 3
        else:
            assert len(texts(org)) == done.value["records"] == 8


def test_functions_and_types_are_given_again(trial, rest, org):
    org_answer = '{"account": "x", "employees": 7}'
    org.fail("send", body={"messages": [{"type": "Inform", "message": org_answer}]}, times=8)
    first = trial(message=names, variables=facts, output_type=Facts)
    assert first.error is None
    again = {"message": names, "variables": facts, "output_type": Facts}
    for name, words in (
        ("message", "continue_from: message was a function in the first task"),
        ("variables", "continue_from: variables was a function in the first task"),
        ("output_type", "continue_from: output_type is not that of the first task"),
    ):
        refused = rest(first.value, **{key: value for key, value in again.items() if key != name})
        assert str(refused.error).startswith(words)
    refused = rest(first.value, **{**again, "message": others})
    assert "has another batch. What differs: message or variables" in str(refused.error)
    assert len(texts(org)) == 3
    assert rest(first.value, **again).value["counts"] == {"answered": 8}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"message": "{{ record.name }}?"}, "has another batch. What differs: message or variables"),
        ({"variables": {"A": "b"}}, "has another batch. What differs: message or variables"),
        ({"agent_id": "0XxOther0000001AAA"}, "has another batch. What differs: agent"),
        ({"agentforce_conn_id": "another"}, "continue_from: agentforce_conn_id is 'another', and the first"),
        ({"key": "name"}, "continue_from: key is 'name', and the first task has 'id'"),
        ({"tz": "Europe/Rome"}, "continue_from: tz is 'Europe/Rome', and the first task has None"),
        ({"messages_per_session": 5}, "continue_from: messages_per_session is 5, and the first task has 1"),
        ({"output_type": Other}, "continue_from: output_type is not that of the first task"),
        ({"include_record": False}, "continue_from: include_record is False, and the first task has True"),
        ({"result_path": "file:///elsewhere"}, "result_path is another folder. Leave it out."),
    ],
)
def test_what_differs_is_named_and_nothing_is_sent(trial, rest, org, arguments, words):
    first = trial()
    refused = rest(first.value, **arguments)
    assert isinstance(refused.error, AgentforceInputError)
    assert words in str(refused.error)
    assert len(texts(org)) == 3
    assert rest(first.value).value["records"] == 8


@pytest.mark.parametrize(
    ("first", "name", "again"),
    [
        ({"store_requests": False}, "store_requests", True),
        ({"include_record": False}, "include_record", True),
        ({"messages_per_session": 4}, "messages_per_session", 1),
        ({"output_retries": 0}, "output_retries", 1),
        ({"agentforce_conn_id": "other"}, "agentforce_conn_id", "agentforce_default"),
    ],
)
def test_a_default_that_is_given_and_differs_is_refused(trial, rest, org, monkeypatch, first, name, again):
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", org.connection())
    done = trial(**first)
    before = org.count("start")
    assert f"continue_from: {name} is " in str(rest(done.value, **{name: again}).error)
    assert org.count("start") == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda _: None, "continue_from is empty: the first task has left no manifest, or it was deleted"),
        (lambda manifest: [manifest], "continue_from is a list: the first task is mapped"),
        (str, "continue_from is a manifest as text"),
        (lambda _: {}, "it has no result_path"),
        (lambda manifest: {"result_path": manifest["result_path"] + "/no"}, "has no batch of a task with"),
        (lambda _: "accounts", "continue_from must be a URI"),
    ],
)
def test_a_manifest_that_is_none_is_refused(trial, rest, org, given, words):
    value = given(trial().value)
    refused = rest(SimpleNamespace(resolve=lambda _context: value, iter_references=tuple))
    assert isinstance(refused.error, AgentforceInputError)
    assert words in str(refused.error)
    assert len(texts(org)) == 3


def test_a_batch_whose_ledger_was_deleted_or_whose_records_are_gone_is_refused(trial, rest, org, folder):
    first = trial()
    for path in (folder / "_ledger").glob("records-*"):
        path.unlink()
    assert "the records that the first task stored" in str(rest(first.value).error)
    for path in (folder / "_ledger").iterdir():
        path.unlink()
    assert "_ledger/ was deleted" in str(rest(first.value).error)
    assert len(texts(org)) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        "x",
        "[]",
        "{}",
        '{"identity": {}, "arguments": {}}',
        '{"identity": {"connection": "c"}, "arguments": []}',
    ],
)
def test_a_file_of_another_program_in_the_ledger_is_named(trial, rest, org, folder, wrong):
    first = trial().value
    asked = org.applied()
    (folder / "_ledger" / "begun.json").write_text(wrong)
    error = rest(first).error
    assert isinstance(error, LedgerError)
    assert isinstance(error, AirflowFailException)
    assert "begun.json" in str(error)
    assert org.applied() == asked


def test_a_batch_is_taken_over_by_one_task(trial, rest, org):
    first = trial()
    assert rest(first.value).value["records"] == 8
    assert "the task dag/run/rest/-1 already continues" in str(rest(first.value, task_id="another").error)
    assert rest(first.value).value["records"] == 8
    assert len(texts(org)) == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"records": ACCOUNTS}, "Give exactly one of records, soql and continue_from."),
        ({"soql": "SELECT Id FROM Account"}, "Give exactly one of records, soql and continue_from."),
        ({"sample": 3}, "sample cannot be combined with continue_from"),
        ({"dry_run": True}, "dry_run cannot be combined with continue_from"),
        ({"continue_from": None, "records": ACCOUNTS, "message": None}, "message must be given"),
        ({"continue_from": None, "records": ACCOUNTS, "result_path": None}, "result_path must be given"),
        (
            {"continue_from": None, "records": ACCOUNTS, "sample": 3, "dry_run": True},
            "sample cannot be combined with dry_run",
        ),
        ({"min_agreement": 0.9}, "min_agreement needs agreement_share"),
        ({"agreement_share": 2}, "agreement_share must be a number from 0 to 1"),
        ({"agreement_share": True}, "agreement_share must be a number from 0 to 1"),
        ({"agreement_share": 0.1, "min_agreement": 90}, "min_agreement must be a number from 0 to 1"),
        ({"continue_from": "accounts"}, "continue_from must be a URI"),
        (
            {"continue_from": None, "records": ACCOUNTS, "sample": 0},
            "sample: size must be a number of records",
        ),
    ],
)
def test_what_cannot_be_right_is_refused_when_the_dag_is_parsed(arguments, words):
    given = {"continue_from": "file:///first", "message": QUESTION, "result_path": "file:///first"}
    with pytest.raises(AgentforceInputError, match="(?s).*" + words.replace("(", r"\(")):
        ConversationBatchOperator(task_id="rest", **{**given, **arguments})
