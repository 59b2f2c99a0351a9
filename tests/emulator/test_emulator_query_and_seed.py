import re
from urllib.parse import quote

import pytest
from emulator_caller import Caller, read_events

FULL = (
    "SELECT Id, DeveloperName, MasterLabel, BotUserId, Type, AgentType, AgentTemplate, "
    "(SELECT Id, Status, VersionNumber FROM BotVersions WHERE IsDeleted=false ORDER BY VersionNumber) "
    "FROM BotDefinition WHERE DeveloperName = '{}' LIMIT 1"
)


def ask(caller, soql):
    return caller.call("GET", "/services/data/v63.0/query?q=" + quote(soql))


def test_an_agent_is_found_by_its_developer_name(caller, org):
    body = ask(caller, FULL.format("Service_Agent")).json()
    assert (body["totalSize"], body["done"]) == (1, True)
    [record] = body["records"]
    assert record["Id"] == org.agent_id
    assert record["attributes"]["type"] == "BotDefinition"
    assert record["attributes"]["url"] == f"/services/data/v63.0/sobjects/BotDefinition/{org.agent_id}"
    assert record["BotUserId"].startswith("005")
    assert record["BotVersions"]["records"][0]["Status"] == "Active"


def test_employee_agents_have_no_user_and_inactive_ones_no_active_version(caller):
    employee = ask(caller, FULL.format("Employee_Agent")).json()["records"][0]
    assert (employee["AgentType"], employee["BotUserId"]) == ("AgentforceEmployeeAgent", None)
    inactive = ask(caller, FULL.format("Inactive_Agent")).json()["records"][0]
    assert inactive["BotVersions"]["records"][0]["Status"] == "Inactive"


def test_unknown_names_find_nothing_and_quotes_are_understood(caller):
    assert ask(caller, FULL.format("Nobody")).json() == {"totalSize": 0, "done": True, "records": []}
    assert ask(caller, FULL.format(r"x\' OR Id != \'")).json()["records"] == []


@pytest.mark.parametrize("length", [15, 18])
def test_an_agent_is_found_by_its_id_in_either_form(caller, org, length):
    soql = "SELECT Id FROM BotDefinition WHERE Id = '{}'"
    records = ask(caller, soql.format(org.agent_id[:length])).json()["records"]
    assert [record["Id"] for record in records] == [org.agent_id]
    assert ask(caller, soql.format("0XxEM0000000009")).json()["records"] == []


def test_all_agents_are_listed_with_the_fields_asked_for(caller, org):
    records = ask(caller, "select Id, DeveloperName from BotDefinition").json()["records"]
    assert [record["Id"] for record in records] == [agent.id for agent in org.agents]
    assert set(records[0]) == {"attributes", "Id", "DeveloperName"}


NAMES = "SELECT DeveloperName FROM BotDefinition {}"
OFFICIAL = (
    "SELECT Id, IsDeleted, CreatedDate, LastModifiedById, SystemModstamp, Description, (SELECT Id, "
    "IsDeleted, BotDefinitionId, ToneType, CopilotPrimaryLanguage FROM BotVersions "
    "WHERE IsDeleted = false ORDER BY VersionNumber) FROM BotDefinition WHERE Id = '{}' LIMIT 1"
)


def test_every_field_that_the_official_library_asks_for_is_there(caller, org):
    [record] = ask(caller, OFFICIAL.format(org.agent_id)).json()["records"]
    assert (record["IsDeleted"], record["Description"]) == (False, None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000\+0000", record["CreatedDate"])
    [version] = record["BotVersions"]["records"]
    assert (version["BotDefinitionId"], version["IsDeleted"]) == (org.agent_id, False)


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ("WHERE Id IN (SELECT BotDefinitionId FROM BotVersion WHERE Status = 'active')", "SE"),
        ("WHERE BotUserId = null", "E"),
        ("WHERE BotUserId != null AND IsDeleted = false ORDER BY MasterLabel DESC", "SI"),
        ("ORDER BY MasterLabel ASC LIMIT 2", "EI"),
        ("order  by AgentType, masterlabel desc", "ESI"),
        ("WHERE masterlabel = 'service agent'", "S"),
        ("WHERE IsDeleted = true", ""),
    ],
)
def test_conditions_order_and_limit_are_understood(caller, conditions, found):
    records = ask(caller, NAMES.format(conditions)).json()["records"]
    assert [record["DeveloperName"][0] for record in records] == list(found)


def test_versions_name_their_agent_and_a_record_without_children_has_none(caller):
    soql = "SELECT Status, BotDefinition.MasterLabel FROM BotVersion WHERE BotDefinition.Type != 'x' LIMIT 1"
    [version] = ask(caller, soql).json()["records"]
    assert version["BotDefinition"]["attributes"]["type"] == "BotDefinition"
    assert version["BotDefinition"]["MasterLabel"] == "Service Agent"
    soql = "SELECT (SELECT Id FROM BotVersions WHERE Status = 'Inactive') FROM BotDefinition LIMIT 1"
    assert ask(caller, soql).json()["records"][0]["BotVersions"] is None


def test_columns_of_a_query_are_described(caller):
    soql = "SELECT Id, (SELECT Status FROM BotVersions) FROM BotDefinition"
    path = "/services/data/v67.0/query?columns=true&q="
    columns = caller.call("GET", path + quote(soql)).json()["columnMetadata"]
    assert [(one["columnName"], one["aggregate"]) for one in columns] == [
        ("Id", False),
        ("BotVersions", True),
    ]
    assert [one["columnName"] for one in columns[1]["joinColumns"]] == ["Status"]
    none = caller.call("GET", path + quote(soql + " WHERE Id = null"))
    assert none.json() == {"columnMetadata": []}


def test_the_versions_of_the_api_are_listed_without_a_token(caller):
    caller.bearer = None
    found = caller.call("GET", "/services/data").json()
    assert {"label", "url", "version"} == set(found[0])
    assert [float(one["version"]) for one in found] == sorted(float(one["version"]) for one in found)
    path = found[-1]["url"]
    assert caller.call("GET", path).status_code == 401
    caller.login()
    # A client whose instance URL ends with a slash asks like this.
    assert caller.call("GET", "/" + path).json()["query"].endswith("/query")


def test_one_record_is_read_with_every_field(caller, org):
    user_id = caller.call("GET", "/services/oauth2/userinfo").json()["user_id"]
    path = "/services/data/v51.0/sobjects"
    user = caller.call("GET", f"{path}/User/{user_id}").json()
    assert (user["Id"], user["Username"]) == (user_id, "agent.user@emulator.example")
    agent = caller.call("GET", f"{path}/BotDefinition/{org.agent_id[:15]}").json()
    assert (agent["DeveloperName"], "BotVersions" in agent) == ("Service_Agent", False)
    for missing in ("User/005EM0000000009AAA", "Account/001EM0000000009AAA"):
        assert caller.call("GET", f"{path}/{missing}").json()[0]["errorCode"] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("soql", "code"),
    [
        ("", "MALFORMED_QUERY"),
        ("SELECT Id", "MALFORMED_QUERY"),
        ("SELECT Id FROM BotDefinition WHERE", "MALFORMED_QUERY"),
        ("SELECT Id FROM BotDefinition WHERE Id > 1", "INVALID_QUERY_FILTER_OPERATOR"),
        ("SELECT Id FROM BotDefinition WHERE Id = 'x", "MALFORMED_QUERY"),
        ("SELECT Id FROM BotDefinition ORDER Id", "MALFORMED_QUERY"),
        ("SELECT Id FROM BotDefinition LIMIT x", "MALFORMED_QUERY"),
        ("SELECT Id FROM BotDefinition; DROP", "MALFORMED_QUERY"),
        ("SELECT (SELECT Id FROM Contacts) FROM BotDefinition", "INVALID_FIELD"),
        ("SELECT Id FROM BotDefinition WHERE Colour = 'red'", "INVALID_FIELD"),
        ("SELECT Colour FROM BotDefinition WHERE Id = null", "INVALID_FIELD"),
        ("SELECT Id FROM Nothing__c", "INVALID_TYPE"),
        ("SELECT TYPEOF Owner WHEN User THEN Name END FROM Account", "MALFORMED_QUERY"),
        ("SELECT Id FROM Account WHERE NumberOfEmployees > 'x'", "INVALID_QUERY_FILTER_OPERATOR"),
        ("SELECT Colour FROM BotDefinition", "INVALID_FIELD"),
    ],
)
def test_other_queries_are_refused(caller, soql, code):
    answer = ask(caller, soql)
    assert answer.status_code == 400
    assert answer.json()[0]["errorCode"] == code


def test_query_needs_a_valid_token_of_any_kind(make_caller):
    caller = make_caller(opaque_tokens=True)
    assert ask(caller, FULL.format("Service_Agent")).status_code == 200
    caller.org.revoke_tokens()
    answer = ask(caller, FULL.format("Service_Agent"))
    assert answer.status_code == 401
    assert answer.json()[0]["errorCode"] == "INVALID_SESSION_ID"


@pytest.fixture
def seed(make_caller):
    return make_caller(mode="seed")


def test_seed_token_is_opaque_and_short(seed):
    body = seed.ask_token().json()
    assert set(body) == {"access_token", "instance_url", "id", "token_type", "issued_at", "signature"}
    assert re.fullmatch(r"\d{10}", body["issued_at"])
    assert body["access_token"].startswith("00D")


def test_seed_start_has_three_fields(seed):
    body = seed.start().json()
    assert set(body) == {"sessionId", "createdDate", "status"}
    assert re.fullmatch(r"0Xx5e\w{10}", body["sessionId"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["createdDate"])
    assert body["status"] == "ACTIVE"


def test_seed_answer_is_a_text_of_the_agent(seed):
    body = seed.send(seed.open(), "hello", 4).json()
    assert body == {
        "messages": [
            {
                "sequenceId": 4,
                "type": "Text",
                "text": "I am the emulator's agent and heard: hello",
                "role": "Agent",
            }
        ]
    }


def test_seed_keeps_the_shape_of_types_the_guide_does_not_know(seed):
    kinds = [message["type"] for message in seed.send(seed.open(), "goodbye").json()["messages"]]
    assert kinds == ["Text", "SessionEnded"]


def test_seed_session_started_for_streaming_answers_with_events(seed):
    session = seed.open(featureSupport="Streaming")
    answer = seed.send(session)
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert read_events(answer.content)[-1][0] == "END_OF_TURN"


def test_seed_end_and_unknown_agent(seed):
    assert seed.end(seed.open()).json()["messages"][0]["type"] == "SessionEnded"
    assert seed.start("0XxEM0000000009").status_code == 404


def test_official_session_started_for_streaming_still_answers_json(caller):
    answer = caller.send(caller.open(featureSupport="Streaming"))
    assert answer.headers["Content-Type"] == "application/json"


def test_caller_without_login_cannot_query(org):
    with Caller(org) as stranger:
        assert ask(stranger, "SELECT Id FROM BotDefinition").status_code == 401


def test_a_version_that_is_published_is_the_active_one(make_caller):
    caller = make_caller()
    before = ask(caller, FULL.format("Service_Agent")).json()["records"][0]["BotVersions"]["records"]
    caller.org.publish()
    after = ask(caller, FULL.format("Service_Agent")).json()["records"][0]["BotVersions"]["records"]
    assert [(one["VersionNumber"], one["Status"]) for one in after] == [(1, "Inactive"), (2, "Active")]
    assert after[0]["Id"] == before[0]["Id"] != after[1]["Id"]
    caller.org.reset()
    caller.login()
    again = ask(caller, FULL.format("Service_Agent")).json()["records"][0]["BotVersions"]["records"]
    assert again == before
