import uuid

import pytest
from emulator_caller import BASE, assert_refused

from airflow_provider_agentforce.emulator import Agent

MISSING = "Missing required creator property '{}'"


def agent_called(org, name):
    return next(agent.id for agent in org.agents if agent.developer_name == name)


def test_start_answers_with_session_links_and_greeting(caller, org):
    answer = caller.start(tz="Europe/Berlin")
    assert answer.status_code == 200
    assert answer.headers["x-session-mode"] == "default"
    body = answer.json()
    session = f"{org.url}{BASE}/sessions/{body['sessionId']}"
    assert body["_links"] == {
        "self": None,
        "messages": {"href": f"{session}/messages"},
        "messagesStream": {"href": f"{session}/messages/stream"},
        "session": {"href": f"{org.url}{BASE}/agents/{org.agent_id}/sessions"},
        "end": {"href": session},
    }
    [greeting] = body["messages"]
    assert greeting.pop("id")
    assert greeting == {
        "type": "Inform",
        "feedbackId": "",
        "planId": "",
        "isContentSafe": True,
        "message": "Hi, I'm the emulator's agent. How can I help you?",
        "result": [],
        "citedReferences": [],
    }


def test_session_id_is_a_uuid_of_version_7(caller):
    assert uuid.UUID(caller.open()).version == 7


def test_session_record_holds_what_was_sent(caller, org):
    variables = [{"name": "$Context.EndUserLanguage", "type": "Text", "value": "de"}]
    session = caller.open(tz="Europe/Berlin", variables=variables, externalSessionKey="my key")
    record = org.sessions[session]
    assert (record.tz, record.external_session_key, record.bypass_user) == ("Europe/Berlin", "my key", True)
    assert record.agent_id == org.agent_id
    assert record.variables == {"$Context.EndUserLanguage": "de"}
    assert record.open
    assert org.open_sessions == [session]


def test_only_two_fields_are_required(caller):
    answer = caller.start(bypassUser=..., streamingCapabilities=...)
    assert answer.status_code == 200
    assert caller.org.sessions[answer.json()["sessionId"]].bypass_user is False


def test_an_external_session_key_may_be_used_twice(caller, org):
    first, second = caller.open(externalSessionKey="same"), caller.open(externalSessionKey="same")
    assert first != second
    assert org.open_sessions == [first, second]


@pytest.mark.parametrize(
    "changes",
    [
        {"tz": None, "variables": None},
        {"variables": []},
        {"featureSupport": "Streaming"},
        {"featureSupport": "Sync"},
        {"streamingCapabilities": {"chunkTypes": []}},
        {"streamingCapabilities": {"chunkTypes": ["Text", "LightningChunk"]}},
        {"surfaceConfig": {"surfaceType": "Custom"}},
        {"bypassUser": "true"},
        {"bypassUser": False},
        {"externalSessionKey": "session_1234567890"},
    ],
)
def test_optional_fields_are_accepted(caller, changes):
    assert caller.start(**changes).status_code == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"externalSessionKey": ...}, MISSING.format("externalSessionKey")),
        ({"externalSessionKey": None}, MISSING.format("externalSessionKey")),
        ({"externalSessionKey": ""}, "externalSessionKey"),
        ({"externalSessionKey": 7}, "externalSessionKey"),
        ({"instanceConfig": ...}, MISSING.format("instanceConfig")),
        ({"instanceConfig": {}}, MISSING.format("endpoint")),
        ({"instanceConfig": "x"}, "instanceConfig"),
        ({"userId": "005"}, 'Unrecognized field "userId"'),
        ({"instanceConfig": {"endpoint": "http://localhost", "x": 1}}, 'Unrecognized field "x"'),
        ({"streamingCapabilities": {"x": 1}}, 'Unrecognized field "x"'),
        ({"streamingCapabilities": {"chunkTypes": "Text"}}, "chunkTypes"),
        ({"streamingCapabilities": []}, "streamingCapabilities"),
        ({"featureSupport": 1}, "featureSupport"),
        ({"bypassUser": "yes"}, "bypassUser"),
        ({"bypassUser": 1}, "bypassUser"),
        ({"tz": 1}, "tz"),
        ({"variables": {}}, "variables: Input should be a valid list"),
        ({"variables": ["x"]}, "variables.0: Input should be a valid dictionary"),
        ({"variables": [{"type": "Text", "value": "x"}]}, MISSING.format("name")),
        ({"variables": [{"name": "a", "value": "x"}]}, MISSING.format("type")),
        ({"variables": [{"name": "a", "type": "Text"}]}, MISSING.format("value")),
        ({"variables": [{"name": "", "type": "Text", "value": "x"}]}, "variables.0.name"),
        ({"variables": [{"name": "a", "type": "String", "value": "x"}]}, "String is not a type"),
        ({"variables": [{"name": "a", "type": "Text", "value": "x", "extra": 1}]}, "Unrecognized field"),
        ({"variables": [{"name": "a", "type": "Text", "value": 5}]}, "is not a Text"),
        ({"variables": [{"name": "a", "type": "Number", "value": True}]}, "is not a Number"),
        ({"variables": [{"name": "a", "type": "Boolean", "value": 1}]}, "is not a Boolean"),
        ({"variables": [{"name": "a", "type": "List", "value": {}}]}, "is not a List"),
    ],
)
def test_a_bad_body_is_refused_by_name(caller, org, changes, message):
    assert_refused(caller.start(**changes), 400, message)
    assert org.sessions == {}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("Text", "x"),
        ("Number", 1.5),
        ("Money", "9.99"),
        ("Boolean", False),
        ("Date", "2018-09-21"),
        ("DateTime", "2018-09-21T14:30:00"),
        ("Object", {"a": 1}),
        ("Json", {"a": 1}),
        ("Ref", "001xx"),
        ("List", [1, 2]),
        ("Id", "001xx"),
        ("Text", None),
    ],
)
def test_every_type_of_variable_is_accepted(caller, org, kind, value):
    session = caller.open(variables=[{"name": "a", "type": kind, "value": value}])
    assert org.sessions[session].variables == {"a": value}


@pytest.mark.parametrize("endpoint", ["127.0.0.1:80", "acme.my.salesforce.com", "http://x\n", " http://x", 5])
def test_malformed_endpoint_is_400(caller, endpoint):
    answer = caller.start(instanceConfig={"endpoint": endpoint})
    assert_refused(answer, 400, "Bad force-config endpoint")


@pytest.mark.parametrize(
    "endpoint",
    ["https://acme.my.salesforce.com", "https://api.salesforce.com", "http://127.0.0.1:1", "http://x:y"],
)
def test_endpoint_of_another_org_is_500(caller, endpoint):
    answer = caller.start(instanceConfig={"endpoint": endpoint})
    assert_refused(answer, 500, "engine config", "EngineConfigLookupException")


def test_endpoint_may_end_in_a_slash_or_say_localhost(caller, org):
    port = org.url.rpartition(":")[2]
    for endpoint in (org.url + "/", f"http://localhost:{port}"):
        assert caller.start(instanceConfig={"endpoint": endpoint}).status_code == 200


@pytest.mark.parametrize(
    "agent_id", ["My_Agent", "0Xx", "001EM0000000001", "0XxEM00000000010AAx", "0XxEM000000-001"]
)
def test_no_agent_id_is_400(caller, agent_id):
    assert_refused(caller.start(agent_id), 400, f"{agent_id} is not a valid agent ID")


def test_unknown_agent_is_the_documented_500(caller):
    assert_refused(caller.start("0XxEM0000000009"), 500, "UNKNOWN_EXCEPTION", "HttpServerErrorException")


def test_the_short_form_of_the_agent_id_names_the_same_agent(caller, org):
    assert len(org.agent_id) == 18
    assert caller.start(org.agent_id[:15]).status_code == 200


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (404, 'errorCode":"NOT_FOUND","message":"No valid version available', "HttpClientErrorException"),
        (412, "No access to Einstein Copilot.", "HttpClientErrorException"),
        (422, "Cannot determine the active version for the agent", "RequestProcessingException"),
        (500, "Config is not active", "InactiveConfigException"),
    ],
)
def test_inactive_agent_answers_as_chosen(make_caller, status, message, error):
    caller = make_caller(inactive_status=status)
    assert_refused(caller.start(agent_called(caller.org, "Inactive_Agent")), status, message, error)


def test_employee_agent_refuses_bypass_user(caller, org):
    employee = agent_called(org, "Employee_Agent")
    message = "Bad Request: Invalid user ID provided on start session: "
    assert_refused(caller.start(employee), 400, message)
    assert_refused(caller.start(employee, bypassUser="true"), 400, message)
    assert caller.start(employee, bypassUser=False).status_code == 200
    assert caller.start(employee, bypassUser=...).status_code == 200


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_wrong_content_type_is_500(caller, content_type):
    assert_refused(caller.start(headers={"Content-Type": content_type}), 500, "Unsupported Media Type")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"'])
def test_a_body_that_is_no_json_object_is_400(caller, org, content):
    path = f"{BASE}/agents/{org.agent_id}/sessions"
    answer = caller.call("POST", path, headers={"Content-Type": "application/json"}, data=content)
    assert_refused(answer, 400, "not a JSON object")


def test_content_type_may_have_a_charset(caller):
    assert caller.start(headers={"Content-Type": "application/json; charset=utf-8"}).status_code == 200


def test_too_many_open_sessions_are_429_until_one_ends(make_caller):
    caller = make_caller(max_concurrent_sessions=1)
    session = caller.open()
    refused = caller.start()
    assert_refused(refused, 429, "Too many requests", "TooManyRequestsError")
    assert "Retry-After" not in refused.headers
    caller.end(session)
    assert caller.start().status_code == 200


def test_too_many_starts_in_an_hour_are_429(make_caller):
    caller = make_caller(max_sessions_per_hour=1, retry_after=90)
    caller.end(caller.open())
    refused = caller.start()
    assert_refused(refused, 429, "Too many requests")
    assert refused.headers["Retry-After"] == "90"


def test_agents_can_be_given(make_caller):
    mine = Agent(developer_name="Order_Agent")
    caller = make_caller(agents=[mine])
    assert caller.org.agent_id == mine.id
    assert mine.label == "Order Agent"
    assert caller.start().status_code == 200


def test_an_agent_needs_a_real_looking_id():
    with pytest.raises(ValueError, match="not an agent id"):
        Agent(developer_name="X", id="007")
    with pytest.raises(ValueError, match="developer_name"):
        Agent(developer_name="")


def test_a_greeting_can_be_absent(make_caller):
    assert make_caller(script={"greeting": ""}).start().json()["messages"] == []
