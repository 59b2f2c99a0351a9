"""Runs of agent tests as a task: the verdict, what a later try does, waiting without a slot, files."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
import time
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import pytest
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException, TaskDeferred
from quick import quick_process
from real_airflow import until
from stand_ins import StateStore, TaskInstance

from airflow_provider_agentforce._compat import AirflowFailException, beside_loop
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    AgentforceRequestError,
    AgentforceTransientError,
    AgentTestFailedError,
    DeliveryUnknownError,
    TaskStoppedError,
)
from airflow_provider_agentforce.operators import RunAgentTestOperator
from airflow_provider_agentforce.sensors import AgentTestSensor

QUICKLY = timedelta(milliseconds=1)
SUITE_PATH = "/services/data/v66.0/einstein/ai-testing/runs"


class Watched(TaskInstance):
    """Tells when the run is started."""

    def __init__(self, started, **given):
        super().__init__(**given)
        self._started = started

    def xcom_pull(self, *, task_ids, key, map_indexes):
        return self.xcoms[key]

    def xcom_push(self, key, value):
        super().xcom_push(key, value)
        if key == "run_id":
            self._started()


@pytest.fixture
def task(org):
    """Make a task whose tries share a store; each try is another operator, as in Airflow."""

    def make(**arguments):
        store, tries = StateStore(), []
        given = {"task_id": "test", "poke_interval": QUICKLY, **arguments}

        def attempt(event=None, started=lambda _operator: None, lost=None):
            operator = RunAgentTestOperator(**given)
            ti = Watched(lambda: started(operator), try_number=len(tries) + 1, max_tries=3)
            context = {"ti": ti, "task_state_store": store}
            seen = SimpleNamespace(value=None, error=None, xcoms=ti.xcoms)
            tries.append(seen)
            call = operator.execute if event is None else operator.execute_complete
            if lost is not None:
                ti.xcoms.update(tries[0].xcoms)

                def call(context):
                    return operator.resume_execution("__fail__", {"error": lost}, context)

            try:
                seen.value = call(context, event) if event else call(context)
            except BaseException as error:  # noqa: BLE001 - a deferral is one
                seen.error = error
            return seen

        return SimpleNamespace(attempt=attempt, store=store)

    return make


def woken(error):
    """Let the trigger of a deferred task run, and return its event."""
    path, arguments = error.trigger.serialize()
    assert path == "airflow_provider_agentforce.triggers.agent_tests.AgentTestTrigger"
    trigger = type(error.trigger)(**arguments)

    async def first():
        return await anext(trigger.run())

    return asyncio.run(first()).payload


def states(org):
    return [run.status for run in org.test_runs.values()]


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("test", ["Order_Tests", "Order_Suite", "Order_Tests_Large"])
def test_a_test_that_passes_gives_figures_and_cases(org, task, test, deferrable):
    begun = task(test=test, deferrable=deferrable)
    seen = begun.attempt()
    if deferrable:
        assert isinstance(seen.error, TaskDeferred)
        (run_id,) = org.test_runs
        assert seen.xcoms["run_id"] == run_id
        seen = begun.attempt(woken(seen.error))
    result = seen.value
    count = 1000 if test.endswith("Large") else 2
    (run_id,) = org.test_runs
    assert {**result, "cases": None} == {
        "status": "passed",
        "passed": count,
        "failed": 0,
        "errors": 0,
        "cases": None,
        "run_id": run_id,
    }
    assert result["cases"][0]["name"] == "Where's order 123?"
    assert len(json.dumps(result)) < 49_000


@pytest.mark.parametrize(
    ("test", "rate", "words"),
    [
        ("Order_Tests_Failing", 1.0, "1 of 2 passed, and min_pass_rate is 1.*expected 'Sunny.'"),
        ("Order_Suite_Failing", 0.6, "1 of 2 passed"),
        ("Order_Tests_Broken", 0.0, "ended as ERROR: The test run ended with an error"),
        ("Order_Suite_Broken", 0.0, "ended as FAILED"),
    ],
)
def test_a_test_that_does_not_pass_fails_the_task_without_a_retry(task, test, rate, words):
    seen = task(test=test, min_pass_rate=rate).attempt()
    assert isinstance(seen.error, AgentTestFailedError)
    assert isinstance(seen.error, AirflowFailException)
    assert re.search(words, str(seen.error))
    assert seen.xcoms["result"] == seen.error.result
    assert seen.error.result["status"] == "failed"


def test_a_share_may_be_enough(task):
    assert task(test="Order_Tests_Failing", min_pass_rate=0.5).attempt().value["status"] == "passed"


LOST = ["Trigger timeout", "Trigger failure"]


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("store", [True, False])
def test_a_run_that_has_ended_is_green_when_the_trigger_is_lost(org, task, lost, store):
    begun = task(test="Order_Tests", deferrable=True)
    assert isinstance(begun.attempt().error, TaskDeferred)
    if not store:
        begun.store.values = {}
    assert begun.attempt(lost=lost).value["status"] == "passed"
    assert len(org.test_runs) == 1


def test_a_run_whose_id_is_lost_with_its_trigger_is_unknown(org, task):
    begun = task(test="Order_Tests", deferrable=True)
    begun.attempt().xcoms["run_id"] = None
    begun.store.values = {}
    assert is_unknown_for_good(begun.attempt(lost=LOST[0]))
    assert len(org.test_runs) == 1


@pytest.mark.parametrize("lost", LOST)
def test_a_run_without_an_end_is_cancelled_in_time_when_the_trigger_is_lost(org, task, lost):
    begun = task(test="Order_Tests_Endless", deferrable=True, timeout=timedelta(seconds=2))
    assert isinstance(begun.attempt().error, TaskDeferred)
    seen = begun.attempt(lost=lost)
    assert isinstance(seen.error, AgentTestFailedError)
    assert states(org) == ["TERMINATED"]


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize(("status", "error"), [("COMPLETED", None), ("IN_PROGRESS", AirflowSensorTimeout)])
def test_the_sensor_looks_at_the_run_when_the_trigger_is_lost(org, client, lost, status, error):
    run = client.agent_tests.start("Order_Tests_Endless")
    timeout = timedelta(milliseconds=50)
    sensor = AgentTestSensor(task_id="wait", run_id=run.run_id, timeout=timeout, deferrable=True)
    if status == "COMPLETED":
        next(iter(org.test_runs.values())).finish(status)
    try:
        seen = sensor.resume_execution("__fail__", {"error": lost}, {"ti": TaskInstance()})
    except Exception as raised:  # noqa: BLE001 - looked at below
        seen = raised
    assert isinstance(seen, error or dict)
    assert states(org) == [status]


def test_an_org_that_is_away_for_a_while_does_not_end_the_wait(org, task):
    begun = task(test="Order_Tests")
    seen = begun.attempt(started=lambda _: org.fail("test", status=503, times=12))
    assert seen.value["status"] == "passed"
    assert len(org.test_runs) == 1


def test_the_run_is_cancelled_after_a_look_that_fails_for_good(org, task):
    seen = task(test="Order_Tests_Endless").attempt(started=lambda _: org.fail("test", status=403))
    assert isinstance(seen.error, AirflowFailException)
    assert states(org) == ["TERMINATED"]


def test_the_sensor_goes_on_while_the_org_is_away(org, client):
    run = client.agent_tests.start("Order_Tests")
    org.fail("test", status=503, times=12)
    sensor = AgentTestSensor(task_id="wait", run_id=run.run_id, poke_interval=0.01)
    assert sensor.execute({"ti": TaskInstance()})["status"] == "passed"


def test_a_later_try_finds_its_run_and_starts_no_other(org, task):
    begun = task(test="Order_Suite")
    seen = begun.attempt(started=lambda operator: operator.on_kill())
    assert isinstance(seen.error, TaskStoppedError)
    assert not isinstance(seen.error, AirflowFailException)
    assert begun.attempt().value["run_id"] == seen.xcoms["run_id"]
    assert len(org.test_runs) == 1


def test_a_lost_start_of_the_first_api_is_unknown_and_starts_no_other(org, task):
    begun = task(test="Order_Tests", api="legacy")
    org.fail("test", drop=True, after=True)
    seen = begun.attempt()
    again = begun.attempt()
    for one in (seen, again):
        assert isinstance(one.error, DeliveryUnknownError)
        assert isinstance(one.error, AirflowFailException)
    assert len(org.test_runs) == 1


def starts(org):
    return [record for record in org.requests if (record.method, record.path[-5:]) == ("POST", "/runs")]


def is_unknown_for_good(seen):
    return isinstance(seen.error, DeliveryUnknownError) and isinstance(seen.error, AirflowFailException)


def test_a_lost_start_of_the_successor_is_looked_for_at_once(org, task):
    begun = task(test="Order_Suite_Endless")
    org.fail("test", drop=True, after=True)
    seen = begun.attempt()
    assert is_unknown_for_good(seen)
    assert re.search("The second request: .* is in progress.*Testing Center", str(seen.error))
    assert is_unknown_for_good(begun.attempt())
    assert (len(org.test_runs), len(starts(org))) == (1, 2)


def test_a_lost_start_that_never_arrived_is_made_again(org, task):
    org.fail("test", drop=True)
    assert task(test="Order_Suite").attempt().value["status"] == "passed"
    assert len(org.test_runs) == 1


@pytest.mark.parametrize("fault", [{"drop": True}, {"status": 403}, {"status": 503}], ids=str)
def test_a_lost_start_whose_run_has_ended_meanwhile_starts_no_other(org, task, fault):
    begun = task(test="Order_Suite_Endless")
    org.fail("test", drop=True, after=True)
    org.fail("test", **fault)
    assert is_unknown_for_good(begun.attempt())
    next(iter(org.test_runs.values())).finish("SUCCESS")
    assert is_unknown_for_good(begun.attempt())
    assert len(org.test_runs) == 1


def test_a_start_that_is_lost_late_is_not_made_again(org, task):
    org.fail("test", drop=True, after=True)
    with quick_process(clock=itertools.count(step=10).__next__):
        assert is_unknown_for_good(task(test="Order_Suite").attempt())
    assert len(starts(org)) == 1


LIMIT = {"status": 400, "body": [{"errorCode": "LIMIT_EXCEEDED", "message": "Too many test runs."}]}


@pytest.mark.parametrize("again", [LIMIT, {"status": 403}, {"status": 404}], ids=str)
def test_after_a_lost_start_no_other_api_is_asked(org, task, again):
    begun = task(test="Order_Suite_Endless")
    org.fail("test", drop=True, after=True)
    org.fail("test", **again)
    for _ in range(2):
        assert is_unknown_for_good(begun.attempt())
    assert (len(org.test_runs), len(starts(org))) == (1, 2)


def test_a_lost_start_is_made_again_only_where_the_org_starts_no_second_run(org, task):
    begun = task(test="Order_Suite", api="conversation", path=SUITE_PATH)
    org.fail("test", drop=True)
    for _ in range(2):
        assert is_unknown_for_good(begun.attempt())
    assert len(starts(org)) == 1


def test_an_answer_without_an_id_is_not_asked_for_again(org, task):
    begun = task(test="Order_Suite")
    org.fail("test", body={"id": "3A2000000000001", "status": "CREATED"})
    for _ in range(2):
        assert is_unknown_for_good(begun.attempt())
    assert len(starts(org)) == 1


def test_a_start_that_is_lost_again_and_again_is_made_twice_at_most(org, task):
    org.fail("test", drop=True, times=2)
    assert is_unknown_for_good(task(test="Order_Suite").attempt())
    assert len(starts(org)) == 2


def test_a_lost_start_that_the_org_is_still_working_on_is_not_asked_for_too_early(org, task):
    org.fail("test", drop=True)
    began = time.monotonic()
    with quick_process(start_pause=0.5):
        assert task(test="Order_Suite").attempt().value["status"] == "passed"
    assert time.monotonic() - began >= 0.5


def test_a_run_of_another_is_left_to_the_retries(org, task):
    task(test="Order_Suite_Endless", deferrable=True).attempt()
    begun = task(test="Order_Suite_Endless", deferrable=True)
    seen = begun.attempt()
    assert isinstance(seen.error, AgentforceTransientError)
    assert "in progress" in str(seen.error)
    next(iter(org.test_runs.values())).finish("SUCCESS")
    assert isinstance(begun.attempt().error, TaskDeferred)


def test_a_test_that_has_changed_since_an_earlier_try_is_refused(org, task):
    begun = task(test="Order_Tests_Endless", deferrable=True)
    begun.attempt()
    other = RunAgentTestOperator(task_id="test", test="Order_Tests", deferrable=True)
    with pytest.raises(AgentforceInputError, match="has changed"):
        other.execute({"ti": TaskInstance(2, 3), "task_state_store": begun.store})


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(("test", "status"), [("Order_Tests", "TERMINATED"), ("Order_Suite", "IN_PROGRESS")])
def test_a_run_without_an_end_fails_in_time_and_is_cancelled_where_that_goes(
    org, task, test, status, deferrable
):
    begun = task(test=f"{test}_Endless", timeout=timedelta(milliseconds=50), deferrable=deferrable)
    seen = begun.attempt()
    if isinstance(seen.error, TaskDeferred):
        seen = begun.attempt(woken(seen.error))
    assert isinstance(seen.error, AgentTestFailedError)
    assert "has not ended within 0:00:00.05" in str(seen.error)
    assert states(org) == [status]


def test_a_run_that_is_gone_says_so(org, task):
    begun = task(test="Order_Tests_Endless", deferrable=True)
    deferred = begun.attempt().error
    org.fail("test", status=404, times=2)
    seen = begun.attempt(woken(deferred))
    assert isinstance(seen.error, AgentforceRequestError)
    assert "does not exist in this org" in str(seen.error)


@pytest.mark.parametrize(("test", "status"), [("Order_Tests", "TERMINATED"), ("Order_Suite", "IN_PROGRESS")])
def test_a_kill_cancels_the_run_where_that_goes(org, task, test, status):
    begun = task(test=f"{test}_Endless", poke_interval=timedelta(hours=1))

    def kill_it_while_it_waits(operator):
        threading.Thread(target=lambda: (until("it waits", lambda: looked(org)), operator.on_kill())).start()

    seen = begun.attempt(started=kill_it_while_it_waits)
    assert isinstance(seen.error, TaskStoppedError)
    assert states(org) == [status]
    # The next try starts another run, or goes on with the one that goes on.
    assert isinstance(begun.attempt(started=lambda operator: operator.on_kill()).error, TaskStoppedError)
    assert len(org.test_runs) == (2 if test == "Order_Tests" else 1)


def looked(org):
    return any(record.method == "GET" and record.status for record in org.requests)


def test_a_stop_while_nothing_runs_cancels_the_run(org, task):
    deferred = task(test="Order_Tests_Endless", deferrable=True).attempt().error
    asyncio.run(deferred.trigger.on_kill())
    assert states(org) == ["TERMINATED"]


def test_a_stop_while_a_trigger_connects_reaches_airflow_with_its_message():
    # Airflow calls on_kill() for a cancellation with its message only.
    connects, stopped = threading.Event(), threading.Event()

    def connect():
        connects.set()
        stopped.wait(60)

    async def trigger():
        try:
            await beside_loop(connect)
        except asyncio.CancelledError as error:
            return error.args

    async def stop():
        task = asyncio.ensure_future(trigger())
        await asyncio.to_thread(connects.wait, 60)
        task.cancel("a person")
        try:
            return await task
        finally:
            stopped.set()

    assert asyncio.run(stop()) == ("a person",)


def test_trouble_while_waiting_does_not_end_the_wait(org, task):
    begun = task(test="Order_Tests", deferrable=True)
    deferred = begun.attempt().error
    org.fail("test", status=520)
    assert begun.attempt(woken(deferred)).value["status"] == "passed"


def test_files_say_what_came_of_it(task, tmp_path):
    junit, folder = tmp_path / "deep" / "junit.xml", tmp_path / "results"
    seen = task(test="Order_Tests_Failing", junit_path=str(junit), result_path=f"file://{folder}").attempt()
    assert isinstance(seen.error, AgentTestFailedError)
    suite = ET.parse(junit).getroot()[0]  # noqa: S314 - our own file
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "2",
        "failures": "1",
        "errors": "0",
    }
    (failure,) = suite.iter("failure")
    assert "expected 'Sunny.'" in failure.text
    assert suite[0].get("name") == "Where's order 123?"
    kept = json.loads((folder / "results.json").read_text())
    assert [check["status"] for check in kept["cases"][1]["checks"]][:3] == ["passed", "passed", "failed"]


def test_a_pass_of_the_same_version_is_not_repeated(org, task, tmp_path):
    def attempt(**more):
        arguments = {"test": "Order_Tests", "skip_if_passed_within": timedelta(days=1), **more}
        return task(result_path=f"file://{tmp_path}", **arguments).attempt().value

    first = attempt()
    assert "skipped" not in first
    assert attempt() == {**first, "skipped": True}
    assert len(org.test_runs) == 1
    attempt(test="Order_Tests_Unscored")
    assert len(org.test_runs) == 2
    attempt()
    org.publish()
    attempt()
    attempt()
    assert len(org.test_runs) == 4
    attempt(skip_if_passed_within=timedelta(microseconds=1))
    assert len(org.test_runs) == 5


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "{",
        "{}",
        "[]",
        "null",
        "[" * 100_000,
        {"result": {}},
        {"at": 1},
        {"at": "2026-11-28T10:00:00"},
        {"cases": [5]},
        {"cases": []},
        b"\xff",
    ],
    ids=[
        "empty",
        "cut",
        "no fields",
        "a list",
        "nothing",
        "deep",
        "no result",
        "no time",
        "no time zone",
        "no case",
        "other cases",
        "not UTF-8",
    ],
)
def test_a_damaged_record_of_a_pass_is_a_warning_and_the_test_runs(org, task, tmp_path, capfd, damaged):
    def attempt():
        kept = {"skip_if_passed_within": timedelta(days=1), "result_path": f"file://{tmp_path}"}
        return task(test="Order_Tests", **kept).attempt().value

    attempt()
    file = tmp_path / "last_pass.json"
    if isinstance(damaged, dict):
        damaged = json.dumps({**json.loads(file.read_text()), **damaged})
    capfd.readouterr()
    file.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    assert attempt()["status"] == "passed"
    assert len(org.test_runs) == 2
    assert capfd.readouterr().out.count("last_pass.json cannot be read") == 1
    assert attempt()["skipped"] is True


def test_only_a_pass_that_can_be_trusted_is_not_repeated(org, make_org, task, tmp_path, monkeypatch, capfd):
    def attempt(**more):
        within = {"skip_if_passed_within": timedelta(days=1), "test": "Order_Tests"}
        return task(**{**within, "result_path": f"file://{tmp_path}", **more}).attempt()

    file = tmp_path / "last_pass.json"
    attempt()
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    file.write_text(json.dumps({**json.loads(file.read_text()), "at": later.isoformat()}))
    assert "skipped" not in attempt().value
    # The agent that the successor tests is not in its results, and the connection's is no one's word for it.
    file.unlink()
    for _ in range(2):
        assert "skipped" not in attempt(test="Order_Suite").value
    assert "does not say which agent" in capfd.readouterr().out
    attempt()
    assert attempt().value["skipped"] is True
    failed = {"test": "Order_Tests_Failing", "skip_if_passed_within": None}
    assert isinstance(attempt(**failed).error, AgentTestFailedError)
    assert "skipped" not in attempt().value
    # The same connection id may lead to another org.
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", make_org().connection())
    assert "skipped" not in attempt().value


def test_the_junit_file_of_a_test_that_is_not_repeated_says_so(org, task, tmp_path):
    def attempt(name):
        kept = {"skip_if_passed_within": timedelta(days=1), "result_path": f"file://{tmp_path}"}
        junit = tmp_path / f"{name}.xml"
        task(test="Order_Tests_Failing", min_pass_rate=0.5, junit_path=str(junit), **kept).attempt()
        return ET.parse(junit).getroot()[0]  # noqa: S314 - our own file

    first, second = attempt("first"), attempt("second")
    assert len(org.test_runs) == 1
    figures = [[suite.get(name) for name in ("tests", "failures", "skipped")] for suite in (first, second)]
    assert figures == [["2", "1", "0"], ["2", "0", "2"]]
    assert [case.get("name") for case in second] == [case.get("name") for case in first]
    assert "the same version of the agent passed at 20" in second[0].find("skipped").get("message")


def test_an_earlier_pass_is_judged_by_the_rate_of_now(org, task, tmp_path):
    def attempt(rate):
        kept = {"skip_if_passed_within": timedelta(days=1), "result_path": f"file://{tmp_path}"}
        return task(test="Order_Tests_Failing", min_pass_rate=rate, **kept).attempt()

    assert attempt(0.5).value["status"] == "passed"
    assert attempt(0.4).value["skipped"] is True
    assert isinstance(attempt(0.6).error, AgentTestFailedError)
    assert len(org.test_runs) == 2


def test_the_agent_that_the_author_names_counts_where_the_org_names_none(org, task, tmp_path):
    def attempt():
        kept = {"skip_if_passed_within": timedelta(days=1), "result_path": f"file://{tmp_path}"}
        return task(test="Order_Suite", agent_id="Service_Agent", **kept).attempt().value

    first = attempt()
    assert attempt() == {**first, "skipped": True}
    org.publish()
    assert "skipped" not in attempt()
    assert len(org.test_runs) == 2


def test_a_pass_of_another_agent_is_not_kept(org, task, tmp_path):
    for _ in range(2):
        task(
            test="Order_Tests",
            agent_id="Employee_Agent",
            skip_if_passed_within=timedelta(days=1),
            result_path=str(tmp_path),
        ).attempt()
    assert len(org.test_runs) == 2


def test_a_version_that_cannot_be_read_does_not_fail_a_test_that_passes(org, task, tmp_path):
    for _ in range(2):
        begun = task(
            test="Order_Tests",
            agent_id="Inactive_Agent",
            skip_if_passed_within=timedelta(days=1),
            result_path=str(tmp_path),
        )
        assert begun.attempt().value["status"] == "passed"
    assert len(org.test_runs) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"test": "two words"}, "test"),
        ({"test": "T", "min_pass_rate": 95}, "min_pass_rate must be a number from 0 to 1"),
        ({"test": "T", "timeout": 60}, "timeout must be a timedelta"),
        ({"test": "T", "timeout": timedelta(days=10**7)}, "timeout must be at most 366 days"),
        ({"test": "T", "skip_if_passed_within": timedelta(days=1)}, "result_path"),
        ({"test": "T", "api": "new"}, "api must be legacy or testing or conversation"),
        ({"test": "T", "api": "conversation"}, "path"),
        ({"test": "T", "tset": "T"}, "Did you mean test"),
        ({"test": 5}, "test must be text"),
        ({"test": "T", "deferrable": "no"}, "deferrable must be True or False, but is 'no'"),
        ({"test": "T", "min_pass_rate": "0.9"}, "min_pass_rate must be a number from 0 to 1, but is '0.9'"),
        ({"test": "T", "agent_id": "my agent"}, "agent_id must be"),
        ({"test": "T", "junit_path": "junit.xml"}, "junit_path must be a URI"),
        ({"test": "T", "result_path": 5}, "result_path must be a URI, but is 5"),
    ],
)
def test_what_cannot_be_right_is_refused_when_the_dag_is_parsed(given, words):
    with pytest.raises(AgentforceInputError, match=words):
        RunAgentTestOperator(task_id="test", **given)


ABORTED = {
    "status": "ERROR",
    "errorMessage": "No credits.",
    "testCases": [{"testResults": [{"name": "a", "result": result}]} for result in ("PASS", "FAILURE")],
}


@pytest.mark.parametrize("status", ["ERROR", "TIMED_OUT"])
def test_a_run_that_is_aborted_fails_whatever_its_cases_say(org, task, status):
    begun = task(test="Order_Tests_Endless", deferrable=True, min_pass_rate=0.5)
    begun.attempt()
    aborted = {**ABORTED, "status": status, "endTime": "2026-11-28T10:00:00.000Z"}
    org.fail("test", body=aborted, times=2)
    seen = begun.attempt()
    assert isinstance(seen.error, AgentTestFailedError)
    assert f"ended as {status}: No credits." in str(seen.error)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"run_id": "a/b"}, "run_id must be"),
        ({"run_id": "r", "api": "new"}, "api must be legacy"),
        ({"run_id": "r", "timeout": 1e12}, "timeout must be at most 366 days"),
        ({"run_id": "r", "deferrable": "no"}, "deferrable must be True or False"),
    ],
)
def test_what_cannot_be_right_of_a_sensor_is_refused_when_the_dag_is_parsed(given, words):
    with pytest.raises(AgentforceInputError, match=words):
        AgentTestSensor(task_id="wait", **given)


def test_the_sensor_judges_an_aborted_run_in_the_same_way(org, client):
    run = client.agent_tests.start("Order_Tests_Endless")
    passed = {**ABORTED, "testCases": ABORTED["testCases"][:1]}
    org.fail("test", body=passed, times=2)
    result = AgentTestSensor(task_id="wait", run_id=run.run_id, api="legacy").execute({"ti": TaskInstance()})
    assert (result["status"], result["passed"], result["run_status"]) == ("failed", 1, "ERROR")


def test_a_trigger_that_cannot_look_pauses_before_it_wakes_the_task(org, task):
    pause = timedelta(milliseconds=200)
    deferred = task(test="Order_Tests_Endless", deferrable=True, poke_interval=pause).attempt().error
    org.fail("test", status=403)
    began = time.monotonic()
    woken(deferred)
    assert time.monotonic() - began >= pause.total_seconds()


@pytest.mark.parametrize("deferrable", [False, True])
def test_the_sensor_waits_for_a_run_of_another_and_succeeds_whatever_came_of_it(org, client, deferrable):
    run = client.agent_tests.start("Order_Suite_Failing")
    sensor = AgentTestSensor(task_id="wait", run_id=run.run_id, poke_interval=0.01, deferrable=deferrable)
    context = {"ti": TaskInstance()}
    if deferrable:
        with pytest.raises(TaskDeferred) as caught:
            sensor.execute(context)
        result = sensor.execute_complete(context, woken(caught.value))
    else:
        result = sensor.execute(context)
    assert (result["status"], result["passed"], result["failed"]) == ("failed", 1, 1)
    assert (result["run_id"], result["run_status"]) == (run.run_id, "SUCCESS")


@pytest.mark.parametrize(
    ("soft_fail", "error"), [(False, AirflowSensorTimeout), (True, AirflowSkipException)]
)
def test_the_sensor_gives_up_and_cancels_nothing(org, client, soft_fail, error):
    run = client.agent_tests.start("Order_Tests_Endless")
    sensor = AgentTestSensor(
        task_id="wait",
        run_id=run.run_id,
        timeout=timedelta(milliseconds=20),
        deferrable=True,
        soft_fail=soft_fail,
    )
    with pytest.raises(TaskDeferred) as caught:
        sensor.execute({"ti": TaskInstance()})
    with pytest.raises(error):
        sensor.execute_complete({"ti": TaskInstance()}, woken(caught.value))
    assert states(org) == ["IN_PROGRESS"]


def test_the_trigger_keeps_no_secret_and_no_more_than_it_needs(org, task):
    deferred = task(test="Order_Tests_Endless", deferrable=True).attempt().error
    _, arguments = deferred.trigger.serialize()
    assert set(arguments) == {
        *("run_id", "api", "path", "until", "cancels", "agentforce_conn_id", "poke_interval"),
    }
    assert arguments["until"] > datetime.now(timezone.utc)
