"""Rows of a batch become values of records: each is written once, or again the same, or has its reason."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from quick import fields_of
from real_airflow import until
from writes import FIELDS, answered, errors_of, in_a_process, results_of, writer

from airflow_provider_agentforce.batch.record_values import WriteFailure, WriteOptions
from airflow_provider_agentforce.batch.record_writer import RecordWriter
from airflow_provider_agentforce.batch.write_failures import WriteFailures
from airflow_provider_agentforce.emulator import SObject, SObjectField
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    AgentforceTransientError,
    BatchFailedError,
    LedgerError,
)

CODE = {"Account_Code__c": "{{ record.key }}", "Name": "{{ record.text }}"}


@pytest.fixture
def ids(org):
    """The ids of 600 accounts."""
    return org.add_records("Account", ({"Name": f"Account {number}"} for number in range(600)))


def summaries(org):
    return {record["Id"]: record["Agent_Summary__c"] for record in org.records("Account")}


def sizes(org):
    return [len(one.body["records"]) for one in org.requests if one.operation == "write"]


def test_every_row_is_written_200_a_call(org, client, tmp_path, ids):
    result = writer(client, results_of(tmp_path, answered(ids))).run()
    assert result == {"written": 600, "failed": 0, "records": 600, "errors": None}
    assert all(summaries(org)[key] == f"about {key}" for key in ids)
    assert sizes(org) == [200, 200, 200]


def test_ten_thousand_answers_cost_fifty_calls(make_org, make_client, tmp_path):
    org = make_org()
    ids = org.add_records("Account", ({"Name": "x"} for _ in range(10_000)))
    path = results_of(tmp_path, answered(ids))
    assert writer(make_client(org, timeout=60.0), path).run()["written"] == 10_000
    assert org.count("write") == 50


def test_rows_are_checked_in_little_memory(client, tmp_path):
    rows = answered(f"001EM{number:010d}" for number in range(10_000))
    path = results_of(tmp_path, rows)
    del rows
    tracemalloc.start()
    result = writer(client, path).run(dry_run=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (result["records"], result["written"]) == (10_000, 0)
    assert peak / 10_000 < 200


@pytest.mark.parametrize("outcomes", [("answered",), ("answered", "escalated")])
def test_only_rows_with_the_outcomes_are_written(org, client, tmp_path, ids, outcomes):
    rows = answered(ids[:5])
    for row, status in zip(rows[1:], ("escalated", "failed", "unknown", "invalid_output"), strict=True):
        row["status"] = status
    result = writer(client, results_of(tmp_path, rows), outcomes=outcomes).run()
    assert result["written"] == result["records"] == len(outcomes)
    assert [summaries(org)[key] is not None for key in ids[:5]] == [True, len(outcomes) > 1, *[False] * 3]


def test_a_template_that_fails_only_later_is_the_error_of_its_row(org, client, tmp_path, ids):
    rendered = []

    def once(row):
        rendered.append(row["key"])
        if rendered.count(ids[1]) > 1 and row["key"] == ids[1]:
            raise ValueError("the variable cannot be read")
        return row["text"]

    options = WriteOptions(sobject="Account", fields={"Agent_Summary__c": once})
    path = results_of(tmp_path, answered(ids[:3]))
    result = RecordWriter(client.records, [path], tmp_path / "writes", options, identity="run").run()
    assert (result["written"], result["failed"], result["records"]) == (2, 1, 3)
    (error,) = errors_of(result)
    assert (error["key"], "the variable cannot be read" in error["error"]) == (ids[1], True)


def test_no_row_that_qualifies_is_no_failure_and_no_call(org, client, tmp_path):
    assert writer(client, results_of(tmp_path, [])).run()["records"] == 0
    assert org.count("write") == 0


def test_a_rule_that_refuses_three_of_200_has_the_org_s_words_for_each(org, client, tmp_path, ids):
    bad = set(ids[5:8])
    org.add_rule("Account", lambda record: "Too risky." if record["Id"] in bad else None)
    result = writer(client, results_of(tmp_path, answered(ids[:200]))).run()
    assert (result["written"], result["failed"]) == (197, 3)
    errors = errors_of(result)
    assert {one["key"] for one in errors} == bad
    assert errors[0] == {
        "key": ids[5],
        "target": ids[5],
        "code": "FIELD_CUSTOM_VALIDATION_EXCEPTION",
        "error": "Too risky.",
        "fields": [],
        "values": {"Id": ids[5], "Agent_Summary__c": f"about {ids[5]}"},
    }


VALUES = {
    "Id": "{{ record.key }}",
    "Agent_Score__c": "{{ record.result.score }}",
    "Agent_Checked__c": "{{ record.outcome == 'answered' }}",
    "Next_Review__c": "2026-12-{{ '%02d' | format(record.result.score * 10) }}",
    "Priority__c": "{{ record.result.priority }}",
}


def test_values_have_the_types_of_their_fields(org, client, tmp_path, ids):
    row = {**answered(ids[:1])[0], "result": {"score": 0.5, "priority": "High"}}
    writer(client, results_of(tmp_path, [row]), fields=VALUES).run()
    written = next(record for record in org.records("Account") if record["Id"] == ids[0])
    assert (written["Agent_Score__c"], written["Agent_Checked__c"]) == (0.5, True)
    assert (written["Next_Review__c"], written["Priority__c"]) == ("2026-12-05", "High")


def test_what_a_field_does_not_take_is_never_sent_and_has_its_reason(org, client, tmp_path, ids):
    rows = [{**row, "result": {"score": 0.5, "priority": "High"}} for row in answered(ids[:5])]
    rows[0]["result"]["score"] = "high"
    rows[1]["result"]["priority"] = "Urgent"
    del rows[2]["result"]["score"]
    rows[3]["key"] = "003EM0000000001AAA"
    result = writer(client, results_of(tmp_path, rows), fields=VALUES).run()
    assert (result["written"], result["failed"], sizes(org)) == (1, 4, [1])
    errors = errors_of(result)
    assert {one["code"] for one in errors} == {"REFUSED"}
    for one, words in zip(
        errors, ("a number", "one of High", "no attribute 'score'", "Account"), strict=True
    ):
        assert words in one["error"]


def test_an_error_of_a_template_names_field_and_row(org, client, tmp_path, ids):
    rows = answered(ids[:2])
    rows[0]["result"] = {"score": 0.5}
    fields = {**FIELDS, "Agent_Score__c": "{{ record.result.score }}"}
    (error,) = errors_of(writer(client, results_of(tmp_path, rows), fields=fields).run())
    assert (error["key"], error["target"], error["fields"]) == (ids[1], ids[1], ["Agent_Score__c"])
    assert error["error"].startswith("Agent_Score__c: the template failed with UndefinedError: ")
    fields = {"Id": "{{ record.id }}", "Agent_Summary__c": "x"}
    with pytest.raises(BatchFailedError, match=f"2 . Id: the template failed .*first: {ids[0]}"):
        writer(client, results_of(tmp_path, rows), fields=fields).run()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("123456789012345.67", 123456789012345.67),
        ("123456789012345", 123456789012345),
        ("123456789012345678", None),
        ("0.83333333333333333333", 0.8333333333333334),
        ("1234567890123456.78", None),
    ],
)
def test_an_amount_is_written_to_the_cent_or_refused(org, client, tmp_path, ids, text, kept):
    fields = {"AnnualRevenue": text, "Agent_Summary__c": "x"}
    work = writer(client, results_of(tmp_path, answered(ids[:1])), fields=fields)
    if kept is None:
        with pytest.raises(BatchFailedError, match=r"AnnualRevenue would get .*Round it"):
            work.run()
    else:
        work.run()
    assert next(one for one in org.records("Account") if one["Id"] == ids[0])["AnnualRevenue"] == kept


def test_a_text_that_is_too_long_is_refused_and_not_cut(org, client, tmp_path, ids):
    rows = answered(ids[:2])
    rows[1]["text"] = "x" * 1001
    result = writer(client, results_of(tmp_path, rows)).run()
    assert "accepts 1,000 characters, but the text has 1,001" in errors_of(result)[0]["error"]
    assert summaries(org)[ids[1]] is None


@pytest.mark.parametrize("text", ["x" * 31_000, "漢" * 10_500], ids=["latin", "chinese"])
def test_long_texts_make_smaller_calls(org, client, tmp_path, ids, text):
    rows = answered(ids[:200], text)
    fields = {"Id": "{{ record.key }}", "Description": "{{ record.text }}"}
    assert writer(client, results_of(tmp_path, rows), fields=fields).run()["written"] == 200
    assert len(sizes(org)) == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"Agent_Sumary__c": "x"}, "did you mean Agent_Summary__c"),
        ({"Open_Cases__c": "1", "Name": "x"}, "Open_Cases__c may not be written"),
        ({"Id": "{{ record.key }}"}, "beside the one"),
    ],
)
def test_a_field_that_cannot_be_written_is_found_before_the_first_write(
    org, client, tmp_path, ids, fields, words
):
    with pytest.raises(AgentforceInputError, match=words):
        writer(client, results_of(tmp_path, answered(ids)), fields=fields).run()
    assert org.count("write") == 0


def test_the_id_is_no_external_id(org, client, tmp_path, ids):
    fields = {"Agent_Summary__c": "{{ record.text }}"}
    with pytest.raises(AgentforceInputError, match="external_id: leave it out"):
        writer(client, results_of(tmp_path, answered(ids[:1])), fields=fields, external_id="id").run()


@pytest.mark.parametrize("same", [str, lambda key: key[:15], str.lower, str.upper, " {}\n".format])
def test_one_record_twice_is_refused_before_the_first_write(org, client, tmp_path, ids, same):
    rows = answered([*ids, same(ids[7])])
    with pytest.raises(AgentforceInputError, match="both name the record"):
        writer(client, results_of(tmp_path, rows)).run()
    assert org.count("write") == 0


def test_records_are_made_and_found_by_an_external_id(org, client, tmp_path):
    rows = answered(["A-001", "NEW-1"])
    result = writer(client, results_of(tmp_path, rows), fields=CODE, external_id="account_code__c").run()
    assert result["written"] == 2
    assert [
        one["Name"] for one in org.records("Account") if one["Account_Code__c"] in ("A-001", "NEW-1")
    ] == [
        "about A-001",
        "about NEW-1",
    ]
    for same in ("b-1", "B-1 "):
        rows = answered(["B-1", same])
        with pytest.raises(AgentforceInputError, match="both name"):
            writer(client, results_of(tmp_path, rows), fields=CODE, external_id="Account_Code__c").run()


@pytest.mark.parametrize("unique", [True, False])
def test_an_external_id_that_is_not_unique_is_a_warning(make_org, make_client, tmp_path, caplog, unique):
    fields = (SObjectField(name="Code__c", external_id=True, unique=unique), SObjectField(name="Text__c"))
    org = make_org(sobjects=[SObject(name="Order__c", prefix="a01", fields=fields)])
    chosen = {"sobject": "Order__c", "fields": {"Text__c": "{{ record.text }}"}, "external_id": "Code__c"}
    assert writer(make_client(org), results_of(tmp_path, answered(["A-1"])), **chosen).run()["written"] == 1
    assert ("Code__c is not unique" in caplog.text) is not unique


def test_a_row_without_a_key_names_no_record(org, client, tmp_path):
    rows = answered(["A-001", None])
    fields = {"Name": "{{ record.text }}"}
    result = writer(client, results_of(tmp_path, rows), fields=fields, external_id="Account_Code__c").run()
    assert (result["written"], result["failed"]) == (1, 1)
    assert "empty" in errors_of(result)[0]["error"]


@pytest.mark.parametrize(("most", "stops"), [(0.29, False), (0.28, True), (29, False), (28, True)])
def test_a_share_of_failures_means_more_than_it(org, client, tmp_path, ids, most, stops):
    rows = answered(ids[:100])
    for row in rows[:29]:
        row["text"] = "x" * 1001
    work = writer(client, results_of(tmp_path, rows), max_failures=most)
    if stops:
        with pytest.raises(BatchFailedError, match=r"29 of 100 .*more than max_failures"):
            work.run()
    else:
        assert work.run()["written"] == 71


@pytest.mark.parametrize(("most", "written"), [(0, 199), (0.001, 199), (5, 598)])
def test_more_failures_than_allowed_stop_the_writing(org, client, tmp_path, ids, most, written):
    org.add_rule("Account", lambda record: "No." if record["Id"] in (ids[0], ids[599]) else None)
    work = writer(client, results_of(tmp_path, answered(ids)), max_failures=most)
    if most == 5:
        assert work.run()["written"] == written
        return
    with pytest.raises(BatchFailedError, match="more than max_failures allows") as caught:
        work.run()
    assert not caught.value.retryable
    assert (caught.value.manifest["written"], sizes(org)) == (written, [200])


def test_too_many_values_that_are_refused_stop_before_the_first_write(org, client, tmp_path, ids):
    with pytest.raises(BatchFailedError, match=r"2 of 4 .*not the id of a record"):
        writer(client, results_of(tmp_path, answered([*ids[:2], "a", "b"])), max_failures=1).run()
    assert org.count("write") == 0


def test_a_write_of_which_nothing_succeeds_fails(org, client, tmp_path, ids):
    org.add_rule("Account", lambda _record: "No.")
    with pytest.raises(BatchFailedError, match=r"2 of 2 records could not be written: 2 × No \(first: 001"):  # noqa: RUF001
        writer(client, results_of(tmp_path, answered(ids[:2]))).run()


def test_a_record_that_stays_locked_is_left_to_the_next_try(org, client, tmp_path, ids):
    org.lock_record(ids[0], times=7)
    work = writer(client, results_of(tmp_path, answered(ids[:3])), max_failures=0)
    with pytest.raises(BatchFailedError) as caught:
        work.run()
    assert caught.value.retryable
    result = writer(client, results_of(tmp_path, answered(ids[:3])), max_failures=0).run()
    assert (result["written"], result["errors"]) == (3, None)
    assert sizes(org) == [3, 1, 1, 1, 1, 1, 1, 1]
    assert left_errors(tmp_path) == []


def test_an_outage_is_left_to_the_next_try_which_writes_the_rest(org, client, tmp_path, ids):
    path = results_of(tmp_path, answered(ids))
    org.fail("write", delay=0)
    org.fail("write", status=503, times=3)
    with pytest.raises(AgentforceTransientError):
        writer(client, path).run()
    assert sum(text is not None for text in summaries(org).values()) == 200
    assert writer(client, path).run()["written"] == 600
    assert sizes(org) == [200, 200, 200, 200, 200, 200]
    assert all(summaries(org)[key] == f"about {key}" for key in ids)


def test_an_org_under_maintenance_is_left_to_the_next_try(org, client, tmp_path, ids):
    path = results_of(tmp_path, answered(ids))
    org.read_only = True
    with pytest.raises(AgentforceTransientError, match="read-only"):
        writer(client, path).run()
    org.read_only = False
    assert writer(client, path).run()["written"] == 600


@pytest.mark.parametrize("calls", [1, 2])
def test_a_write_that_is_killed_between_calls_goes_on_where_it_was(org, client, tmp_path, ids, calls):
    path = results_of(tmp_path, answered(ids))
    for _ in range(calls - 1):
        org.fail("write", delay=0)
    org.fail("write", delay=60)
    process = in_a_process(fields_of(org), path)
    while len(sizes(org)) < calls:
        assert process.poll() is None
    process.kill()
    process.wait()
    result = writer(client, path).run()
    assert (result["written"], result["failed"]) == (600, 0)
    # The call that was under way may be made once more, and none of those before it.
    assert sum(sizes(org)[calls - 1 + 1 :]) == 600 - 200 * (calls - 1)
    assert all(summaries(org)[key] == f"about {key}" for key in ids)


def test_other_values_are_all_written(org, client, tmp_path, ids):
    org.add_rule("Account", lambda record: "No." if record["Id"] == ids[0] else None)
    with pytest.raises(BatchFailedError):
        writer(client, results_of(tmp_path, answered(ids[:3])), max_failures=0).run()
    result = writer(client, results_of(tmp_path, answered(ids[:3], "new {}"))).run()
    assert (result["written"], sizes(org)) == (2, [3, 3])
    assert summaries(org)[ids[1]] == f"new {ids[1]}"


@pytest.mark.parametrize("most", [None, 0])
def test_a_write_that_succeeded_is_made_again_and_one_that_failed_goes_on(org, client, tmp_path, ids, most):
    org.add_rule("Account", lambda record: "No." if record["Name"] == "Account 0" else None)
    path = results_of(tmp_path, answered(ids[:3]))
    first = writer(client, path, max_failures=most)
    if most is None:
        assert first.run()["written"] == 2
    else:
        with pytest.raises(BatchFailedError):
            first.run()
    # Somebody changes a record meanwhile.
    client.records.write("Account", [{"Id": ids[1], "Agent_Summary__c": "changed"}])
    assert writer(client, path).run()["written"] == 2
    assert sizes(org) == [3, 1, 3 if most is None else 1]
    assert summaries(org)[ids[1]] == (f"about {ids[1]}" if most is None else "changed")


def left_errors(tmp_path, name="write_errors.jsonl"):
    path = tmp_path / "writes" / "task" / name
    return [one["error"] for one in errors_of({"errors": path})] if path.exists() else []


REFUSED = "Agent_Summary__c accepts 1,000 characters, but the text has 1,001."
READ_ONLY = {
    "statusCode": "INSERT_UPDATE_DELETE_NOT_ALLOWED_DURING_MAINTENANCE",
    "message": "Later.",
    "fields": [],
}
ENDINGS = {
    "the org is read-only": {"body": [{"success": False, "errors": [READ_ONLY]}] * 200},
    "an outage": {"status": 503, "times": 3},
    "a stop": {"delay": 60},
}


@pytest.mark.parametrize(
    ("ending", "other"), [("the org is read-only", ["Later."] * 200), ("an outage", []), ("a stop", [])]
)
def test_every_try_leaves_its_failures_however_it_ends(org, client, tmp_path, ids, ending, other):
    rows = answered(ids)
    rows[0]["text"] = "x" * 1001
    org.add_rule("Account", lambda record: "Too risky." if record["Id"] == ids[1] else None)
    path = results_of(tmp_path, rows)
    org.fail("write", delay=0)
    org.fail("write", **ENDINGS[ending])
    with ThreadPoolExecutor() as pool:
        writing = pool.submit(writer(client, path).run)
        if ending == "a stop":
            until("the second call is under way", lambda: org.count("write") == 2)
            client.stop()
        with pytest.raises(AgentforceTransientError):
            writing.result()
    assert left_errors(tmp_path) == [REFUSED, "Too risky.", *other]


def test_an_org_that_becomes_read_only_during_a_call_loses_no_result(org, client, tmp_path, ids):
    def rule(record):
        org.read_only = record["Id"] == ids[2]
        return "Too risky." if record["Id"] == ids[1] else None

    org.add_rule("Account", rule)
    path = results_of(tmp_path, answered(ids[:5]))
    with pytest.raises(AgentforceTransientError, match="read-only"):
        writer(client, path).run()
    first, *others = left_errors(tmp_path)
    assert (first, len(others), "maintenance" in others[1]) == ("Too risky.", 2, True)
    org.read_only = False
    assert writer(client, path).run()["written"] == 4
    assert sizes(org) == [5, 3]
    assert left_errors(tmp_path) == ["Too risky."]


READ_ONLY_CALL = {"status": 400, "body": [{**READ_ONLY, "errorCode": READ_ONLY["statusCode"]}]}


@pytest.mark.parametrize("fault", [{"status": 503, "times": 3}, READ_ONLY_CALL], ids=["outage", "read-only"])
@pytest.mark.parametrize("again", ["a locked record", "half of a call"])
def test_what_the_org_has_said_counts_when_the_rest_of_a_call_is_lost(
    org, client, tmp_path, ids, fault, again
):
    org.add_rule("Account", lambda record: "Too risky." if record["Id"] == ids[1] else None)
    if again == "a locked record":
        org.lock_record(ids[3])
    else:
        org.fail("write", error="rest_json_parser")
    org.fail("write", delay=0)
    org.fail("write", **fault)
    path = results_of(tmp_path, answered(ids[:4]))
    with pytest.raises(AgentforceTransientError):
        writer(client, path).run()
    assert left_errors(tmp_path)[0] == "Too risky."
    before = len(sizes(org))
    assert writer(client, path).run()["written"] == 3
    assert sizes(org)[before:] == [2 if again == "a locked record" else 3]
    assert left_errors(tmp_path) == ["Too risky."]


def test_a_try_without_failures_leaves_none_of_an_earlier_one(org, client, tmp_path, ids):
    org.add_rule("Account", lambda record: "Too risky." if record["Agent_Summary__c"] == "old" else None)
    with pytest.raises(BatchFailedError):
        writer(client, results_of(tmp_path, answered(ids[:2], "old")), max_failures=0).run()
    org.fail("query", status=503, times=3)  # the description of the object
    with pytest.raises(AgentforceTransientError):
        writer(client, results_of(tmp_path, answered(ids[:2], "new"))).run()
    assert left_errors(tmp_path) == ["Too risky."] * 2
    org.fail("write", status=503, times=3)
    with pytest.raises(AgentforceTransientError):
        writer(client, results_of(tmp_path, answered(ids[:2], "new"))).run()
    assert left_errors(tmp_path) == []


def test_a_try_that_writes_nothing_counts_what_earlier_ones_wrote(org, client, tmp_path, ids):
    org.add_rule("Account", lambda record: "No." if record["Id"] == ids[1] else None)
    path = results_of(tmp_path, answered([*ids[:4], "bad"]))
    for most in (1, 0):
        with pytest.raises(BatchFailedError) as caught:
            writer(client, path, max_failures=most).run()
        assert caught.value.manifest["written"] == 3
    assert sizes(org) == [4]


def test_a_dry_run_leaves_the_failures_and_the_notes_of_a_write(org, client, tmp_path, ids):
    rows = answered(ids[:3])
    rows[0]["text"] = "x" * 1001
    path = results_of(tmp_path, rows)
    org.add_rule("Account", lambda record: "Too risky." if record["Id"] == ids[1] else None)
    with pytest.raises(BatchFailedError):
        writer(client, path, max_failures=1).run()
    tried = writer(client, path).run(dry_run=True)
    assert (tried["failed"], tried["errors"].endswith("/dry_run_errors.jsonl")) == (1, True)
    assert left_errors(tmp_path, "dry_run_errors.jsonl") == [REFUSED]
    assert left_errors(tmp_path) == [REFUSED, "Too risky."]
    assert writer(client, results_of(tmp_path, answered(ids[:3]))).run(dry_run=True)["failed"] == 0
    assert left_errors(tmp_path, "dry_run_errors.jsonl") == []
    assert left_errors(tmp_path) == [REFUSED, "Too risky."]
    results_of(tmp_path, rows)
    assert writer(client, path).run()["written"] == 1
    assert sizes(org) == [2, 1]


def test_what_another_run_has_written_is_written_again(org, client, tmp_path, ids):
    org.add_rule("Account", lambda record: "No." if record["Id"] == ids[0] else None)
    path = results_of(tmp_path, answered(ids[:3]))
    for identity in ("run 1", "run 1", "run 2"):
        with pytest.raises(BatchFailedError) as caught:
            writer(client, path, identity=identity, max_failures=0).run()
        assert caught.value.manifest["written"] == 2
    assert sizes(org) == [3, 1, 3]


def test_a_record_is_not_taken_for_one_that_had_its_place(org, client, tmp_path, ids):
    org.add_rule("Account", lambda record: "No." if record["Name"] == "Account 1" else None)
    bad, *good = answered(["bad", *ids[:2]])
    with pytest.raises(BatchFailedError):
        writer(client, results_of(tmp_path, [bad, *good]), max_failures=1).run()
    org.reset()
    org.add_records("Account", ({"Name": f"Account {number}"} for number in range(600)))
    result = writer(client, results_of(tmp_path, [*good, bad])).run()
    assert (result["written"], sizes(org)) == (2, [2])


def test_a_note_that_is_cut_costs_one_more_write(org, client, tmp_path, ids):
    org.add_rule("Account", lambda record: "No." if record["Id"] == ids[0] else None)
    path = results_of(tmp_path, answered(ids[:3]))
    with pytest.raises(BatchFailedError):
        writer(client, path, max_failures=0).run()
    (note,) = (tmp_path / "writes" / "task").glob("written-*")
    note.write_bytes(note.read_bytes()[:3])
    assert writer(client, path).run()["written"] == 2
    assert sizes(org) == [3, 3]


@pytest.mark.parametrize(
    "later",
    [
        lambda ids: answered(ids[201:203]),
        lambda ids: answered(ids[201:205]),
        lambda ids: answered([ids[201], ids[203], ids[202]]),
        lambda ids: answered([ids[0]], "another {}") + answered(ids[202:204]),
        lambda ids: answered(ids[201:204], "another {}"),
    ],
    ids=["fewer", "more", "in another order", "of another record", "with another answer"],
)
def test_results_that_change_while_they_are_written_are_no_success(org, client, tmp_path, ids, later):
    parts = {"one": ids[:200], "two": ids[200:201], "three": ids[201:204]}
    for name in parts:
        (tmp_path / name).mkdir()
    paths = [results_of(tmp_path / name, answered(keys)) for name, keys in parts.items()]
    hold = org.hold("write")
    with ThreadPoolExecutor() as pool:
        writing = pool.submit(writer(client, *paths).run)
        hold.wait_until_held(60)
        results_of(tmp_path / "three", later(ids))
        hold.release()
        with pytest.raises(AgentforceTransientError, match="changed while they were written"):
            writing.result()
    assert summaries(org)[ids[0]] == f"about {ids[0]}"


def test_a_dry_run_shows_what_would_change_and_writes_nothing(org, client, tmp_path, ids):
    rows = answered([*ids[:20], "001EM0009999999", "bad"])
    rows[0]["text"] = "it's \\ new"
    result = writer(client, results_of(tmp_path, rows)).run(dry_run=True)
    assert (result["written"], result["failed"], result["records"]) == (0, 1, 22)
    first = result["preview"][0]
    assert first == {
        "key": ids[0],
        "Id": ids[0],
        "exists": True,
        "changes": {"Agent_Summary__c": {"now": None, "then": "it's \\ new"}},
    }
    assert len(result["preview"]) == 10
    forms = [ids[1][:15], ids[2].lower(), ids[3]]
    rows = answered(forms, "x" * 2000)
    shown = writer(
        client,
        results_of(tmp_path, rows),
        fields={"Id": "{{ record.key }}", "Description": "{{ record.text }}"},
    ).run(dry_run=True)["preview"]
    assert [one["exists"] for one in shown] == [True] * 3
    assert shown[0]["changes"]["Description"]["then"] == "x" * 1000 + "… (2,000 characters)"
    assert org.count("write") == 0
    rows = answered(["A-001", "it's"])
    path = results_of(tmp_path, rows)
    found = writer(client, path, fields=CODE, external_id="Account_Code__c").run(dry_run=True)["preview"]
    assert [one["exists"] for one in found] == [True, False]
    assert found[0]["changes"]["Name"] == {"now": "Acme", "then": "about A-001"}


def test_many_failures_with_long_values_take_little_memory():
    tracemalloc.start()
    with WriteFailures() as failures:
        for number in range(2_000):
            values = {"Id": number, "Description": f"{number}" + "x" * 30_000}
            failures.add(WriteFailure(number, number, "NO", f"No {number % 4}.", (), values))
        size = sum(map(len, failures.lines()))
        again = sum(1 for _ in failures.lines())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (size > 60_000_000, again, peak < 10 * 2**20) == (True, 2_000, True)
    assert failures.reasons.startswith("500 × No 0 (first: 0); ")  # noqa: RUF001
    assert failures.reasons.endswith("; 1 other reasons")


@pytest.mark.parametrize("line", ["no JSON", "[1]", '{"key": 1}'])
def test_a_file_of_something_else_is_named(org, client, tmp_path, ids, line):
    path = results_of(tmp_path, answered(ids[:1]))
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(AgentforceInputError, match=r"line 3 of .* is not a row"):
        writer(client, path).run()
    assert org.count("write") == 0


def test_a_file_that_is_gone_or_a_folder_is_named(client, tmp_path):
    with pytest.raises(AgentforceInputError, match=r"results: the file .*results.jsonl does not exist"):
        writer(client, tmp_path / "results.jsonl").run()
    with pytest.raises(AgentforceInputError, match=r"results: .* is a folder, not a file"):
        writer(client, tmp_path).run()


def test_a_folder_that_cannot_be_written_fails_before_the_first_write(org, client, tmp_path, ids):
    path = results_of(tmp_path, answered(ids))
    (tmp_path / "writes").write_text("a file")
    with pytest.raises(LedgerError, match="writes"):
        writer(client, path).run()
    assert org.count("write") == 0
