import html
import json

import pytest

RUNS = "/services/data/v64.0/einstein/ai-evaluations/runs"


def run(caller, name="My_Agent_Tests"):
    return caller.call("POST", RUNS, {"aiEvaluationDefinitionName": name})


def look(caller, run_id, part=""):
    return caller.call("GET", f"{RUNS}/{run_id}{part}").json()


def finished(caller, name):
    run_id = run(caller, name).json()["runId"]
    look(caller, run_id)
    look(caller, run_id)
    return look(caller, run_id, "/results")


def test_a_run_is_started_and_comes_to_its_end(caller):
    started = run(caller)
    assert started.status_code == 201
    run_id = started.json()["runId"]
    assert (run_id[:3], len(run_id), started.json()["status"]) == ("4KB", 18, "NEW")
    first = look(caller, run_id)
    assert (first["status"], "endTime" in first) == ("IN_PROGRESS", False)
    assert look(caller, run_id, "/results")["testCases"] == []
    assert look(caller, run_id)["status"] == "COMPLETED"
    assert look(caller, run_id)["endTime"]


def test_results_have_the_captured_shape(caller):
    results = finished(caller, "My_Agent_Tests")
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


@pytest.mark.parametrize(
    ("name", "results"), [("Good", ["PASS", "PASS"]), ("Some_Fail", ["PASS", "FAILURE"])]
)
def test_the_name_decides_whether_a_case_fails(caller, name, results):
    cases = finished(caller, name)["testCases"]
    assert [case["testResults"][2]["result"] for case in cases] == results
    assert {case["status"] for case in cases} == {"COMPLETED"}


def test_a_run_can_be_cancelled(caller):
    run_id = run(caller).json()["runId"]
    for _ in range(2):
        assert caller.call("POST", f"{RUNS}/{run_id}/cancel").json() == {"success": True}
        assert look(caller, run_id)["status"] == "TERMINATED"
    assert look(caller, run_id, "/results")["testCases"] == []


@pytest.mark.parametrize(
    "body", [{}, {"aiEvaluationDefinitionName": ""}, {"aiEvaluationDefinitionName": "x", "y": 1}]
)
def test_a_run_takes_exactly_one_parameter(caller, body):
    answer = caller.call("POST", RUNS, body)
    assert (answer.status_code, answer.json()[0]["message"]) == (400, "")


def test_runs_need_a_token_and_an_id(caller, org):
    assert look(caller, "4KBnone")[0]["errorCode"] == "NOT_FOUND"
    org.revoke_tokens()
    assert run(caller).status_code == 401


def test_runs_can_be_made_to_fail_and_are_forgotten_by_reset(caller, org):
    org.fail("test", status=500)
    assert run(caller).json()[0]["errorCode"] == "UNKNOWN_EXCEPTION"
    run_id = run(caller).json()["runId"]
    org.reset()
    caller.login()
    assert look(caller, run_id)[0]["errorCode"] == "NOT_FOUND"
