"""What a Dag author gets of a write: answers in the org's records, and one clear error for what cannot be."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from airflow.sdk import DAG, Asset, AssetAlias
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    AgentforceTransientError,
    BatchFailedError,
    TaskStoppedError,
)
from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    ConversationTestOperator,
    WriteRecordsOperator,
)

FIELDS = {"Agent_Summary__c": "{{ row.text }}"}


@pytest.fixture
def asked(org, run, tmp_path):
    """The manifest of a batch about the accounts of the org, whose keys are their ids."""
    records = [{"id": record["Id"], "name": record["Name"]} for record in org.records("Account")]
    done = run(
        ConversationBatchOperator(
            task_id="ask",
            records=records,
            key="id",
            message="What of {{ record.name }}?",
            result_path=f"file://{tmp_path}/accounts",
        )
    )
    assert done.value["counts"] == {"answered": 8}
    return done.value


def write(**given):
    return WriteRecordsOperator(**{"task_id": "write", "sobject": "Account", "fields": FIELDS, **given})


def test_the_answers_of_a_batch_are_in_the_records(org, run, asked):
    done = run(write(results=asked))
    assert done.value == {"written": 8, "failed": 0, "records": 8, "errors": None}
    text = Path(asked["results"].removeprefix("file://")).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [record["Agent_Summary__c"] for record in org.records("Account")] == [row["text"] for row in rows]


@pytest.mark.parametrize("given", ["uri", "list", "path"])
def test_results_may_be_given_in_other_ways(org, run, asked, given):
    results = {"uri": asked["results"], "list": [asked], "path": asked["results"].removeprefix("file://")}
    assert run(write(results=results[given])).value["written"] == 8


def test_values_are_templates_over_the_row_and_the_context(org, run, asked):
    fields = {
        "Id": "{{ row.key }}",
        "Agent_Summary__c": "{{ ds }}: {{ row.request.text }}",
        "Agent_Score__c": "{{ row.text | length }}",
        "Agent_Checked__c": "{{ row.outcome == 'answered' }}",
        "Agent_Checked_At__c": "{{ row.started_at }}",
        "Description": "{{ row.earlier_answers }}",
        "Industry": "{{ row.result }}",
    }
    assert run(write(results=asked, fields=fields), {"ds": "2026-11-28"}).value["failed"] == 0
    acme = org.records("Account")[0]
    assert acme["Agent_Summary__c"] == "2026-11-28: What of Acme?"
    assert (acme["Agent_Checked__c"], acme["Description"], acme["Industry"]) == (True, "[]", None)
    assert acme["Agent_Score__c"] > 0
    assert acme["Agent_Checked_At__c"].startswith("20")


def test_what_an_agent_says_is_no_template(org, run, asked):
    path = Path(asked["results"].removeprefix("file://"))
    text = path.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    for row in rows:
        row["text"] = "{{ 7 * 7 }} {% raw %}"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run(write(results=asked))
    assert {record["Agent_Summary__c"] for record in org.records("Account")} == {"{{ 7 * 7 }} {% raw %}"}


def test_errors_lie_beside_the_results_and_each_task_has_its_own(org, run, asked):
    org.add_rule("Account", lambda record: "Too risky." if record["Name"] == "Acme" else None)
    done = run(write(results=asked))
    assert (done.value["written"], done.value["failed"]) == (7, 1)
    folder = "writes/dag_id=dag/run_id=run/task_id=task"
    assert done.value["errors"] == f"{asked['result_path']}/{folder}/write_errors.jsonl"
    (line,) = Path(done.value["errors"].removeprefix("file://")).read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["error"] == "Too risky."


def test_results_may_lie_in_an_object_store(org, run, asked):
    bucket = MemoryFileSystem()
    attach(protocol="memory", conn_id="write_store", fs=bucket)
    bucket.pipe_file("/b/results.jsonl", Path(asked["results"].removeprefix("file://")).read_bytes())
    uri = "memory://write_store@b/results.jsonl"
    org.add_rule("Account", lambda record: "Too risky." if record["Name"] == "Acme" else None)
    done = run(write(results=uri))
    assert done.value["written"] == 7
    folder = "/b/writes/dag_id=dag/run_id=run/task_id=task"
    assert done.value["errors"].endswith(f"{folder}/write_errors.jsonl")
    assert b"Too risky." in bucket.cat(f"{folder}/write_errors.jsonl")
    org.reset()
    assert run(write(results=uri)).value["written"] == 8
    sizes = [len(one.body["records"]) for one in org.requests if one.operation == "write"]
    assert sizes == [8]
    assert bucket.ls(folder, detail=False) == []


def test_notes_count_for_their_run_and_their_org_alone(org, run, asked, make_org, monkeypatch):
    org.add_rule("Account", lambda record: "Too risky." if record["Name"] == "Acme" else None)
    for run_id in ("first", "first", "second"):
        done = run(write(results=asked, max_failures=0), run_id=run_id)
        assert done.xcoms["result"]["written"] == 7
    assert [len(one.body["records"]) for one in org.requests if one.operation == "write"] == [8, 1, 8]
    other = make_org()
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", other.connection())
    assert run(write(results=asked), run_id="second").value["written"] == 8
    assert None not in [record["Agent_Summary__c"] for record in other.records("Account")]


@pytest.mark.parametrize(
    "names",
    [
        ({"dag_id": "one"}, {"dag_id": "two"}),
        ({"run_id": "manual__1"}, {"run_id": "manual__2"}),
        ({"map_index": 0}, {"map_index": 1}),
        ({"dag_id": "a.b", "task_id": "c"}, {"dag_id": "a", "task_id": "b.c"}),
    ],
    ids=str,
)
def test_every_task_of_every_run_keeps_its_errors(org, run, asked, names):
    org.add_rule("Account", lambda record: "Too risky." if record["Name"] == "Acme" else None)
    first, second = (run(write(results=asked), **one).value["errors"] for one in names)
    org.reset()
    assert run(write(results=asked), **names[1]).value["errors"] is None
    assert Path(first.removeprefix("file://")).exists()
    assert not Path(second.removeprefix("file://")).exists()


LAZY = [
    (
        "{{ row.request.text | map('upper') }}",
        "type generator instead of a text. Add a filter, such as | list",
    ),
    ("{{ row.text.upper }}", "Call it, with ()"),
    ("{{ row.request.keys() }}", "type dict_keys"),
    ("{{ row.text.encode() }}", "type bytes"),
    ("{{ [row.text | map('upper')] }}", "type generator"),
    ("{{ 'a' ~ (row.text | map('upper')) }}", "gives a generator object sync_do_map instead of its value"),
    ("{{ '%s' | format(row.text.upper) }}", "gives a built-in method upper of str object instead"),
    ("{{ [row.nowhere] }}", "no attribute 'nowhere'"),
]


@pytest.mark.parametrize(("template", "words"), LAZY)
def test_a_value_without_a_text_is_the_error_of_its_field(org, run, asked, template, words):
    done = run(write(results=asked, fields={"Description": template, **FIELDS}))
    assert isinstance(done.error, BatchFailedError)
    assert "8 × Description: the template " in str(done.error)  # noqa: RUF001
    assert words in str(done.error)
    assert org.count("write") == 0


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ (1, 'two') }}", '[1, "two"]'),
        ("{{ row.request.text | map('upper') | join }}", "WHAT OF ACME?"),
        ("{{ {'a': (1, 2)} }}", '{"a": [1, 2]}'),
        ("{{ [data_interval_end] }}", '["2026-11-28 00:00:00+00:00"]'),
        ("{{ 'x' | upper }}", "X"),
        ("{{ data_interval_end }}", "2026-11-28 00:00:00+00:00"),
    ],
)
def test_a_value_with_a_text_is_that_text(org, run, asked, template, text):
    context = {"data_interval_end": datetime(2026, 11, 28, tzinfo=timezone.utc)}
    run(write(results=asked, fields={"Description": template}), context)
    assert org.records("Account")[0]["Description"] == text


def test_an_answer_may_show_the_address_of_an_object(org, run, asked):
    path = Path(asked["results"].removeprefix("file://"))
    said = 'It prints "<generator object at 0x7f00aa11>".'
    rows = [{**json.loads(line), "text": said} for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run(write(results=asked, fields={"Description": "He says: {{ row.text }}"}))
    assert org.records("Account")[0]["Description"] == f"He says: {said}"


def test_an_external_id_that_renders_to_nothing_is_refused(org, run, asked):
    operator = write(results=asked, external_id="{{ params.external_id }}")
    operator.external_id = ""  # as Airflow renders it
    done = run(operator)
    assert isinstance(done.error, AirflowFailException)
    assert "external_id must be an API name" in str(done.error)
    assert org.count("write") == 0


def test_too_many_failures_end_the_task_and_leave_the_result(org, run, asked):
    org.add_rule("Account", lambda _record: "Closed.")
    done = run(write(results=asked, max_failures=3))
    assert isinstance(done.error, BatchFailedError)
    assert isinstance(done.error, AirflowFailException)
    assert "8 × Closed (first: 001" in str(done.error)  # noqa: RUF001
    assert done.xcoms["result"]["failed"] == 8


def test_an_outage_leaves_the_task_to_its_retries(org, run, asked):
    org.fail("write", error="rest_request_limit", times=3)
    done = run(write(results=asked))
    assert isinstance(done.error, AgentforceTransientError)
    assert not isinstance(done.error, AirflowFailException)


def test_a_dry_run_writes_nothing(org, run, asked):
    done = run(write(results=asked, dry_run=True))
    assert (done.value["written"], done.value["records"]) == (0, 8)
    assert done.value["preview"][0]["changes"]["Agent_Summary__c"]["now"] is None
    assert org.count("write") == 0


def test_a_dry_run_sends_no_event(dag_test, org, tmp_path):
    from airflow.models.asset import AssetEvent, AssetModel  # noqa: PLC0415
    from airflow.utils.session import create_session  # noqa: PLC0415

    code, output = dag_test("dry_runs", org)
    assert code == 0, output
    with create_session() as session:
        found = session.query(AssetModel.name).join(AssetEvent, AssetEvent.asset_id == AssetModel.id)
        names = {name for (name,) in found}
    assert "dry_runs_written" in names
    assert not {"dry_runs_planned", "dry_runs_tried"} & names


def test_a_kill_before_it_runs_writes_nothing(org, run, asked):
    operator = write(results=asked)
    operator.on_kill()
    assert isinstance(run(operator).error, TaskStoppedError)
    assert org.count("write") == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"results": None}, "results must be"),
        ({"results": {}}, "results has no results"),
        ({"results": []}, "results must be"),
        ({"results": "{}/absent/results.jsonl"}, "does not exist"),
        ({"sobject": "Acount"}, "no object Acount"),
        ({"fields": {"Agent_Sumary__c": "x"}}, "did you mean Agent_Summary__c"),
        ({"external_id": "Industry"}, "not an external id"),
    ],
)
def test_what_cannot_be_used_fails_before_the_first_write(org, run, asked, tmp_path, given, words):
    results = given.get("results", asked)
    operator = write(**{**given, "results": asked})
    # As Airflow renders it.
    operator.results = results.format(tmp_path) if isinstance(results, str) else results
    done = run(operator)
    assert isinstance(done.error, AirflowFailException)
    assert words in str(done.error)
    assert org.count("write") == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"fields": {}}, "fields must be a template"),
        ({"fields": "Name"}, "fields must be a template"),
        ({"fields": {"Name": 1}}, r"fields\['Name'\] must be a template"),
        ({"fields": {"No Name": "x"}}, "fields"),
        ({"fields": {"Name": "{{ row.text"}}, "not a valid template"),
        ({"outcomes": ("anserwed",)}, "outcomes must be some of"),
        ({"outcomes": ()}, "outcomes must be some of"),
        ({"outcomes": None}, "outcomes must be some of"),
        ({"outcomes": 5}, "outcomes must be some of"),
        ({"fields": {"Name": "a", "name": "b"}}, "fields names name more than once"),
        ({"sobject": "My Object"}, "sobject must be an API name.*such as Account or My_Object__c"),
        ({"sobject": ""}, "sobject"),
        ({"external_id": "Id"}, "external_id: leave it out"),
        ({"external_id": "My Id"}, "external_id must be an API name"),
        ({"fields": {"Owner.Name": "x"}}, "fields must be an API name.*such as Summary__c"),
        ({"results": "results.jsonl"}, "results must be a URI"),
        ({"max_failures": -1}, "max_failures"),
        ({"dry_run": "yes"}, "dry_run"),
        ({"feilds": {}}, "Did you mean fields"),
    ],
)
def test_a_mistake_is_found_when_the_dag_is_parsed(given, words):
    with pytest.raises(AgentforceInputError, match=words):
        write(**{"results": "file:///results.jsonl", **given})


def test_it_takes_the_output_of_a_mapped_batch():
    with DAG("dag", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None):
        ask = ConversationBatchOperator.partial(
            task_id="ask", message="Hi", key="id", result_path="file:///x/{{ ti.map_index }}"
        ).expand(records=[[{"id": 1}], [{"id": 2}]])
        task = write(results=ask.output)
    assert task.upstream_task_ids == {"ask"}


# Assets


@pytest.fixture
def events():
    return OutletEventAccessors()


def test_the_event_of_an_asset_has_counts_and_paths(org, run, asked, events, tmp_path):
    asset, alias = Asset("summaries"), AssetAlias("others")
    context = {"outlet_events": events}
    run(write(results=asked, outlets=[asset, alias]), context)
    assert events[asset].extra == {"written": 8, "failed": 0, "records": 8, "errors": None}
    batch = ConversationBatchOperator(
        task_id="ask",
        records=[{"id": 1}],
        message="Hi",
        result_path=f"file://{tmp_path}/one",
        agreement_share=1.0,
        outlets=[Asset("answers")],
    )
    done = run(batch, context)
    extra = events[Asset("answers")].extra
    assert extra["counts"] == {"answered": 1}
    assert extra["results"] == done.value["results"]
    assert extra["agreement"]["share"] == 1.0
    assert extra["agent_version"]
    talk = ConversationOperator(
        task_id="talk", messages=["Hi", "Where is order 42?"], outlets=[Asset("talked")]
    )
    done = run(talk, context)
    extra = events[Asset("talked")].extra
    assert (extra["turns"], extra["outcome"]) == (2, "answered")
    assert extra["session_id"] == done.value["session_id"]
    assert extra["agent_version"]
    assert "text" not in extra
    json.dumps(extra)


def test_the_event_of_a_test_has_the_version_that_passed_also_when_it_is_not_tested_again(
    org, run, events, tmp_path
):
    (tmp_path / "hello.yaml").write_text("name: hello\nturns: [{say: Hi, expect: {outcome: answered}}]\n")

    def told(name):
        test = ConversationTestOperator(
            task_id="test",
            conversations=f"file://{tmp_path}/hello.yaml",
            result_path=f"file://{tmp_path}/kept",
            skip_if_passed_within=timedelta(days=1),
            outlets=[Asset(name)],
        )
        assert run(test, {"outlet_events": events}).error is None
        return events[Asset(name)].extra

    first, second = told("first"), told("second")
    assert (first["passed"], first["cases"]) == (1, 1)
    assert first["agent_version"]
    assert second == {**first, "skipped": True}
    assert org.count("start") == 1


def test_a_failed_task_tells_nothing_and_an_odd_outlet_fails_none(org, run, asked, events):
    asset = Asset("summaries")
    org.add_rule("Account", lambda _record: "Closed.")
    run(write(results=asked, outlets=[asset]), {"outlet_events": events})
    assert events[asset].extra == {}
    org.reset()
    operator = write(results=asked)
    operator.outlets = ["no asset"]
    assert run(operator, {"outlet_events": events}).error is None
