"""A batch about what a query finds: the same records for each try, and nothing sent for one that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_agentforce.exceptions import AgentforceInputError, AgentforceTransientError
from airflow_provider_agentforce.operators import ConversationBatchOperator, WriteRecordsOperator

SOQL = "SELECT Id, Name, NumberOfEmployees, Owner.Username, (SELECT LastName FROM Contacts) FROM Account"
NOTHING = "SELECT Id, Name FROM Account WHERE Name = 'Unknown'"


def ask(folder, soql=SOQL, **given):
    return ConversationBatchOperator(
        **{
            "task_id": "ask",
            "soql": soql,
            "key": "Id",
            "message": "What of {{ record.Name }}?",
            "result_path": f"file://{folder}/accounts",
            **given,
        }
    )


def rows(done):
    path = Path(done.value["results"].removeprefix("file://"))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_record_has_typed_values_and_what_it_names(org, run, tmp_path):
    message = (
        "{{ record.Owner.Username }} {{ record.NumberOfEmployees + 1 }} {{ record.Contacts[0].LastName }}"
    )
    done = run(ask(tmp_path, message=message))
    assert done.value["counts"] == {"answered": 8}
    first = rows(done)[0]
    assert first["key"] == org.records("Account")[0]["Id"]
    assert first["request"]["text"] == "agent.user@emulator.example 1201 Coyote"
    assert first["record"]["NumberOfEmployees"] == 1200


def test_each_try_sees_the_records_of_the_first(org, run, tmp_path):
    org.fail("start", status=503, times=2 * 8 * 20)
    assert isinstance(run(ask(tmp_path)).error, Exception)
    org.reset()
    org.add_records("Account", [{"Name": "Too late"}])
    done = run(ask(tmp_path))
    assert done.value["records"] == 8


def test_a_lost_page_is_left_to_the_next_try_and_nothing_is_sent(org, run, tmp_path):
    org.add_records("Account", ({"Name": f"More {number}"} for number in range(2500)))
    org.fail("query", delay=0)
    org.fail("query", status=503, times=3)
    done = run(ask(tmp_path, max_concurrency=1))
    assert isinstance(done.error, AgentforceTransientError)
    assert not isinstance(done.error, AirflowFailException)
    assert org.count("start") == 0


@pytest.mark.parametrize(
    ("soql", "words"),
    [
        ("SELECT Id FORM Account", "MALFORMED_QUERY: unexpected token: 'FORM'"),
        ("SELECT Colour FROM Account", "No such column 'Colour'"),
    ],
)
def test_a_query_that_is_wrong_is_one_error_before_any_session(org, run, tmp_path, soql, words):
    done = run(ask(tmp_path, soql))
    assert isinstance(done.error, AirflowFailException)
    assert words in str(done.error)
    assert org.count("start") == 0


@pytest.mark.parametrize("given", [{"agreement_share": 0.5, "min_agreement": 0.9}, {"dry_run": True}])
def test_a_query_that_finds_nothing_is_a_batch_without_records(org, run, tmp_path, caplog, given):
    done = run(ask(tmp_path, NOTHING, output_formats=("csv", "parquet"), **given))
    assert (done.error, done.value["records"]) == (None, 0)
    assert "There are no records, so nothing is asked." in caplog.text
    assert org.count("start") == 0


def test_a_query_that_finds_nothing_goes_through_all_steps(org, run, tmp_path):
    trial = run(ask(tmp_path, NOTHING, sample=2)).value
    assert trial["sample"] == {"size": 0, "remaining": 0, "preview": []}
    org.add_records("Account", [{"Name": "Unknown"}])
    rest = run(ConversationBatchOperator(task_id="rest", continue_from=trial)).value
    assert (rest["records"], rest["counts"]) == (0, {})
    write = WriteRecordsOperator(
        task_id="write", results=rest, sobject="Account", fields={"Agent_Summary__c": "{{ row.text }}"}
    )
    assert run(write).value == {"written": 0, "failed": 0, "records": 0, "errors": None}
    assert (org.count("start"), org.count("write")) == (0, 0)


def test_groups_may_be_asked_about(org, run, tmp_path):
    soql = "SELECT Industry, COUNT(Id) many FROM Account GROUP BY Industry"
    message = "{{ record.many }} of {{ record.Industry }}"
    done = run(ask(tmp_path, soql, key="Industry", message=message))
    assert "2 of Technology" in [row["request"]["text"] for row in rows(done)]


def test_another_query_is_not_answered_with_the_records_of_the_first(org, run, tmp_path):
    run(ask(tmp_path))
    done = run(ask(tmp_path, f"{SOQL} LIMIT 3"))
    assert isinstance(done.error, AgentforceInputError)
    assert "soql" in str(done.error)
    done = run(ask(tmp_path, f"{SOQL} LIMIT 3", on_change="continue"))
    assert done.value["records"] == 3


def test_a_kill_ends_the_query(org, run, tmp_path):
    operator = ask(tmp_path)
    hold = org.hold("query")
    operator.on_kill()
    hold.release()
    assert run(operator).error is not None
    assert org.count("start") == 0


@pytest.mark.parametrize("given", [{"soql": None}, {"records": [{"Id": "1"}]}])
def test_a_batch_has_records_or_a_query(given, tmp_path):
    with pytest.raises(AgentforceInputError, match="exactly one of records, soql"):
        ask(tmp_path, **given)


def test_a_query_is_a_template_and_shown_as_one(tmp_path):
    operator = ask(tmp_path, "SELECT Id FROM Account WHERE Name = '{{ params.name }}'")
    assert operator.template_fields_renderers["soql"] == "sql"
    operator.render_template_fields({"params": {"name": "Acme"}})
    assert operator.soql == "SELECT Id FROM Account WHERE Name = 'Acme'"


@pytest.mark.parametrize(
    "soql", ["  ", "FIND {Acme}", "SELEKT Id FROM Account", "SELECT COUNT() FROM Account"]
)
def test_a_literal_that_is_no_query_for_records_is_found_when_the_dag_is_parsed(tmp_path, soql):
    with pytest.raises(AgentforceInputError, match="soql"):
        ask(tmp_path, soql)


def test_records_are_read_2000_in_a_call(make_org, run, tmp_path, monkeypatch):
    org = make_org()
    org.add_records("Account", ({"Name": f"Account {number}"} for number in range(5_992)))
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection())
    done = run(ask(tmp_path, "SELECT Id, Name FROM Account", dry_run=True))
    assert (done.error, done.value["records"]) == (None, 6_000)
    assert (org.count("query"), org.count("start")) == (3, 0)
