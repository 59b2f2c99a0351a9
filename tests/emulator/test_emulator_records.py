"""The org's records over HTTP: queries with pages, describe, and writes of many records."""

from urllib.parse import quote

import pytest

from airflow_provider_agentforce.emulator import SObject, SObjectField

DATA = "/services/data/v63.0"


def ask(caller, soql, **headers):
    return caller.call("GET", f"{DATA}/query?q={quote(soql)}", headers=headers).json()


def write(caller, *rows, by=None, sobject="Account", **more):
    records = [{"attributes": {"type": sobject}, **row} for row in rows]
    path = f"{DATA}/composite/sobjects" + (f"/{sobject}/{by}" if by else "")
    return caller.call("PATCH", path, {"allOrNone": False, "records": records, **more})


def codes(answer):
    return [[error["statusCode"] for error in one["errors"]] for one in answer.json()]


@pytest.fixture
def acme(org):
    return org.records("Account")[0]["Id"]


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("Name LIKE 'w%'", ["Wayne Shipping", "Wonka Sweets"]),
        ("NumberOfEmployees >= 5400 AND Industry != 'Energy'", ["Hooli", "Wayne Shipping"]),
        ("BillingCountry IN ('DE', 'ch')", ["Stark Metals", "Wonka Sweets"]),
        ("BillingCountry NOT IN ('US', 'GB', 'DE')", ["Wonka Sweets"]),
        ("Name = 'Acme' OR (Name = 'Hooli' AND Agent_Checked__c = false)", ["Acme", "Hooli"]),
        ("NumberOfEmployees < 100 OR CreatedDate < 2020-01-01T00:00:00Z", ["Wonka Sweets"]),
        ("Id IN (SELECT AccountId FROM Contact WHERE LastName = 'Belson')", ["Hooli"]),
    ],
)
def test_conditions_find_records(caller, condition, names):
    found = ask(caller, f"SELECT Name FROM Account WHERE {condition}")["records"]  # noqa: S608 - of this test
    assert [record["Name"] for record in found] == names


def test_parents_and_children_come_with_a_record(caller, org):
    org.add_records("Contact", [{"LastName": "Alone"}])
    soql = "SELECT LastName, Account.Name, Account.Owner.Username FROM Contact ORDER BY CreatedDate"
    first, *_, alone = ask(caller, soql)["records"]
    assert first["Account"]["Name"] == "Acme"
    assert first["Account"]["Owner"]["Username"] == "agent.user@emulator.example"
    assert alone["Account"] is None
    [acme] = ask(caller, "SELECT (SELECT LastName FROM Contacts) FROM Account LIMIT 1")["records"]
    assert [one["LastName"] for one in acme["Contacts"]["records"]] == ["Coyote"]


def test_records_are_counted(caller):
    assert ask(caller, "SELECT COUNT() FROM Account") == {"totalSize": 8, "done": True, "records": []}
    soql = "SELECT Industry, COUNT(Id) many, COUNT(Priority__c) FROM Account GROUP BY Industry"
    groups = ask(caller, soql)["records"]
    assert groups[0] == {
        "attributes": {"type": "AggregateResult"},
        "Industry": "Manufacturing",
        "many": 2,
        "expr0": 0,
    }
    assert sum(group["many"] for group in groups) == 8


def test_records_are_summed_up(caller):
    soql = (
        "SELECT SUM(NumberOfEmployees), AVG(NumberOfEmployees) mean, MIN(Name), MAX(NumberOfEmployees), "
        "COUNT_DISTINCT(BillingCountry), SUM(AnnualRevenue) FROM Account"
    )
    (found,) = ask(caller, soql)["records"]
    del found["attributes"]
    assert found == {
        "expr0": 37605,
        "mean": 4700.625,
        "expr1": "Acme",
        "expr2": 22000,
        "expr3": 4,
        "expr4": None,
    }


@pytest.mark.parametrize(
    ("soql", "word"),
    [
        ("SELECT TYPEOF Owner WHEN User THEN Id END FROM Account", "TYPEOF"),
        ("SELECT FIELDS(ALL) FROM Account LIMIT 200", "FIELDS"),
        ("SELECT Id FROM Account WHERE CreatedDate = LAST_N_DAYS:7", "LAST_N_DAYS"),
        ("SELECT Id FROM Account WHERE CreatedDate > today", "TODAY"),
        ("SELECT Id FROM Account WHERE NOT Name = 'Acme'", "NOT"),
        ("SELECT Id FROM Account ORDER BY Name NULLS LAST", "NULLS"),
        ("SELECT Id FROM Account LIMIT 2 OFFSET 1", "OFFSET"),
        ("SELECT Industry FROM Account GROUP BY Industry HAVING COUNT(Id) > 1", "HAVING"),
    ],
)
def test_soql_that_a_real_org_has_and_this_has_not_is_named(caller, soql, word):
    (error,) = ask(caller, soql)
    assert error["errorCode"] == "MALFORMED_QUERY"
    assert error["message"] == f"{word} is not supported here; a real org may accept the query"


@pytest.mark.parametrize(
    ("soql", "words"),
    [
        ("SELECT Id, COUNT(Id) FROM Account", "Field must be grouped or aggregated: Id"),
        ("SELECT COUNT(Id), Owner.Name FROM Account", "Field must be grouped or aggregated: Owner.Name"),
        (
            "SELECT Name, COUNT(Id) FROM Account GROUP BY Industry",
            "Field must be grouped or aggregated: Name",
        ),
        ("SELECT Name FROM Account GROUP BY Industry", "Field must be grouped or aggregated: Name"),
        ("SELECT COUNT(Id) FROM Account ORDER BY Name", "Field must be grouped or aggregated: Name"),
        ("SELECT COUNT(), Name FROM Account", "COUNT() must be the only element"),
        ("SELECT Name, COUNT() FROM Account", "COUNT() must be the only element"),
    ],
)
def test_a_field_beside_an_aggregate_is_grouped(caller, soql, words):
    (error,) = ask(caller, soql)
    assert (error["errorCode"], words in error["message"]) == ("MALFORMED_QUERY", True)


def test_groups_are_in_the_order_of_their_fields(caller):
    soql = "SELECT industry, COUNT(Id) FROM Account GROUP BY Industry ORDER BY Industry DESC LIMIT 2"
    assert [one["Industry"] for one in ask(caller, soql)["records"]] == ["Technology", "Shipping"]


def test_an_id_of_18_characters_is_valid_in_any_case(caller):
    record_id = caller.org.records("Account")[0]["Id"]
    for number, form in enumerate((record_id, record_id[:15], record_id.lower(), record_id.upper())):
        (done,) = write(caller, {"Id": form, "Agent_Score__c": number}).json()
        assert done == {"id": record_id, "success": True, "errors": []}
    assert codes(write(caller, {"Id": record_id[:15].lower()})) == [["INVALID_CROSS_REFERENCE_KEY"]]
    assert (
        codes(write(caller, {"Id": record_id[:15]}, {"Id": record_id.upper()})) == [["DUPLICATE_VALUE"]] * 2
    )


def test_a_query_is_answered_in_pages(make_caller):
    caller = make_caller(query_page_size=300)
    caller.org.add_records("Account", ({"Name": f"More {number}"} for number in range(692)))
    page = ask(caller, "SELECT Name FROM Account")
    names, sizes = [], []
    while True:
        names += [record["Name"] for record in page["records"]]
        sizes.append(len(page["records"]))
        assert page["totalSize"] == 700
        if page["done"]:
            break
        page = caller.call("GET", page["nextRecordsUrl"]).json()
    assert sizes == [300, 300, 100]
    assert len(set(names)) == 700
    small = ask(caller, "SELECT Name FROM Account", **{"Sforce-Query-Options": "batchSize=200"})
    assert len(small["records"]) == 200
    gone = caller.call("GET", f"{DATA}/query/01gEM0000099999-200")
    assert (gone.status_code, gone.json()[0]["errorCode"]) == (400, "INVALID_QUERY_LOCATOR")


def test_an_object_is_described(caller):
    found = caller.call("GET", f"{DATA}/sobjects/account/describe").json()
    assert (found["name"], found["keyPrefix"]) == ("Account", "001")
    fields = {field["name"]: field for field in found["fields"]}
    assert fields["Agent_Summary__c"]["length"] == 1000
    assert (fields["CreatedDate"]["updateable"], fields["Account_Code__c"]["externalId"]) == (False, True)
    assert [value["value"] for value in fields["Priority__c"]["picklistValues"]] == ["High", "Medium", "Low"]
    assert caller.call("GET", f"{DATA}/sobjects/Nothing__c/describe").status_code == 404


def test_records_are_updated_in_the_order_of_the_call(caller, org, acme):
    other = org.records("Account")[1]["Id"]
    answer = write(
        caller,
        {"id": acme[:15], "Agent_Summary__c": "good", "Agent_Score__c": 0.5},
        {"id": other, "agent_checked__c": True, "Description": ""},
    )
    assert answer.json() == [{"id": one, "success": True, "errors": []} for one in (acme, other)]
    first, second = org.records("Account")[:2]
    assert (first["Agent_Summary__c"], first["Agent_Score__c"]) == ("good", 0.5)
    assert (second["Agent_Checked__c"], second["Description"]) == (True, None)
    assert first["LastModifiedDate"] > first["CreatedDate"]


def test_records_are_upserted_by_an_external_id(caller, org):
    answer = write(
        caller,
        {"Account_Code__c": "a-001", "Agent_Summary__c": "known"},
        {"Account_Code__c": "B-1", "Name": "New"},
        {"Account_Code__c": "B-2"},
        by="Account_Code__c",
    )
    assert [one.get("created") for one in answer.json()] == [False, True, None]
    assert codes(answer)[2] == ["REQUIRED_FIELD_MISSING"]
    assert org.records("Account")[0]["Agent_Summary__c"] == "known"
    assert org.records("Account")[-1]["Account_Code__c"] == "B-1"
    assert write(caller, {}, by="Name").status_code == 404


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"Agent_Summary__c": "x" * 1001}, "STRING_TOO_LONG"),
        ({"Name": None}, "REQUIRED_FIELD_MISSING"),
        ({"Open_Cases__c": 1}, "INVALID_FIELD_FOR_INSERT_UPDATE"),
        ({"Priority__c": "Urgent"}, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
        ({"id": "003EM0000000001AAA"}, "MALFORMED_ID"),
        ({"id": "acme"}, "MALFORMED_ID"),
        ({"id": "001EM0000000999"}, "INVALID_CROSS_REFERENCE_KEY"),
    ],
)
def test_a_record_that_is_refused_leaves_the_others(caller, org, acme, row, code):
    good = org.records("Account")[1]["Id"]
    answer = write(caller, {"id": acme, **row}, {"id": good, "Agent_Summary__c": "written"})
    assert codes(answer) == [[code], []]
    assert org.records("Account")[0]["Agent_Summary__c"] is None
    assert org.records("Account")[1]["Agent_Summary__c"] == "written"
    answer = write(caller, {"id": acme, **row}, {"id": good, "Name": "rolled back"}, allOrNone=True)
    assert codes(answer) == [[code], ["ALL_OR_NONE_OPERATION_ROLLED_BACK"]]
    assert org.records("Account")[1]["Name"] == "Globex"


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([{"Nothing__c": 1}], "INVALID_FIELD"),
        ([{"Agent_Score__c": "high"}], "JSON_PARSER_ERROR"),
        ([{"Agent_Score__c": True}], "JSON_PARSER_ERROR"),
        ([{"Next_Review__c": "28.11.2026"}], "JSON_PARSER_ERROR"),
        ([{"Agent_Checked_At__c": "2026-11-28 15:00"}], "JSON_PARSER_ERROR"),
        ([{"NumberOfEmployees": 2**31}], "JSON_PARSER_ERROR"),
        ([{"attributes": {"type": "Nothing__c"}}], "INVALID_TYPE"),
        ([{"attributes": None}], "INVALID_TYPE"),
        ([{"Name": "x"}] * 201, "EXCEEDED_ID_LIMIT"),
    ],
)
def test_a_call_that_makes_no_sense_writes_nothing(caller, org, acme, rows, code):
    answer = write(caller, *({"id": acme, **row} for row in rows))
    assert (answer.status_code, answer.json()[0]["errorCode"]) == (400, code)
    assert org.records("Account")[0]["Name"] == "Acme"


def test_one_record_twice_in_a_call_is_refused(caller, acme):
    assert codes(write(caller, {"id": acme}, {"id": acme[:15]})) == [["DUPLICATE_VALUE"]] * 2


def test_rules_locks_and_maintenance_refuse_a_record(caller, org, acme):
    org.add_rule("Account", lambda record: "Too risky." if record["Agent_Score__c"] == 0 else None)
    org.lock_record(acme)
    assert codes(write(caller, {"id": acme, "Name": "a"})) == [["UNABLE_TO_LOCK_ROW"]]
    assert codes(write(caller, {"id": acme, "Agent_Score__c": 0})) == [["FIELD_CUSTOM_VALIDATION_EXCEPTION"]]
    assert codes(write(caller, {"id": acme, "Name": "b"})) == [[]]
    org.read_only = True
    assert codes(write(caller, {"id": acme, "Name": "c"})) == [
        ["INSERT_UPDATE_DELETE_NOT_ALLOWED_DURING_MAINTENANCE"]
    ]
    assert org.records("Account")[0]["Name"] == "b"
    org.reset()
    assert (org.read_only, org.records("Account")[0]["Name"]) == (False, "Acme")


def test_a_write_needs_a_token_and_meets_faults(caller, org, acme):
    org.fail("write", status=503, after=True)
    answer = write(caller, {"id": acme, "Name": "written all the same"})
    assert (answer.status_code, answer.json()[0]["errorCode"]) == (503, "SERVER_UNAVAILABLE")
    assert org.records("Account")[0]["Name"] == "written all the same"
    org.fail("query", error="rest_request_limit")
    assert ask(caller, "SELECT Id FROM Account")[0]["errorCode"] == "REQUEST_LIMIT_EXCEEDED"
    caller.bearer = "another"
    assert write(caller, {"id": acme}).status_code == 401


def test_the_page_shows_the_records_that_changed_last(caller, org):
    changed = org.records("Account")[3]["Id"]
    write(caller, {"id": changed, "Agent_Summary__c": "new"})
    account, *_ = caller.call("GET", "/emulator/sessions").json()["records"]
    assert (account["object"], account["total"]) == ("Account", 8)
    assert account["rows"][0]["Agent_Summary__c"] == "new"
    assert "Description" not in account["rows"][0]


def test_an_org_may_have_objects_of_its_user(make_caller):
    order = SObject(name="Order__c", prefix="a01", fields=(SObjectField(name="Text__c", length=3),))
    caller = make_caller(sobjects=[order])
    [made] = caller.org.add_records("Order__c", [{"Text__c": "abc"}])
    assert made.startswith("a01")
    assert ask(caller, "SELECT Text__c FROM Order__c")["records"][0]["Text__c"] == "abc"
    assert ask(caller, "SELECT Id FROM Account")[0]["errorCode"] == "INVALID_TYPE"
    for name, fields in (("Account", {}), ("Order__c", {"Nothing": 1})):
        with pytest.raises(ValueError, match=name if not fields else "Nothing"):
            caller.org.add_records(name, [fields])
    with pytest.raises(ValueError, match="unknown type"):
        SObjectField(name="Odd", type="colour")
