"""Runs of agent tests: which API has a test, what a lost answer means, and how results are read."""

from __future__ import annotations

import html
import json
import os
import signal
import threading
import tracemalloc

import pytest
from real_airflow import until
from telling import look_over

from airflow_provider_agentforce.client.agent_test_results import cases_of
from airflow_provider_agentforce.client.agent_tests import AgentTestRun
from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceError,
    AgentforceInputError,
    AgentforceRequestError,
    AgentforceTransientError,
    DeliveryUnknownError,
)

SUITE_PATH = "/services/data/v63.0/einstein/ai-testing/runs"


def ended(tests, run):
    while not run.ended:
        run = tests.look(run)
    return run


def outcome(client, test, **which):
    tests = client.agent_tests
    found = tests.results(ended(tests, tests.start(test, **which)))
    return found, [case.status for case in found.cases]


@pytest.mark.parametrize(
    ("test", "api", "statuses"),
    [
        ("Order_Tests", "legacy", ["passed", "passed"]),
        ("Order_Tests_Failing", "legacy", ["passed", "failed"]),
        ("Order_Tests_Unscored", "legacy", ["passed", "passed"]),
        ("Order_Suite", "testing", ["passed", "passed"]),
        ("Order_Suite_Failing", "testing", ["passed", "failed"]),
        ("Order_Suite_Unscored", "testing", ["passed", "passed"]),
    ],
)
def test_a_test_is_run_by_the_api_that_knows_it(org, client, test, api, statuses):
    found, seen = outcome(client, test)
    assert (found.run.api, found.run.completed, seen) == (api, True, statuses)
    again, same = outcome(client, test, api=api)
    assert (again.run.api, same) == (api, statuses)
    assert client.agent_tests.find(found.run.run_id) == found.run


def test_a_conversation_test_is_run_at_the_path_that_is_given(org, client):
    found, seen = outcome(client, "Order_Suite", api="conversation", path=SUITE_PATH)
    assert (found.run.api, seen) == ("conversation", ["passed", "passed"])


def test_the_worksheet_of_a_conversation_test_is_its_run(org, client):
    org.fail("test", body={"workbookId": "1W4A", "worksheetId": "1W5B", "status": "IN_PROGRESS"})
    run = client.agent_tests.start("Order_Suite", api="conversation", path=SUITE_PATH)
    assert run.run_id == "1W5B"


@pytest.mark.parametrize("answer", [{"status": "IN_PROGRESS"}, {"workbook": {"id": "1W4A"}}], ids=str)
def test_an_answer_of_a_conversation_test_without_an_id_is_unknown(org, client, answer):
    org.fail("test", body=answer)
    with pytest.raises(DeliveryUnknownError):
        client.agent_tests.start("Order_Suite", api="conversation", path=SUITE_PATH)


@pytest.mark.parametrize("which", [{}, {"api": "legacy"}, {"api": "testing"}])
def test_a_test_that_does_not_exist_is_named(org, client, which):
    with pytest.raises(AgentforceRequestError, match="Orders_Tset") as caught:
        client.agent_tests.start("Orders_Tset", **which)
    assert "API name" in caught.value.hint
    look_over(caught.value, client)
    assert len(org.test_runs) == 0


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"test": "no name"}, "test"),
        ({"test": "T", "api": "newest"}, "api"),
        ({"test": "T", "api": "conversation"}, "path"),
        ({"test": "T", "path": SUITE_PATH}, "api"),
        ({"test": "T", "api": "testing", "path": "https://elsewhere.example/"}, "path"),
        ({"test": "T", "api": "testing", "path": "/services/data/v63.0/../x"}, "path"),
    ],
)
def test_what_cannot_be_right_is_refused_before_a_call(org, client, given, named):
    with pytest.raises(AgentforceInputError, match=named):
        client.agent_tests.start(given.pop("test"), **given)
    assert org.requests == []


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        ({"status": "TIMED_OUT"}, False),
        ({"status": "TIMED_OUT", "endTime": None}, False),
        ({"status": "TIMED_OUT", "endTime": "2026-11-28T10:00:00.000Z"}, True),
        ({"status": "IN_PROGRESS", "endTime": "2026-11-28T10:00:00.000Z"}, False),
        ({"endTime": "2026-11-28T10:00:00.000Z"}, False),
    ],
    ids=str,
)
def test_a_status_that_is_not_known_is_an_end_with_its_time(org, client, answer, ended):
    started = client.agent_tests.start("Order_Tests")
    org.fail("test", body=answer)
    found = client.agent_tests.look(started)
    assert (found.ended, found.completed) == (ended, False)


LOST = [{"drop": True, "after": True}, {"status": 500}, {"status": 503}, {"body": "<html>"}, {"body": "{}"}]


@pytest.mark.parametrize("fault", LOST, ids=str)
def test_a_start_whose_answer_is_lost_is_unknown_and_not_repeated(org, client, fault):
    org.fail("test", **fault)
    with pytest.raises(DeliveryUnknownError) as caught:
        client.agent_tests.start("Order_Tests", api="legacy")
    assert (org.count("test"), caught.value.operation) == (1, "test")
    assert "Testing Center" in caught.value.hint
    look_over(caught.value, client)


class TimeIsUpError(BaseException):
    """What Airflow raises in a signal handler when the time of a task is up."""


@pytest.mark.parametrize("by", ["stop", "signal"])
def test_a_start_that_is_cut_while_it_waits_is_unknown(org, client, by):
    def end_it():
        hold.wait_until_held()
        client.stop() if by == "stop" else os.kill(os.getpid(), signal.SIGUSR1)

    def handler(*_):
        raise TimeIsUpError

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with org.hold("test") as hold:
            threading.Thread(target=end_it).start()
            with pytest.raises(DeliveryUnknownError) as caught:
                client.agent_tests.start("Order_Tests", api="legacy")
    finally:
        signal.signal(signal.SIGUSR1, before)
    # The org goes on with what it held, and must not do so in the next test.
    until("the run is there", lambda: org.test_runs)
    assert (caught.value.operation, caught.value.applied) == ("test", None)
    assert "Testing Center" in caught.value.hint


@pytest.mark.parametrize("fault", [{"status": 429}, {"status": 401}], ids=str)
def test_a_start_that_is_refused_for_now_is_repeated(org, client, fault):
    org.fail("test", **fault)
    assert client.agent_tests.start("Order_Tests", api="legacy").run_id
    assert (org.count("test"), len(org.test_runs)) == (2, 1)


def test_an_intent_that_cannot_be_kept_starts_nothing(org, client):
    def refuse(_key):
        raise RuntimeError("no store")

    with pytest.raises(RuntimeError, match="no store"):
        client.agent_tests.start("Order_Tests", api="legacy", before_send=refuse)
    assert org.count("test") == 0


def test_the_successor_starts_no_second_run(org, client):
    client.agent_tests.start("Order_Suite_Endless")
    with pytest.raises(AgentforceTransientError, match="in progress") as caught:
        client.agent_tests.start("Order_Suite_Endless")
    assert caught.value.applied is False
    assert len(org.test_runs) == 1


def test_a_missing_permission_is_not_taken_for_an_unknown_test(org, client):
    org.fail("test", status=403)
    with pytest.raises(AgentforceAuthError) as caught:
        client.agent_tests.start("Order_Tests")
    assert "permission sets for AI testing" in caught.value.hint
    assert len(org.test_runs) == 0


@pytest.mark.parametrize(
    ("status", "words"), [(400, "You have reached the limit of 10 test runs."), (400, ""), (409, "Busy.")]
)
def test_only_a_refusal_of_the_name_leads_to_the_other_api(org, client, status, words):
    org.fail("test", status=status, body=[{"errorCode": "INVALID_INPUT", "message": words}])
    with pytest.raises(AgentforceError):
        client.agent_tests.start("Order_Tests")
    assert len(org.test_runs) == 0


ANSWERED = [{}, {"id": "3A2001", "status": "CREATED"}, {"runId": None, "status": "NEW"}, {"runId": 3}]


@pytest.mark.parametrize("body", ANSWERED, ids=str)
@pytest.mark.parametrize("test", ["Order_Tests", "Order_Suite"])
def test_a_start_that_is_answered_without_an_id_is_unknown(org, client, test, body):
    org.fail("test", body=body)
    with pytest.raises(DeliveryUnknownError, match="runId"):
        client.agent_tests.start(test, api="legacy" if test == "Order_Tests" else "testing")


def test_looking_is_repeated_and_a_run_that_is_gone_is_named(org, client):
    tests = client.agent_tests
    run = tests.start("Order_Tests")
    org.fail("test", status=503)
    assert tests.look(run).status == "IN_PROGRESS"
    org.fail("test", status=404, times=4)
    for ask in (lambda: tests.look(run), lambda: tests.results(run), lambda: tests.find(run.run_id)):
        with pytest.raises(AgentforceRequestError, match=run.run_id) as caught:
            ask()
        assert "does not exist in this org" in caught.value.hint


def test_a_run_is_cancelled_where_the_api_can(org, client):
    tests = client.agent_tests
    run = tests.start("Order_Tests_Endless")
    tests.cancel(run)
    assert tests.look(run).status == "TERMINATED"
    with pytest.raises(AgentforceInputError, match="cannot cancel"):
        tests.cancel(tests.start("Order_Suite_Endless"))


def test_a_thousand_cases_take_less_than_fifty_megabytes(org, client):
    tests = client.agent_tests
    run = ended(tests, tests.start("Order_Tests_Large"))
    tracemalloc.start()
    found = tests.results(run)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.cases) == 1000
    assert peak < 50 * 2**20


def test_results_of_ten_megabytes_are_read(org, client):
    tests = client.agent_tests
    run = tests.start("Order_Tests")
    check = {"name": "output_validation", "result": "PASS", "actualValue": "x" * 10_000}
    case = {"status": "COMPLETED", "inputs": {"utterance": "Hi"}, "testResults": [check]}
    org.fail("test", body={"status": "COMPLETED", "testCases": [case] * 1000})
    assert [one.status for one in tests.results(run).cases] == ["passed"] * 1000
    org.fail("test", body={"status": "COMPLETED", "testCases": [case] * 4000})
    with pytest.raises(AgentforceRequestError, match="longer than 32 MiB"):
        tests.results(run)


HTML = '<b>Tom & "Jerry"\'s &amp; order</b>'


def test_html_in_values_comes_out_as_it_was():
    escaped = html.escape(HTML).replace("&#x27;", "&#39;")
    legacy = {"name": "output_validation", "result": "FAILURE", "expectedValue": "", "actualValue": escaped}
    score = {"evaluationType": "evaluator.x", "status": "FAIL", "actualValue": HTML}
    successor = [
        {"scorerName": "Says", "scorerResponse": html.escape(json.dumps(score))},
        {"scorerName": "Says", "scorerResponse": json.dumps({**score, "actualValue": escaped})},
    ]
    cases = cases_of(
        {
            "testCases": [
                {"inputs": {"utterance": escaped}, "testResults": [legacy]},
                {"subjectResponse": html.escape(json.dumps({"userInput": HTML}))},
                {"testScorerResults": successor},
            ]
        }
    )
    assert [cases[0].name, cases[1].name] == [HTML, HTML]
    assert [check.actual for case in cases for check in case.checks] == [HTML] * 3
    assert [check.kind for check in cases[2].checks] == ["x", "x"]


PASS = [{"name": "a", "result": "PASS"}]
FAIL = [{"name": "b", "result": "FAILURE"}]


def scored(**fields):
    return [{"scorerName": "Mine", "scorerResponse": json.dumps(fields)}]


def named(scorer, **fields):
    """Return the result of a scorer whose response does not have its type."""
    return {"scorerName": scorer, "scorerResponse": json.dumps(fields)}


LATENCY = scored(evaluationType="evaluator.output_latency_milliseconds", score=3)[0]
ACTIONS = {"actualValue": "['A_179xx0000000001', 'B']", "expectedValue": '["A","B"]'}
MILLISECONDS = named("output_latency_milliseconds", actualValue=2400)


@pytest.mark.parametrize(
    ("case", "status", "reason"),
    [
        ({}, "error", "nothing was checked"),
        ({"status": "ERROR", "testResults": []}, "error", "ended with an error"),
        ({"testResults": [{"name": "coherence", "result": "PASS"}]}, "passed", ""),
        ({"testResults": [{"name": "output_latency_milliseconds", "score": 3}]}, "error", "nothing"),
        (
            {"testResults": [{"name": "a", "status": "ERROR", "errorMessage": "No model."}]},
            "error",
            "No model.",
        ),
        ({"testScorerResults": scored(status="PASS")}, "passed", ""),
        (
            {
                "testScorerResults": scored(
                    evaluationType="topic_sequence_match",
                    actualValue="Orders_16jxx0000000001",
                    expectedValue="Orders",
                )
            },
            "passed",
            "",
        ),
        (
            {
                "testScorerResults": scored(
                    evaluationType="topic_sequence_match",
                    actualValue="Orders_16jxx0000000001",
                    expectedValue="Orders_16jxx0000000001AAA",
                )
            },
            "passed",
            "",
        ),
        (
            {
                "testScorerResults": scored(
                    evaluationType="topic_sequence_match",
                    actualValue="Orders_16jxx0000000001",
                    expectedValue="Orders_16jxx0000000002",
                )
            },
            "failed",
            "",
        ),
        (
            {
                "testScorerResults": scored(
                    evaluationType="evaluator.topic_sequence_match", actualValue="A", expectedValue="B"
                )
            },
            "failed",
            "Mine: expected 'B', got 'A'",
        ),
        ({"testScorerResults": [{"scorerName": "Mine", "scorerResponse": "not JSON"}]}, "error", "cannot be"),
        ({"status": "COMPLETED", "testResults": PASS}, "passed", ""),
        ({"status": "FAILED", "testResults": [*PASS, *FAIL]}, "failed", "b"),
        ({"status": "FAILED", "testResults": PASS}, "error", "the case is not judged (FAILED)"),
        ({"status": "IN_PROGRESS", "testResults": PASS}, "error", "the case is not judged (IN_PROGRESS)"),
        ({"status": "TIMEOUT", "testResults": [*PASS, *FAIL]}, "error", "not judged (TIMEOUT)"),
        ({"testResults": [*PASS, "odd"]}, "error", "check: it is not judged"),
        ({"testResults": [*PASS, {"name": "c", "status": "COMPLETED"}]}, "error", "c: it is not judged"),
        ({"testScorerResults": [*scored(status="PASS"), *scored(status="UNCLEAR")]}, "error", "not judged"),
        (
            {"testScorerResults": [*scored(status="PASS"), *scored(score=82, reasoning="It reads well.")]},
            "error",
            "Mine: it is not judged (score 82); It reads well.",
        ),
        ({"testScorerResults": [*scored(status="PASS"), LATENCY]}, "passed", ""),
        ({"testScorerResults": [*scored(status="PASS"), MILLISECONDS]}, "passed", ""),
        (
            {"testScorerResults": [*scored(status="PASS"), named("output_latency", actualValue="2400.5")]},
            "passed",
            "",
        ),
        (
            {"testScorerResults": [*scored(status="PASS"), named("output_latency", actualValue="late")]},
            "error",
            "output_latency: it is not judged",
        ),
        ({"testScorerResults": [named("action_sequence_match", **ACTIONS)]}, "passed", ""),
        (
            {
                "testScorerResults": [
                    named("agent_handoff_match", actualValue="Billing", expectedValue="Returns")
                ]
            },
            "failed",
            "expected 'Returns', got 'Billing'",
        ),
        ({"testResults": [{**PASS[0], "status": "COMPLETE"}]}, "passed", ""),
        ({"testScorerResults": [*scored(status="PASS"), {"scorerResponse": "{"}]}, "error", "cannot be read"),
        (
            {
                "testScorerResults": [
                    {"status": "PASS", "scorerResponse": "null", "errorMessage": "No model."}
                ]
            },
            "error",
            "No model.",
        ),
        ("odd", "error", "nothing"),
        ({"testResults": "odd", "inputs": 7, "testNumber": "x"}, "error", "not judged"),
        ({"testScorerResults": scored(status="PASS"), "turns": [{"testResults": FAIL}]}, "failed", "b"),
        ({"testResults": PASS, "turns": [{"status": "TIMEOUT", "testResults": PASS}]}, "error", "TIMEOUT"),
        ({"testResults": PASS, "turns": "odd"}, "error", "cannot be read"),
        ({"testResults": PASS, "errorCode": 500}, "error", "errorCode 500"),
        ({"testResults": PASS, "status": False}, "error", "not judged (FALSE)"),
        ({"testResults": PASS, "result": "FAIL"}, "error", "not judged (FAIL)"),
    ],
)
def test_what_becomes_of_a_case(case, status, reason):
    (found,) = cases_of({"testCases": [case]})
    assert found.status == status
    assert reason in found.reason


RATED = {"name": "bot_response_rating", "score": 1, "expectedValue": "x", "actualValue": "y"}
SKIP = "Skip metric result due to missing expected input"


@pytest.mark.parametrize(
    ("check", "status"),
    [
        *[({**RATED, "result": word}, "error") for word in ("PARTIAL", "NOT_PASSED", "SUCCESS", None, False)],
        *[({**RATED, "status": word}, "error") for word in ("NOT_RESOLVED", "IN_PROGRESS", ["FAIL"], {})],
        ({**RATED, "result": {"name": "PASS"}}, "error"),
        ({**RATED, "result": " FAIL"}, "failed"),
        ({**RATED, "result": "pass "}, "passed"),
        ({**RATED, "metricScore": "FAILED"}, "failed"),
        ({**RATED, "metricScore": "PASS"}, "passed"),
        ({"name": "completeness", "score": 1, "status": "COMPLETED"}, "error"),
        ({"name": "string_comparison", "expectedValue": "x", "actualValue": "x"}, "error"),
        ({**RATED, "result": "PASS", "status": "FAILURE"}, "failed"),
        ({**RATED, "result": "PASS", "status": "ERROR"}, "error"),
        ({**RATED, "result": "PASS", "status": "UNCLEAR"}, "error"),
        ({**RATED, "result": "FAILURE", "errorMessage": "No model."}, "error"),
        ({**RATED, "result": "PASS", "errorCode": 500}, "error"),
        ({**RATED, "result": "PASS", "errorCode": 0, "errorMessage": ""}, "passed"),
        ({"name": "rating", "status": "ERROR", "errorMessage": SKIP}, "skipped"),
        ({"name": "rating", "status": "ERROR", "errorMessage": "Gone; missing expected header"}, "error"),
        ({"name": "rating", "status": "ERROR", "metricExplainability": SKIP}, "error"),
        ({"name": "output_latency_milliseconds", "score": 3}, "measured"),
        ({"name": "output_latency_milliseconds", "status": "IN_PROGRESS", "score": 3}, "error"),
    ],
    ids=str,
)
def test_a_verdict_is_one_that_is_known_and_the_worst_counts(check, status):
    (case,) = cases_of({"testCases": [{"testResults": [*PASS, check]}]})
    assert case.checks[1].status == status
    assert case.status == ("passed" if status in {"skipped", "measured"} else status)


@pytest.mark.parametrize(
    ("outer", "inner", "status"),
    [
        ({"status": "ERROR", "errorMessage": "Timeout"}, {"status": "PASS"}, "error"),
        ({"status": "FAIL"}, {"status": "PASS"}, "failed"),
        ({"status": "PASS"}, {"status": "FAIL"}, "failed"),
        ({"status": "COMPLETED"}, {"status": "PASS"}, "passed"),
        ({"score": 1}, None, "error"),
        ({"status": "PASS"}, None, "passed"),
    ],
    ids=str,
)
def test_the_worst_verdict_of_a_scorer_and_its_response_counts(outer, inner, status):
    response = None if inner is None else json.dumps(inner)
    (case,) = cases_of({"testCases": [{"testScorerResults": [{**outer, "scorerResponse": response}]}]})
    assert case.status == status


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        (None, ""),
        ({"total": 2, "passed": 1, "failed": 1, "passRate": 0.5}, ""),
        ({"totalNumberOfTestCases": 3, "failed": 1}, "totalNumberOfTestCases: 3"),
        ({"total_test_cases": 1}, "total_test_cases: 1"),
        ({"failed": 2}, "failed: 2, but 1 of the 2 cases"),
        ({"numberOfErrors": 2}, "numberOfErrors: 2"),
        ({"passed": 0}, "passed: 0"),
        (json.dumps({"failed": 2}), "failed: 2"),
        ("odd", "summary of the results cannot be read"),
    ],
    ids=str,
)
def test_results_that_contradict_their_summary_are_not_whole(org, client, summary, words):
    tests = client.agent_tests
    run = ended(tests, tests.start("Order_Tests"))
    cases = [{"testResults": checks} for checks in (PASS, FAIL)]
    org.fail("test", body={"status": "COMPLETED", "summary": summary, "testCases": cases})
    trouble = tests.results(run).trouble
    assert (words in trouble, bool(trouble)) == (True, bool(words))


def test_results_do_not_turn_a_bad_end_into_a_good_one(org, client):
    tests = client.agent_tests
    run = ended(tests, tests.start("Order_Tests_Broken"))
    org.fail("test", body={"status": "COMPLETED", "testCases": [{"testResults": PASS}]})
    assert "ended as ERROR" in tests.results(run).trouble


@pytest.mark.parametrize(
    ("status", "error", "checks", "words"),
    [
        ("COMPLETED", None, PASS, ""),
        ("SUCCESS", None, FAIL, ""),
        (None, None, FAIL, ""),
        ("FAILED", None, FAIL, ""),
        ("FAILED", None, PASS, "ended as FAILED: without a reason"),
        ("FAILED", "No credits.", FAIL, "ended as FAILED: No credits."),
        ("ERROR", None, FAIL, "ended as ERROR"),
        ("SUCCESS", "No credits.", FAIL, "ended as SUCCESS: No credits."),
        ("IN_PROGRESS", None, FAIL, "has not ended (IN_PROGRESS)"),
        ("TERMINATED", None, PASS, "was stopped (TERMINATED)"),
        ("COMPLETED", None, None, "has no cases"),
    ],
)
def test_results_that_are_not_whole_say_why(org, client, status, error, checks, words):
    tests = client.agent_tests
    run = ended(tests, tests.start("Order_Tests"))
    cases = [] if checks is None else [{"testResults": checks}]
    org.fail("test", body={"status": status, "errorMessage": error, "testCases": cases})
    trouble = tests.results(run).trouble
    assert (words in trouble, bool(trouble)) == (True, bool(words))


def test_a_run_shows_what_its_api_can_do():
    assert AgentTestRun("1", "legacy", "").can_be_cancelled
    assert not AgentTestRun("1", "testing", "", "FAILED").completed
