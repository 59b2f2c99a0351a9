"""Golden conversations as a task: the verdict, repetitions, and what a later try does."""

from __future__ import annotations

import json
import os
import textwrap
from datetime import timedelta
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import pytest
from stand_ins import StateStore, TaskInstance

from airflow_provider_agentforce._compat import AirflowFailException
from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceInputError,
    AgentforceTransientError,
    AgentTestFailedError,
)
from airflow_provider_agentforce.operators import ConversationTestOperator

# Python 3.12 warns of a fork beside the emulator's thread; the child uses nothing of that thread.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

ORDER = "name: order\nturns:\n  - say: Where is order 42?\n    expect: {contains: being packed}\n"
REFUND = "name: refund\nturns:\n  - say: Please refund it.\n    expect: {outcome: needs_confirmation}\n"
WRONG = "name: wrong\nturns:\n  - say: Where is order 42?\n    expect: {contains: lost}\n"
KILLED = 9


@pytest.fixture
def task(org, tmp_path):
    """Make a task whose tries share a store."""

    def make(*files, **arguments):
        folder = tmp_path / "conversations"
        folder.mkdir(exist_ok=True)
        for number, text in enumerate(files):
            (folder / f"{number}.yaml").write_text(text)
        store = StateStore(lambda: os._exit(KILLED), tmp_path / "store.json")
        given = {"task_id": "test", "conversations": f"file://{folder}/*.yaml", **arguments}
        tries = []

        def attempt():
            ti = TaskInstance(len(tries) + 1, 3)
            seen = SimpleNamespace(value=None, error=None, xcoms=ti.xcoms)
            tries.append(seen)
            try:
                context = {"ti": ti, "task_state_store": store}
                seen.value = ConversationTestOperator(**given).execute(context)
            except Exception as error:  # noqa: BLE001 - the test looks at it
                seen.error = error
            return seen

        def killed(write):
            store.ends_at = store.written + write
            child = os.fork()
            if child == 0:
                attempt()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
            store.ends_at = None

        return SimpleNamespace(attempt=attempt, killed=killed, folder=folder)

    return make


def said(org):
    return [turn.text for session in org.sessions.values() for turn in session.turns]


def test_an_earlier_pass_is_judged_by_the_rate_of_now(org, task, tmp_path):
    kept = {"skip_if_passed_within": timedelta(days=1), "result_path": f"file://{tmp_path}/kept"}
    assert task(ORDER, WRONG, min_pass_rate=0.5, **kept).attempt().value["status"] == "passed"
    assert task(ORDER, WRONG, min_pass_rate=0.5, **kept).attempt().value["skipped"] is True
    assert isinstance(task(ORDER, WRONG, **kept).attempt().error, AgentTestFailedError)
    assert len(said(org)) == 4


def test_conversations_that_go_as_they_must_pass(org, task):
    result = task(ORDER, REFUND).attempt().value
    assert {**result, "cases": [case["name"] for case in result["cases"]]} == {
        "status": "passed",
        "passed": 2,
        "failed": 0,
        "errors": 0,
        "cases": ["order", "refund"],
    }
    assert {case["session_id"] for case in result["cases"]} == set(org.sessions)
    assert org.open_sessions == []


def test_repetitions_are_counted(org, task, tmp_path, caplog):
    org.fail("send", body={"messages": [{"type": "Inform", "message": "Lost."}]})
    seen = task(ORDER, repeat=3, junit_path=f"{tmp_path}/junit.xml").attempt()
    assert isinstance(seen.error, AgentTestFailedError)
    assert isinstance(seen.error, AirflowFailException)
    assert "2 of 3 passed" in str(seen.error)
    assert [case["status"] for case in seen.xcoms["result"]["cases"]] == ["failed", "passed", "passed"]
    suite = ET.parse(tmp_path / "junit.xml").getroot()[0]  # noqa: S314 - our own file
    assert [case.get("name") for case in suite] == ["order [1]", "order [2]", "order [3]"]
    assert (suite.get("failures"), len(said(org))) == ("1", 3)


def test_enough_repetitions_may_pass(org, task):
    org.fail("send", body={"messages": [{"type": "Inform", "message": "Lost."}]})
    assert task(ORDER, repeat=3, min_pass_rate=0.6).attempt().value["status"] == "passed"


@pytest.mark.parametrize(
    ("writes", "says"),
    [
        (1, ["order", "refund"]),  # before the start
        (2, ["refund"]),  # the session is there, and whether something was said is not known
        (3, ["refund"]),  # the case is on record
        (4, ["refund"]),
        (5, []),
    ],
)
def test_a_try_after_a_kill_says_nothing_twice(org, task, writes, says):
    begun = task(ORDER, REFUND)
    begun.killed(writes)
    before = said(org)
    seen = begun.attempt()
    expected = {"order": "Where is order 42?", "refund": "Please refund it."}
    assert said(org)[len(before) :] == [expected[name] for name in says]
    assert len(set(said(org))) == len(said(org))
    assert (seen.error is None) is (writes in {1, 3, 4})
    if seen.error is not None:
        assert "an earlier try was cut off in this conversation" in str(seen.error)
    # The session of the try that was killed in a start is the org's to end.
    assert len(org.open_sessions) == 0


def test_an_org_that_is_away_is_left_to_the_retries_which_go_on(org, task):
    begun = task(ORDER, REFUND)
    org.fail("start", status=500, after=False)
    assert isinstance(begun.attempt().error, AgentforceTransientError)
    assert begun.attempt().value["passed"] == 2
    assert said(org) == ["Where is order 42?", "Please refund it."]


def test_an_agent_that_does_not_exist_is_an_error_of_its_conversation(org, task):
    seen = task(ORDER, f"agent: No_Such_Agent\n{REFUND}").attempt()
    assert [case["status"] for case in seen.error.result["cases"]] == ["passed", "error"]
    assert "No_Such_Agent" in str(seen.error)


def test_credentials_that_are_refused_end_it_at_once(org, task):
    org.fail("token", error="wrong_secret")
    seen = task(ORDER, REFUND).attempt()
    assert isinstance(seen.error, AgentforceAuthError)
    assert org.count("token") == 1


def test_a_file_with_a_mistake_names_it_before_anything_is_said(org, task):
    seen = task(ORDER, REFUND.replace("expect", "expects")).attempt()
    assert isinstance(seen.error, AgentforceInputError)
    assert "1.yaml, line 4: turns[0].expects is not a field here; did you mean expect?" in str(seen.error)
    assert org.requests == []


def test_two_conversations_of_the_same_name_are_refused_with_both_places(org, task):
    listed = "".join("- " + textwrap.indent(one, "  ").strip() + "\n" for one in (WRONG, ORDER))
    seen = task(ORDER, REFUND, listed)
    told = str(seen.attempt().error)
    assert "name 'order' is that of another conversation" in told
    assert told.index("2.yaml, line 5") < told.index("0.yaml, line 1")
    assert org.requests == []


@pytest.mark.parametrize("repeat", ["3", True, 0, 1.5, None])
def test_a_number_of_repetitions_is_a_whole_number(task, repeat):
    told = str(task(ORDER, repeat=repeat).attempt().error)
    assert "repeat must be a whole number of at least 1, but is" in told


@pytest.mark.parametrize(
    ("conversations", "words"),
    [
        ("file:///nowhere/at/all/*.yaml", "no file matches"),
        ("file:///nowhere.yaml", "there is no file"),
        ("file:///tmp", "there is no file 'file:///tmp'. It is a folder: add /*.yaml to it."),
        ("nowhere.yaml", "must be a URI"),
        ([], "is empty"),
    ],
)
def test_files_that_are_not_there_are_named(org, task, conversations, words):
    seen = task(conversations=conversations).attempt()
    assert isinstance(seen.error, AgentforceInputError)
    assert f"conversations{'' if words.startswith(('must', 'is')) else ':'} {words}" in str(seen.error)


def test_conversations_that_have_changed_since_an_earlier_try_are_refused(org, task):
    begun = task(ORDER, REFUND)
    begun.killed(3)
    begun.folder.joinpath("0.yaml").write_text(ORDER.replace("42", "43"))
    assert "have changed" in str(begun.attempt().error)


def test_a_pass_of_the_same_version_and_conversations_is_not_repeated(org, task, tmp_path):
    def attempt(*files):
        within = timedelta(days=1)
        begun = task(*files, result_path=f"{tmp_path}/results", skip_if_passed_within=within)
        (tmp_path / "store.json").write_text("{}")
        return begun.attempt().value

    first = attempt(ORDER)
    assert attempt(ORDER) == {**first, "skipped": True}
    assert len(said(org)) == 1
    attempt(REFUND)
    assert len(said(org)) == 2
    org.publish()
    assert "skipped" not in attempt(REFUND)
    kept = json.loads((tmp_path / "results" / "results.json").read_text())
    assert [check["kind"] for check in kept["cases"][0]["checks"]] == ["outcome"]
