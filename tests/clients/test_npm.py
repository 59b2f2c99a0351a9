"""The official npm library ``@salesforce/agents``, and the ``sf`` command that is built on it."""

import json

from client_user import HERE
from keys import USERNAME

SCORERS = ["Topic", "Actions", "Outcome"]


def test_the_library_talks_and_tests(user, org, private_key):
    user.log_in_named_user(USERNAME, private_key)
    org.fail("start", error="opaque_token")
    found = json.loads(user.run("node", HERE / "agents.cjs", USERNAME))
    _talked(found["conversation"], org)
    _listed(found, org)
    _evaluated(found)
    _scored(found)
    assert org.open_sessions == []


def _talked(conversation, org):
    start, (order, account), end = (conversation[name] for name in ("start", "sent", "end"))
    assert start["messages"][0]["message"].startswith("Hi, I'm the emulator's agent.")
    assert order["messages"][0]["result"][0]["value"]["order"] == "123"
    assert account["messages"][0]["citedReferences"][0]["label"] == "Acme"
    assert end["messages"][0]["reason"] == "ClientRequest"
    plans = {one["messages"][0]["planId"] for one in (order, account)}
    assert {trace["planId"] for trace in conversation["traces"]} == plans
    for trace in conversation["traces"]:
        assert (trace["type"], trace["sessionId"]) == ("PlanSuccessResponse", start["sessionId"])
        called = [step["function"]["name"] for step in trace["plan"] if step["type"] == "FunctionStep"]
        assert called in (["Get_Order_Status"], ["Get_Account"])
    session = org.sessions[start["sessionId"]]
    assert [turn.text for turn in session.turns] == ["Where is order 123?", "Tell me about account Acme"]
    assert (session.bypass_user, session.end_reason) == (True, "UserRequest")


def _listed(found, org):
    assert [agent["Id"] for agent in found["remote"]] == [agent.id for agent in org.agents]
    assert [agent["BotVersions"]["records"][0]["Status"] for agent in found["remote"]] == [
        "Active",
        "Inactive",
        "Active",
    ]
    assert [agent["label"] for agent in found["previewable"]] == ["Service Agent", "Employee Agent"]
    assert found["employee"].startswith("Hi, I'm the emulator's agent.")
    assert "No valid version available" in found["inactive"]
    # After the bare 404 the library asks the next of Salesforce's own hosts.
    starts = [(one.headers["host"], one.status) for one in org.requests if one.operation == "start"]
    assert starts[:2] == [("api.salesforce.com", 404), ("test.api.salesforce.com", 200)]


def _evaluated(found):
    for name, last in (("passed", "PASS"), ("failed", "FAILURE")):
        assert found[name]["runId"].startswith("4KB")
        results = found[name]["results"]
        assert (results["status"], results["subjectName"]) == ("COMPLETED", "Service_Agent")
        checks = [case["testResults"][2] for case in results["testCases"]]
        assert [check["result"] for check in checks] == ["PASS", last]
        assert checks[0]["actualValue"] == "Order 123 has shipped, it's on its way."
    assert found["unknown"] == "Invalid AiEvalDefinitionVersion identifier."
    assert found["cancel"] == {"success": True}


def _scored(found):
    assert found["suite"]["runId"].startswith("3A2")
    results = found["suite"]["results"]
    assert results["status"] == "SUCCESS"
    scores = [
        {one["scorerName"]: json.loads(one["scorerResponse"]) for one in case["testScorerResults"]}
        for case in results["testCases"]
    ]
    assert [list(case) for case in scores] == [SCORERS, SCORERS]
    assert [case["Outcome"]["status"] for case in scores] == ["PASS", "FAIL"]
    assert json.loads(results["testCases"][0]["subjectResponse"])["userInput"] == "Where's order 123?"
    assert found["unknownSuite"] == "Failed to run test suite: No_Such_Suite not found."
    assert found["second"] == "a test run is already in progress"
    assert found["endless"]["status"] == "IN_PROGRESS"


def test_the_sf_command_runs_agent_tests_and_queries(user):
    user.log_in_sf()
    shown = json.loads(user.run("sf", "org", "display", "--target-org", "emulator", "--json"))["result"]
    assert (shown["connectedStatus"], shown["username"]) == ("Connected", "agent.user@emulator.example")
    soql = "SELECT Status, BotDefinition.MasterLabel FROM BotVersion ORDER BY BotDefinition.MasterLabel"
    found = user.run(
        "sf", "data", "query", "--query", soql, "--target-org", "emulator", "--result-format", "csv"
    )
    rows = ["Status,BotDefinition.MasterLabel", "Active,Employee Agent", "Inactive,Inactive Agent"]
    assert found.splitlines() == [*rows, "Active,Service Agent"]
    listed = json.loads(user.run("sf", "agent", "test", "list", "-o", "emulator", "--json"))["result"]
    assert {"Order_Tests_Failing", "Order_Suite_Failing"} <= {test["fullName"] for test in listed}
    for name in ("Order_Tests", "Order_Suite"):
        options = ("--wait", "1", "--result-format", "junit")
        report = user.run("sf", "agent", "test", "run", "-o", "emulator", "--api-name", name, *options)
        assert 'tests="2" failures="0"' in report
