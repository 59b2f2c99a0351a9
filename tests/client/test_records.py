"""The records of an org: pages of a query, what a describe allows, and what becomes of each record."""

from __future__ import annotations

import tracemalloc

import pytest
import wire
from quick import secrets_of
from telling import look_over

from airflow_provider_agentforce.client.records import check_writable
from airflow_provider_agentforce.client.sobjects import FieldInfo, SObjectInfo, id_key
from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceError,
    AgentforceInputError,
    AgentforceRequestError,
    AgentforceTransientError,
    RateLimitedError,
    TaskStoppedError,
)


@pytest.fixture
def records(client):
    return client.records


def failing(client, act, kind):
    """Return the error of *act* after looking it over."""
    with pytest.raises(AgentforceError) as caught:
        act()
    assert type(caught.value) is kind
    look_over(caught.value, client)
    assert secrets_of(client)
    return caught.value


# Queries


def test_a_record_has_typed_values_parents_children_and_nulls(org, records):
    org.add_records("Contact", [{"LastName": "Alone"}])
    soql = "SELECT LastName, Email, Account.Name, Account.Owner.Username FROM Contact"
    first, *_, alone = records.query(soql)
    assert first == {
        "LastName": "Coyote",
        "Email": "wile.coyote@acme.example",
        "Account": {"Name": "Acme", "Owner": {"Username": "agent.user@emulator.example"}},
    }
    assert alone == {"LastName": "Alone", "Email": None, "Account": None}
    account = next(
        records.query(
            "SELECT NumberOfEmployees, Agent_Checked__c, (SELECT LastName FROM Contacts) FROM Account"
        )
    )
    assert account == {
        "NumberOfEmployees": 1200,
        "Agent_Checked__c": False,
        "Contacts": [{"LastName": "Coyote"}],
    }


def test_groups_and_aggregates_are_records(records):
    groups = list(records.query("SELECT Industry, COUNT(Id) many FROM Account GROUP BY Industry"))
    assert {"Industry": "Technology", "many": 2} in groups
    assert list(records.query("SELECT MAX(NumberOfEmployees), COUNT(Id) FROM Account")) == [
        {"expr0": 22000, "expr1": 8}
    ]
    assert list(records.query("SELECT Id FROM Account WHERE Name = 'Unknown'")) == []


def test_fifty_thousand_records_are_read_in_25_calls_and_little_memory(make_org, make_client):
    org = make_org()
    org.add_records("Account", ({"Name": f"Account {number}"} for number in range(49_992)))
    found = make_client(org, timeout=60.0).records.query("SELECT Id, Name FROM Account")
    tracemalloc.start()
    ids = {record["Id"][8:15] for record in found}
    before = tracemalloc.get_traced_memory()[0]
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert (len(ids), org.count("query")) == (50_000, 25)
    assert peak < 64 * 2**20  # the emulator, which answers, runs in this process, too


def test_the_first_page_is_asked_for_at_once_and_the_others_when_wanted(make_org, make_client):
    org = make_org(query_page_size=3)
    found = make_client(org).records.query("SELECT Name FROM Account")
    assert org.count("query") == 1
    assert [next(found)["Name"] for _ in range(3)] == ["Acme", "Globex", "Initech"]
    assert org.count("query") == 1
    org.fail("query", status=503)
    assert len(list(found)) == 5
    assert org.count("query") == 4


@pytest.mark.parametrize(
    ("soql", "words"),
    [
        ("SELECT Id FORM Account", "MALFORMED_QUERY: unexpected token: 'FORM'"),
        ("SELECT TYPEOF Owner WHEN User THEN Id END FROM Account", "TYPEOF is not supported here"),
        ("SELECT Colour FROM Account", "INVALID_FIELD: No such column 'Colour'"),
        ("SELECT Id FROM Nothing__c", "INVALID_TYPE"),
    ],
)
def test_a_query_that_is_wrong_is_one_clear_error(org, client, records, soql, words):
    error = failing(client, lambda: records.query(soql), AgentforceRequestError)
    assert words in str(error)
    assert "Correct the SOQL" in error.hint
    assert org.count("query") == 1


UNREADY = (
    *("", "  ", "FIND {Acme}", "SELECT Id FROM Account WHERE Name = '\ud800'"),
    "SELECT Id FROM Account WHERE Name IN ('" + "x" * 20_000 + "')",
    *("SELECT COUNT() FROM Account", " select count( ) from Account WHERE Name = 'Unknown'"),
)


@pytest.mark.parametrize("soql", UNREADY)
def test_a_query_that_cannot_be_sent_is_refused(org, client, records, soql):
    with pytest.raises(AgentforceInputError, match="soql"):
        records.query(soql)
    assert org.requests == []


@pytest.mark.parametrize("status", [414, 431])
def test_a_query_that_is_too_long_with_its_token_says_how(org, client, records, status):
    org.fail("query", status=status, body="")
    error = failing(client, lambda: records.query("SELECT Id FROM Account"), AgentforceRequestError)
    assert "Split the query" in error.hint


@pytest.mark.parametrize("code", ["QUERY_TIMEOUT", "OPERATION_TOO_LARGE", "EXCEEDED_ID_LIMIT"])
def test_a_query_that_asks_too_much_says_so(org, client, records, code):
    org.fail("query", status=400, body=[{"errorCode": code, "message": "Too much."}])
    error = failing(client, lambda: records.query("SELECT Id FROM Account"), AgentforceRequestError)
    assert code in str(error)
    assert "smaller" in error.hint


def test_a_query_that_the_org_gives_up_may_be_asked_again(make_org, make_client):
    org = make_org(query_page_size=3)
    client = make_client(org)
    found = client.records.query("SELECT Name FROM Account")
    org.fail("query", error="rest_query_locator")
    error = failing(client, lambda: list(found), AgentforceTransientError)
    assert "between two pages" in str(error)


@pytest.mark.parametrize(
    "where", [None, "https://elsewhere.example/services/data/v63.0/query/x", "/other", 7]
)
def test_a_next_page_is_asked_of_this_org_alone(make_client, where):
    page = wire.response({"totalSize": 9, "done": False, "nextRecordsUrl": where, "records": [{"Id": "1"}]})
    with wire.Server(wire.answering(wire.TOKEN, page)) as server:
        client = make_client(host=server.url, api_url=server.url)
        found = client.records.query("SELECT Id FROM Account")
        assert next(found) == {"Id": "1"}
        failing(client, lambda: next(found), AgentforceTransientError)
        assert len(server.requests) == 2


def test_children_that_come_in_pages_are_followed(make_client):
    path = "/services/data/v63.0/query/01g-2"
    children = {"totalSize": 3, "done": False, "nextRecordsUrl": path, "records": [{"N": 1}, {"N": 2}]}
    record = {"attributes": {"type": "Account"}, "Contacts": children, "BillingAddress": {"city": "Bonn"}}
    page = wire.response({"totalSize": 1, "done": True, "records": [record]})
    more = wire.response({"totalSize": 3, "done": True, "records": [{"N": 3}]})
    with wire.Server(wire.answering(wire.TOKEN, page, more)) as server:
        client = make_client(host=server.url, api_url=server.url)
        (found,) = client.records.query("SELECT BillingAddress, (SELECT N FROM Contacts) FROM Account")
        assert found == {"Contacts": [{"N": 1}, {"N": 2}, {"N": 3}], "BillingAddress": {"city": "Bonn"}}
        assert server.requests[-1].target == path


def test_a_page_of_many_megabytes_is_read(org, records):
    org.add_records("Account", ({"Name": "Long", "Description": "x" * 32_000} for _ in range(300)))
    found = records.query("SELECT Description FROM Account WHERE Name = 'Long'")
    assert sum(len(record["Description"]) for record in found) == 9_600_000


def test_a_limit_of_the_org_is_a_transient_error_that_holds_up_no_agent(org, client, records):
    org.fail("query", error="rest_request_limit", times=3)
    error = failing(client, lambda: records.query("SELECT Id FROM Account"), RateLimitedError)
    assert "daily API calls" in error.hint
    client.end_session(client.start_session())


# Writes


def rows_of(org, count=2, **values):
    return [{"Id": record["Id"], **values} for record in org.records("Account")[:count]]


def test_records_are_written_and_each_has_a_result(org, records):
    rows = rows_of(org, 3, Agent_Summary__c="good")
    rows[1]["Agent_Summary__c"] = "x" * 1001
    first, second, third = records.write("Account", rows)
    assert (first.written, first.record_id) == (True, rows[0]["Id"])
    assert (second.code, second.fields) == ("STRING_TOO_LONG", ("Agent_Summary__c",))
    assert "data value too large" in second.message
    assert third.written
    assert [record["Agent_Summary__c"] for record in org.records("Account")[:3]] == ["good", None, "good"]


def test_records_are_upserted_and_their_ids_come_back(org, records):
    rows = [{"Account_Code__c": "A-001", "Name": "Acme 2"}, {"Account_Code__c": "N-1", "Name": "New"}]
    old, new = records.write("Account", rows, external_id="Account_Code__c")
    accounts = org.records("Account")
    assert (old.record_id, accounts[0]["Name"]) == (accounts[0]["Id"], "Acme 2")
    assert (new.record_id, accounts[-1]["Name"]) == (accounts[-1]["Id"], "New")


def test_a_locked_record_is_tried_again_alone(org, records):
    rows = rows_of(org, 3, Name="written")
    org.lock_record(rows[1]["Id"], times=2)
    assert all(result.written for result in records.write("Account", rows))
    sent = [len(one.body["records"]) for one in org.requests if one.operation == "write"]
    assert sent == [3, 1, 1]


def test_a_record_that_stays_locked_has_the_org_s_words(org, records):
    (row,) = rows_of(org, 1, Name="written")
    org.lock_record(row["Id"], times=9)
    (result,) = records.write("Account", [row])
    assert (result.code, result.written) == ("UNABLE_TO_LOCK_ROW", False)
    assert org.count("write") == 5


def refused(code, message):
    return {"success": False, "errors": [{"statusCode": code, "message": message, "fields": []}]}


def test_a_lock_that_an_automation_of_the_org_meets_is_a_lock(org, records):
    rows = rows_of(org, 2, Name="written")
    words = (
        "OrderTrigger: "
        + "line 1; " * 100
        + "execution of AfterUpdate caused by: DmlException: UNABLE_TO_LOCK_ROW, unable"
    )
    locked = refused("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", words)
    org.fail("write", body=[locked, {"id": rows[1]["Id"], "success": True, "errors": []}])
    assert all(result.written for result in records.write("Account", rows))
    assert [len(one.body["records"]) for one in org.requests if one.operation == "write"] == [2, 1]
    org.fail("write", body=[refused("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", "line 1; " * 100 + "No budget.")])
    (result,) = records.write("Account", rows[:1])
    assert result.message.endswith("No budget.")


def test_a_value_that_the_org_cannot_read_is_the_error_of_its_record(org, records):
    rows = rows_of(org, 8, Agent_Summary__c="good")
    rows[2]["Next_Review__c"] = rows[5]["Next_Review__c"] = "tomorrow"
    results = records.write("Account", rows)
    assert [place for place, one in enumerate(results) if not one.written] == [2, 5]
    assert results[2].code == "JSON_PARSER_ERROR"
    assert "Cannot deserialize instance of date" in results[2].message
    assert [one["Agent_Summary__c"] for one in org.records("Account")].count("good") == 6
    long = {"errorCode": "JSON_PARSER_ERROR", "message": "Cannot read " + "x" * 5_000}
    org.fail("write", status=400, body=[long])
    (result,) = records.write("Account", rows[:1])
    assert (result.code, "Cannot read" in result.message) == ("JSON_PARSER_ERROR", True)


def test_what_the_org_says_of_a_record_shows_no_secret(org, client, records):
    said = f"Refused: {org.consumer_secret}"
    org.fail("write", body=[refused("FIELD_CUSTOM_VALIDATION_EXCEPTION", said)])
    (result,) = records.write("Account", rows_of(org, 1, Name="x"))
    assert result.message == "Refused: ***"


def test_a_call_of_which_the_org_can_read_nothing_is_one_error(org, client, records):
    ids = org.add_records("Account", ({"Name": "x"} for _ in range(200)))
    rows = [{"Id": one, "Next_Review__c": "tomorrow"} for one in ids]
    error = failing(client, lambda: records.write("Account", rows), AgentforceRequestError)
    assert "JSON_PARSER_ERROR" in str(error)


LOST = [
    ({"drop": True, "after": True}, 2),
    ({"status": 503, "after": True}, 2),
    ({"status": 500, "after": True}, 2),
    ({"status": 502, "after": True}, 2),
    ({"cut": 5}, 2),
    ({"body": "<html>"}, 2),
    ({"body": []}, 2),
    ({"status": 429}, 2),
    ({"status": 401}, 2),
]


@pytest.mark.parametrize(("fault", "calls"), LOST, ids=str)
def test_a_write_whose_answer_is_lost_is_made_once_more(org, records, fault, calls):
    org.fail("write", **fault)
    assert all(result.written for result in records.write("Account", rows_of(org, Name="written")))
    assert org.count("write") == calls
    assert [record["Name"] for record in org.records("Account")[:3]] == ["written", "written", "Initech"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"status": 403}, AgentforceAuthError),
        ({"error": "rest_too_many"}, AgentforceRequestError),
        ({"status": 503, "times": 3}, AgentforceTransientError),
        ({"error": "rest_request_limit", "times": 3}, RateLimitedError),
    ],
    ids=str,
)
def test_a_write_that_fails_is_one_error(org, client, records, fault, kind):
    org.fail("write", **fault)
    error = failing(client, lambda: records.write("Account", rows_of(org, Name="x")), kind)
    assert error.operation == "write"


def test_an_org_under_maintenance_is_a_transient_error(org, client, records):
    org.read_only = True
    results = records.write("Account", rows_of(org, Name="x"))
    error = failing(client, lambda: check_writable(results), AgentforceTransientError)
    assert "read-only" in error.hint
    org.read_only = False
    code = "INSERT_UPDATE_DELETE_NOT_ALLOWED_DURING_MAINTENANCE"
    org.fail("write", status=400, body=[{"errorCode": code, "message": "Try again later."}])
    error = failing(
        client, lambda: records.write("Account", rows_of(org, Name="x")), AgentforceTransientError
    )
    assert "read-only" in error.hint


def test_a_stopped_client_writes_nothing(org, client, records):
    client.stop()
    with pytest.raises(TaskStoppedError):
        records.write("Account", rows_of(org, Name="x"))
    assert org.count("write") == 0


def test_too_many_records_at_once_are_a_mistake_of_the_caller(org, records):
    with pytest.raises(ValueError, match="200"):
        records.write("Account", [{}] * 201)


# Objects and fields


def test_an_object_is_described(org, client, records):
    account = records.describe("account")
    assert (account.name, account.prefix, account.updateable) == ("Account", "001", True)
    assert account.fields["agent_summary__c"].length == 1000
    error = failing(client, lambda: records.describe("Acount"), AgentforceInputError)
    assert "has no object Acount" in str(error)
    with pytest.raises(AgentforceInputError, match=r"sobject must be an API name.*such as Account or My_Obj"):
        records.describe("../x")


def test_fields_that_cannot_be_written_are_all_named_at_once(records):
    account = records.describe("Account")
    found = account.writable(["agent_summary__c", "Priority__c"])
    assert [field.name for field in found] == ["Agent_Summary__c", "Priority__c"]
    with pytest.raises(AgentforceInputError) as caught:
        account.writable(["Agent_Sumary__c", "CreatedDate", "Name"], external_id="Industry")
    for words in ("Industry is not an external id", "did you mean Agent_Summary__c?", "CreatedDate may not"):
        assert words in str(caught.value)
    with pytest.raises(AgentforceInputError, match="Code__c"):
        account.writable(["Name"], external_id="Code__c")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0015g00000XyZaB", "0015g00000XyZaBAAV", True),
        ("0015g00000XyZaBAAV", "0015G00000XYZABAAV", True),
        ("0015g00000XyZaBAAV", "0015g00000xyzabaav", True),
        ("0015g00000XyZaB", "0015g00000xyzab", False),
        ("0015g00000XyZaBAAV", "0015g00000xyzabAAA", False),
        ("001EM0000000001ZZZ", "001EM0000000001", True),
    ],
)
def test_two_forms_of_an_id_are_the_same_record(one, other, same):
    assert (id_key(one) == id_key(other)) is same


def test_an_object_that_may_not_be_written_says_so():
    described = {"name": "Log__c", "fields": [{"name": "Place__c", "type": "location"}], "updateable": False}
    log = SObjectInfo.from_describe(described)
    with pytest.raises(AgentforceInputError, match=r"Log__c may not be changed.*location"):
        log.writable(["Place__c"])


@pytest.mark.parametrize(
    ("given", "words"), [("acme", "not the id"), ("003EM0000000001", "begin with 001"), ("", "not the id")]
)
def test_an_id_of_something_else_is_refused(records, given, words):
    account = records.describe("Account")
    for valid in ("001EM0000000001", "001EM0000000001YAA", "001em0000000001yaa"):
        assert account.check_id(valid) == valid
    with pytest.raises(AgentforceInputError, match=words):
        account.check_id(given)


VALUES = [
    ("string", "  as is ", "  as is "),
    ("string", "", None),
    ("boolean", " True ", True),
    ("boolean", "false", False),
    ("int", "42", 42),
    ("int", "42.0", 42),
    ("int", "-2147483648", -2147483648),
    ("int", "0e999", 0),
    ("double", "0.5", 0.5),
    ("double", "-3", -3),
    ("currency", "123456789012345", 123456789012345),
    ("double", "9007199254740992", 9007199254740992),
    ("double", "10000000000000000000000", 10**22),
    ("percent", "1e2", 100.0),
    ("date", "2026-11-28", "2026-11-28"),
    ("datetime", "2026-11-28T15:00:00Z", "2026-11-28T15:00:00.000+00:00"),
    ("datetime", "2026-11-28 15:00:00.5+02:00", "2026-11-28T15:00:00.500+02:00"),
    ("datetime", "2026-11-28T15:00:00.000+0000", "2026-11-28T15:00:00.000+00:00"),
    ("datetime", "2026-11-28T15:00:00.123456789-0730", "2026-11-28T15:00:00.123-07:30"),
    ("datetime", "2026-11-28T15:00z", "2026-11-28T15:00:00.000+00:00"),
    ("time", "15:00", "15:00:00.000Z"),
    ("time", "15:00:00.500Z", "15:00:00.500Z"),
    ("time", "15:00:00.1234567", "15:00:00.123Z"),
    ("long", "9007199254740993.0", 9007199254740993),
    ("double", ".5", 0.5),
    ("double", "1e308", 1e308),
    ("percent", "0.30000000000000004", 0.30000000000000004),
    ("reference", "001EM0000000001", "001EM0000000001"),
    ("picklist", "High", "High"),
    ("multipicklist", "High;Low", "High;Low"),
    ("unheard_of", "x", "x"),
]
REFUSED = [
    ("string", "x" * 11, "accepts 10 characters, but the text has 11"),
    ("textarea", "x" * 11, "accepts 10 characters"),
    ("boolean", "yes", "true or false"),
    ("string", "\ud800", "half of a surrogate pair"),
    ("int", "4.2", "a whole number"),
    ("int", "2147483648", "at most 2,147,483,647"),
    ("long", "9223372036854775808", "a whole number"),
    ("long", "1e999999999", "a whole number"),
    ("int", "1_000", "a whole number"),
    ("double", "1_000", "a number"),
    ("currency", "1234567890123456.78", "would get 1234567890123456.8 for 1234567890123456.78"),
    ("double", "1.0000000000000000123", "Round it"),
    ("currency", "123456789012345678", "would get 1.2345678901234568e.17 for 123456789012345678"),
    ("double", "9007199254740993", "Round it"),
    ("double", "\u0661", "a number"),
    ("time", "3 pm", "a time of day"),
    ("time", "15:00:00+02:00", "a time of day"),
    ("datetime", "2026-02-30T15:00:00Z", "with its zone"),
    ("int", "1e400", "a whole number"),
    ("double", "NaN", "a number"),
    ("double", "high", "a number"),
    ("double", "1" + "0" * 400, "a number"),
    ("date", "28.11.2026", "a date such as"),
    ("date", "20261128", "a date such as"),
    ("date", "2026-W48-6", "a date such as"),
    ("date", "2026-02-30", "a date such as"),
    ("time", "1500", "a time of day"),
    ("datetime", "2026-11-28T15:00:00", "with its zone"),
    ("reference", "Acme", "the id of a record"),
    ("picklist", "Urgent", "accepts one of High, Low"),
    ("multipicklist", "High;x", "accepts one of High, Low"),
]


def field(kind, **more):
    values = frozenset({"High", "Low"}) if "picklist" in kind else frozenset()
    return FieldInfo("Field__c", kind, length=10, values=values, **more)


@pytest.mark.parametrize(("kind", "text", "value"), VALUES)
def test_a_text_becomes_the_value_of_its_field(kind, text, value):
    found = field(kind).value_of(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(("kind", "text", "words"), REFUSED)
def test_a_text_that_a_field_does_not_take_is_refused_with_the_reason(kind, text, words):
    with pytest.raises(AgentforceInputError, match=f"^Field__c .*{words}"):
        field(kind).value_of(text)


def test_a_field_that_may_not_be_empty_refuses_an_empty_text():
    with pytest.raises(AgentforceInputError, match="may not be empty"):
        field("string", nillable=False).value_of(" ")


def test_ids_that_differ_in_case_are_the_same_unless_the_field_says_otherwise():
    assert field("string").identity_of("A-1") == field("string").identity_of("a-1")
    exact = field("string", case_sensitive=True)
    assert exact.identity_of("A-1") != exact.identity_of("a-1")
