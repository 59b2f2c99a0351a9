import html
import json
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2].joinpath("docs", "emulator.md").read_text(encoding="utf-8")


class Generation:
    """One generation of the Testing API."""

    def __init__(self, api, parameter, tests, prefix, statuses):
        self.runs = f"/services/data/v64.0/einstein/{api}/runs"
        self.parameter = parameter
        self.tests = tests
        self.prefix = prefix
        self.statuses = statuses

    def start(self, caller, kind=""):
        return caller.call("POST", self.runs, {self.parameter: self.tests + kind})

    def look(self, caller, run_id, part=""):
        return caller.call("GET", f"{self.runs}/{run_id}{part}").json()

    def finished(self, caller, kind=""):
        run_id = self.start(caller, kind).json()["runId"]
        self.look(caller, run_id)
        self.look(caller, run_id)
        return self.look(caller, run_id, "/results")


FIRST = Generation(
    "ai-evaluations",
    "aiEvaluationDefinitionName",
    "Order_Tests",
    "4KB",
    ("NEW", "IN_PROGRESS", "COMPLETED", "ERROR"),
)
SUCCESSOR = Generation(
    "ai-testing",
    "testDefinitionName",
    "Order_Suite",
    "3A2",
    ("CREATED", "IN_PROGRESS", "SUCCESS", "FAILED"),
)
BOTH = pytest.mark.parametrize("tests", [FIRST, SUCCESSOR], ids=["first", "successor"])


@BOTH
def test_a_run_is_started_and_comes_to_its_end(caller, tests):
    new, going, done, _ = tests.statuses
    started = tests.start(caller)
    assert started.status_code == 201
    run_id = started.json()["runId"]
    assert (run_id[:3], len(run_id), started.json()["status"]) == (tests.prefix, 18, new)
    first = tests.look(caller, run_id)
    assert (first["status"], "endTime" in first) == (going, False)
    assert tests.look(caller, run_id, "/results")["testCases"] == []
    assert tests.look(caller, run_id)["status"] == done
    last = tests.look(caller, run_id)
    assert (last["status"], "errorMessage" in last) == (done, False)
    assert last["endTime"]


def test_results_of_the_first_have_the_captured_shape(caller):
    results = FIRST.finished(caller)
    assert (results["status"], results["subjectName"]) == ("COMPLETED", "Service_Agent")
    case = results["testCases"][0]
    assert case["inputs"]["utterance"] == "Where&#39;s order 123?"
    names = [check["name"] for check in case["testResults"]]
    assert names == [
        "topic_assertion",
        "actions_assertion",
        "output_validation",
        "output_latency_milliseconds",
    ]
    assert "result" not in case["testResults"][-1]
    topic = case["testResults"][0]
    assert topic["actualValue"].startswith(topic["expectedValue"])
    calls = json.loads(html.unescape(case["generatedData"]["invokedActions"]))
    assert calls[0][0]["function"]["input"] == {"order": "123"}


def scores_of(case):
    scores = case["testScorerResults"]
    return {one["scorerName"]: json.loads(html.unescape(one["scorerResponse"])) for one in scores}


def test_results_of_the_successor_are_escaped_json_in_texts(caller):
    results = SUCCESSOR.finished(caller)
    assert (results["status"], "subjectName" in results) == ("SUCCESS", False)
    assert results["summary"] == {"totalNumberOfTestCases": 2}
    case = results["testCases"][0]
    assert (case["testNumber"], len(case["testCaseId"])) == (1, 36)
    assert case["subjectResponse"].startswith("{&quot;userInput&quot;: &quot;Where&#39;s order 123?")
    topic = scores_of(case)["Topic"]
    assert topic == {
        "evaluationType": "evaluator.topic_sequence_match",
        "actualValue": "Order_Questions",
        "expectedValue": "Order_Questions",
        "status": "PASS",
        "reasoning": "It says the same.",
    }


@pytest.mark.parametrize(
    ("kind", "first", "successor"),
    [("", "PASS", "PASS"), ("_Failing", "FAILURE", "FAIL"), ("_Unscored", None, "ERROR")],
)
def test_the_definition_decides_how_the_second_case_ends(caller, kind, first, successor):
    cases = FIRST.finished(caller, kind)["testCases"]
    assert [case["testResults"][2]["result"] for case in cases] == ["PASS", first]
    assert {case["status"] for case in cases} == {"COMPLETED"}
    cases = SUCCESSOR.finished(caller, kind)["testCases"]
    assert [scores_of(case)["Outcome"]["status"] for case in cases] == ["PASS", successor]


@BOTH
def test_runs_can_break_be_large_and_never_end(caller, tests):
    broken = tests.finished(caller, "_Broken")
    assert (broken["status"], broken["testCases"]) == (tests.statuses[3], [])
    assert broken["errorMessage"]
    assert len(tests.finished(caller, "_Large")["testCases"]) == 1000
    run_id = tests.start(caller, "_Endless").json()["runId"]
    looks = [tests.look(caller, run_id) for _ in range(4)]
    assert {look["status"] for look in looks} == {"IN_PROGRESS"}
    assert not any("endTime" in look for look in looks)


def test_a_run_of_the_first_can_be_cancelled(caller):
    run_id = FIRST.start(caller, "_Endless").json()["runId"]
    for _ in range(2):
        assert caller.call("POST", f"{FIRST.runs}/{run_id}/cancel").json() == {"success": True}
        assert FIRST.look(caller, run_id)["status"] == "TERMINATED"
    assert FIRST.look(caller, run_id, "/results")["testCases"] == []


def test_the_successor_cancels_nothing_and_runs_a_test_once_at_a_time(caller):
    run_id = SUCCESSOR.start(caller).json()["runId"]
    cancelled = caller.call("POST", f"{SUCCESSOR.runs}/{run_id}/cancel")
    assert (cancelled.status_code, cancelled.json()[0]["errorCode"]) == (404, "NOT_FOUND")
    assert SUCCESSOR.start(caller).json() == {"status": "IN_PROGRESS"}
    assert "runId" in SUCCESSOR.start(caller, "_Failing").json()
    for _ in range(2):
        SUCCESSOR.look(caller, run_id)
    assert "runId" in SUCCESSOR.start(caller).json()


@BOTH
def test_a_run_takes_exactly_one_parameter(caller, tests):
    good = {tests.parameter: tests.tests}
    for body in ({}, {tests.parameter: ""}, {tests.parameter: 1}, {**good, "y": 1}):
        answer = caller.call("POST", tests.runs, body)
        assert (answer.status_code, answer.json()[0]["message"]) == (400, "")


@pytest.mark.parametrize(
    ("tests", "status", "message"),
    [
        (FIRST, 400, "Invalid AiEvalDefinitionVersion identifier."),
        (SUCCESSOR, 404, "Failed to run test suite: {} not found."),
    ],
    ids=["first", "successor"],
)
def test_an_unknown_definition_is_refused(caller, tests, status, message):
    other = FIRST if tests is SUCCESSOR else SUCCESSOR
    for name in ("Nothing", tests.tests + "_", other.tests):
        answer = caller.call("POST", tests.runs, {tests.parameter: name})
        assert (answer.status_code, answer.json()[0]["message"]) == (status, message.format(name))


def test_every_documented_definition_exists(caller):
    names = re.findall(r"^\| `(Order_Tests\w*)`, `(Order_Suite\w*)` \|", PAGE, re.MULTILINE)
    assert len(names) == 6
    for pair in names:
        for tests, name in zip((FIRST, SUCCESSOR), pair, strict=True):
            assert tests.start(caller, name.removeprefix(tests.tests)).status_code == 201


@BOTH
def test_runs_need_a_token_an_api_and_an_id_of_it(caller, org, tests):
    other = FIRST if tests is SUCCESSOR else SUCCESSOR
    run_id = other.start(caller).json()["runId"]
    for unknown in ("4KBnone", run_id):
        assert tests.look(caller, unknown)[0]["errorCode"] == "NOT_FOUND"
    nowhere = tests.runs.replace("/ai-", "/ia-")
    assert caller.call("POST", nowhere, {tests.parameter: tests.tests}).status_code == 404
    org.revoke_tokens()
    assert tests.start(caller).status_code == 401


def test_runs_can_be_made_to_fail_and_are_forgotten_by_reset(caller, org):
    org.fail("test", status=500)
    assert FIRST.start(caller).json()[0]["errorCode"] == "UNKNOWN_EXCEPTION"
    run_id = FIRST.start(caller).json()["runId"]
    org.reset()
    caller.login()
    assert FIRST.look(caller, run_id)[0]["errorCode"] == "NOT_FOUND"


def listed(caller, kind, operation="listMetadata", session=None):
    envelope = (
        f"<Envelope><Header><SessionHeader><sessionId>{session or caller.bearer}</sessionId></SessionHeader>"
        f"</Header><Body><{operation}><queries><type>{kind}</type></queries></{operation}></Body></Envelope>"
    )
    return caller.call("POST", "/services/Soap/m/67.0", data=envelope, headers={"Content-Type": "text/xml"})


@pytest.mark.parametrize(
    ("kind", "tests"),
    [("AiEvaluationDefinition", FIRST), ("AiTestingDefinition", SUCCESSOR), ("ApexClass", None)],
)
def test_the_metadata_api_lists_the_definitions(caller, kind, tests):
    names = re.findall("<fullName>(.+?)</fullName>", listed(caller, kind).text)
    assert len(names) == (6 if tests else 0)
    assert all(tests.start(caller, name.removeprefix(tests.tests)).ok for name in names)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [({"session": "x"}, "INVALID_SESSION_ID"), ({"operation": "deploy"}, "INVALID_OPERATION")],
)
def test_the_metadata_api_refuses_with_a_fault(caller, changes, fault):
    answer = listed(caller, "AiTestingDefinition", **changes)
    assert (answer.status_code, f"<faultcode>sf:{fault}</faultcode>" in answer.text) == (500, True)
