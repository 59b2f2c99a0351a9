"""What passes between Airflow and the operators: data stays data, references resolve, sessions are found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from installed import AIRFLOW

from airflow_provider_agentforce._compat import AirflowFailException
from airflow_provider_agentforce.client.messages import Cancel, Reply
from airflow_provider_agentforce.exceptions import AgentforceInputError
from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
    SubmitFeedbackOperator,
    external_session_key,
)
from airflow_provider_agentforce.operators._identity import key_of
from airflow_provider_agentforce.operators._ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
DAGS = Path(__file__).parent / "dags"
# Several files, as a run stores every Dag of its own one.
BORDERS, LOOPED = DAGS / "borders", DAGS / "loops.py"
needs_loops = pytest.mark.skipif(AIRFLOW != "3.4", reason="Airflow has loops from 3.4 on")
# The child of the process pool uses nothing of the emulator's thread.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
WORDS = "{{ conn.agentforce_default.password }} {{ 7 * 7 }}"


def sent(org):
    return sorted(turn.text for session in org.sessions.values() for turn in session.turns)


def received(org):
    """Return the texts of the messages that the org acted on, as often as it did."""
    turns = [turn for session in org.sessions.values() for turn in session.turns]
    return [turn.text for turn in turns for _ in range(turn.applied)]


def started_with(org):
    return [request.body for request in org.requests if request.operation == "start"]


def test_what_came_from_xcom_is_never_rendered_and_what_the_author_wrote_is(dag_test, org):
    status, output = dag_test("data_is_data", org, BORDERS)
    assert status == 0, output
    assert sent(org) == sorted(
        [
            f"send {WORDS}",
            f"talk {WORDS}",
            f"list {WORDS}",
            "literal 49",
            f"one of two {WORDS}",
            "partly 49",
            WORDS,
            "group 49",
            f"value {WORDS}",
            f"say {WORDS}",
            f"say {WORDS} and 49",
            WORDS,
            f"batch {WORDS}",
        ]
    )
    bodies = json.dumps(started_with(org))
    assert org.consumer_secret not in bodies + "".join(sent(org))
    assert "7 * 7" in bodies
    assert "49" in bodies
    assert "{{ 'Europe" not in bodies


def test_references_at_any_depth_are_resolved_and_make_the_dependency(dag_test, dag_bag, org):
    status, output = dag_test("references", org, BORDERS)
    assert status == 0, output
    assert sent(org) == sorted(
        [WORDS, WORDS, WORDS, f"q {WORDS} manual", "q b manual", WORDS, WORDS, f"q {WORDS}"]
    )
    dag = dag_bag(BORDERS).dags["references"]
    for task_id, upstream in {
        "talk": {"up", "other"},
        "mapped": {"up", "other"},
        "batch": {"up", "other"},
        "mapped_batch": {"up"},
    }.items():
        assert dag.get_task(task_id).upstream_task_ids == upstream


@dataclass(frozen=True)
class Run:
    """What becomes of a run.

    :param sent: the messages that the org got, in order; one that came twice is there twice.
    :param says: words of the log.
    :param starts: how many sessions were started.
    :param left_open: how many of them are open afterwards.
    """

    state: str
    sent: Sequence[str] = ()
    says: str = ""
    starts: int = 1
    left_open: int = 0


def everywhere(*run, **more):
    return dict.fromkeys(("2.11", "3.3", "3.4"), Run(*run, **more))


def with_records(*run, below, **more):
    """Give the run that Airflow's task state store makes possible, and that *below* it."""
    return {**everywhere(*run, **more), "2.11": below}


CHANGED = "has changed since an earlier try sent it"
UNKNOWN = "DeliveryUnknownError"
FAILS = "please fail"
# What each Dag of dags/borders comes to on each Airflow: "2.11" is every one below 3.3.
RUNS = {
    # The error comes back from another process, and still ends the task.
    "in_a_process_pool": everywhere("failed", ["pooled"], UNKNOWN),
    "answer_that_is_lost_fail": everywhere("failed", ["first"], UNKNOWN),
    "answer_that_is_lost_resend": with_records(
        "success",
        ["first", "first", "second"],
        below=Run("success", ["first", "first", "second"], starts=2),
    ),
    # A session is ended, whatever became of its messages.
    "end_after_a_failed_send": everywhere("failed", [FAILS]),
    "end_after_two_sends": everywhere("failed", [FAILS, FAILS]),
    "end_after_a_skipped_send": everywhere("success"),
    "end_after_a_mapped_send": everywhere("failed", [FAILS]),
    "end_after_a_send_by_template": everywhere("failed", [FAILS]),
    "end_by_a_broken_template": everywhere("failed", [FAILS]),
    "end_by_a_rendered_dict": everywhere("failed", [FAILS]),
    "end_by_one_key": everywhere("failed", [FAILS]),
    "end_by_two_keys": everywhere("failed", [FAILS]),
    "end_through_a_task_between": everywhere("failed", [FAILS]),
    "references_in_rows": everywhere("success", ["first"]),
    "end_in_a_mapped_group": everywhere("failed", [FAILS, FAILS], starts=2),
    # What is not there fails at once, and is named.
    "nothing_to_send_in": everywhere(
        "failed", says="session is None: the task nothing left no session", starts=0
    ),
    "nothing_to_end": everywhere(
        "failed", says="session is None: the task nothing left no session", starts=0
    ),
    "send_by_a_broken_template": everywhere(
        "failed", says="session is None: the task nothing left no session", starts=0
    ),
    "nothing_by_template": everywhere(
        "failed", says="session_id is 'None': the task nothing left no session", starts=0
    ),
    "no_connection": everywhere("failed", says="Connection typo: it does not exist.", starts=0),
    "failure_without_words": everywhere(
        "failed", ["first"], "The agent's answer has the outcome failed. The agent"
    ),
    # A try that fails once the agent has answered.
    "message_that_changes": with_records(
        "failed",
        ["first in try 1"],
        CHANGED,
        below=Run("failed", ["first in try 1"], "Message 1 is answered"),
    ),
    "fails_between": with_records(
        "success", ["first", "second"], below=Run("failed", ["first"], "Message 1 is answered")
    ),
    "talk_then_fail": with_records(
        "success", ["first", "second"], below=Run("success", ["first", "second"] * 2, starts=2)
    ),
    "send_then_fail": with_records("success", ["first"], below=Run("success", ["first", "first"])),
    "start_then_fail": with_records("success", below=Run("success", starts=2, left_open=1)),
    "records_with_na": everywhere("success", ["q a"]),
}
TAKES_AN_ANSWER_AWAY = ("in_a_process_pool", "answer_that_is_lost_fail", "answer_that_is_lost_resend")


@pytest.mark.parametrize("dag_id", RUNS)
def test_what_becomes_of_a_run(dag_test, make_org, dag_id):
    wordless = {"messages": [{"type": "Failure", "id": "1"}]}
    org = make_org(script=(lambda _: wordless) if dag_id == "failure_without_words" else None)
    if dag_id in TAKES_AN_ANSWER_AWAY:
        org.fail("send", drop=True, after=True)
    status, output = dag_test(dag_id, org, BORDERS)
    expected = RUNS[dag_id][AIRFLOW]
    assert ("failed" if status else "success") == expected.state, output
    assert expected.says in output
    assert received(org) == list(expected.sent)
    assert (len(org.sessions), len(org.open_sessions)) == (expected.starts, expected.left_open)


# The same in loops, which Airflow has from 3.4 on: each iteration does all that one run does.
LOOPS = {
    "batch_in_a_loop": Run("success", ["a", "b"] * 2, starts=4),
    "batch_in_a_loop_with_one_folder": Run("failed", ["a"], "has the results of another batch"),
    "conversation_in_a_loop": Run("success", ["the same", "in each"] * 2, starts=2),
    "session_in_a_loop": Run("success", ["the same"] * 2, starts=2),
    "retries_in_a_loop": Run("success", ["the same"] * 2, starts=2),
}


@needs_loops
@pytest.mark.parametrize("dag_id", LOOPS)
def test_every_iteration_of_a_loop_asks(dag_test, org, dag_id):
    status, output = dag_test(dag_id, org, LOOPED)
    expected = LOOPS[dag_id]
    assert ("failed" if status else "success") == expected.state, output
    assert expected.says in output
    assert sorted(received(org)) == sorted(expected.sent)
    assert org.open_sessions == []
    assert len({session.external_session_key for session in org.sessions.values()}) == expected.starts


@needs_loops
def test_the_loop_of_the_examples_ends_with_the_first_answer(dag_test, org):
    status, output = dag_test("example_agentforce_loop", org, ROOT / "example_dags")
    assert status == 0, output
    assert len(received(org)) == 2
    assert org.open_sessions == []


def test_a_connection_of_another_type_is_named(org, run, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", "http://example.com")
    done = run(StartSessionOperator(task_id="a", agentforce_conn_id="other"))
    assert isinstance(done.error, AirflowFailException)
    assert "Connection other: its type is http, not agentforce." in str(done.error)


def test_a_connection_that_a_template_makes_nothing_ends_the_task(run):
    operator = StartSessionOperator(task_id="a", agentforce_conn_id="{{ none }}")
    operator.agentforce_conn_id = None
    done = run(operator)
    assert isinstance(done.error, AirflowFailException)
    assert "agentforce_conn_id must be the id of a connection, but is None" in str(done.error)


START = StartSessionOperator(task_id="start")
BATCH = {"records": [{"id": 1}], "message": "hi", "result_path": "file:///tmp/x"}


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (ConversationOperator, {"messages": "hi"}, r"Write messages=\['hi'\]"),
        (ConversationOperator, {"messages": []}, "messages is empty"),
        (ConversationOperator, {"messages": ["a", "{{ b"]}, r"messages\[1\] is not a valid template"),
        (
            ConversationOperator,
            {"messages": [{"text": "{% if %}"}]},
            r"messages\[0\]\['text'\] is not a valid",
        ),
        (ConversationOperator, {"messages": ["a"], "fail_on": None}, "fail_on must be outcomes"),
        (ConversationOperator, {"messages": ["a"], "fail_on": {"failed": 1}}, "fail_on must be outcomes"),
        (ConversationOperator, {"messages": ["a"], "fail_on": ["bad"]}, "'bad' is not one of answered"),
        (ConversationOperator, {"messages": ["a"], "output_type": "Order"}, "Give the class itself"),
        (
            ConversationOperator,
            {"messages": ["a"], "store_requests": 1},
            "store_requests must be True or False",
        ),
        (ConversationOperator, {"message": ["a"]}, "has no argument message. Did you mean messages?"),
        (SendMessageOperator, {"message": "a"}, "SendMessageOperator has no argument message"),
        (SendMessageOperator, {"text": "a", "sesion": 1}, "no argument sesion. Did you mean session?"),
        (
            SendMessageOperator,
            {"text": "a", "session": START},
            "session is a task; give its output: start.output",
        ),
        (EndSessionOperator, {"session": START}, "session is a task; give its output"),
        (EndSessionOperator, {"session_id": "{{ x"}, "session_id is not a valid template"),
        (SubmitFeedbackOperator, {"turn": START, "feedback": "GOOD"}, "turn is a task"),
        (StartSessionOperator, {"agent": "x"}, "no argument agent. Did you mean agent_id?"),
        (ConversationOperator, {"text": "a"}, "no argument text. Did you mean messages?"),
        (SendMessageOperator, {"messages": ["a"]}, "no argument messages. Did you mean text?"),
        (ConversationBatchOperator, {**BATCH, "messages": "a"}, "Did you mean message?"),
        (ConversationOperator, {"messages": 5}, "messages must be a list"),
        (ConversationOperator, {"messages": [5]}, r"messages\[0\] must be text"),
        (ConversationOperator, {"messages": ["a", ""]}, r"messages\[1\] is blank"),
        (ConversationOperator, {"messages": [{"txt": "a"}]}, r"messages\[0\] must have text"),
        (ConversationOperator, {"messages": [START]}, r"messages\[0\] is a task; give its output"),
        (ConversationOperator, {"messages": [{"text": START}]}, "is a task; give its output"),
        (ConversationOperator, {"messages": ["a"], "agent_id": START}, "agent_id is a task"),
        (
            ConversationOperator,
            {"messages": partial(len, START.output)},
            "messages is a function that contains",
        ),
        (ConversationOperator, {"messages": ["a"], "stream": START.output}, "stream is not templated"),
        (ConversationOperator, {"messages": ["a"], "stream": "yes"}, "stream must be True or False"),
        (ConversationOperator, {"messages": ["a"], "tz": 5}, "tz must be"),
        (ConversationOperator, {"messages": ["a"], "bypass_user": "no"}, "bypass_user must be True or False"),
        (ConversationOperator, {"messages": ["a"], "output_type": {"x": START.output}}, "output_type is not"),
        (
            ConversationOperator,
            {"messages": ["a"], "on_needs_input": partial(len, START.output)},
            "on_needs_input is a function",
        ),
        (SendMessageOperator, {"text": "a"}, "exactly one of session and session_id"),
        (SendMessageOperator, {"text": "a", "session_id": "b"}, "sequence_id is missing"),
        (EndSessionOperator, {}, "exactly one of session and session_id"),
        (EndSessionOperator, {"session": "a", "session_id": "b"}, "exactly one of session and session_id"),
        (EndSessionOperator, {"session_id": "None"}, "session_id is 'None'"),
        (EndSessionOperator, {"session_id": "a", "reason": "bye"}, "reason must be UserRequest"),
        (
            ConversationBatchOperator,
            {**BATCH, "message": partial(str, START.output)},
            "message is a function",
        ),
        (ConversationBatchOperator, {**BATCH, "deferrable": START.output}, "deferrable is not templated"),
        (
            ConversationBatchOperator,
            {**BATCH, "fail_on_partial_error": "no"},
            "fail_on_partial_error must be",
        ),
        (ConversationBatchOperator, {**BATCH, "message": ""}, "message is blank"),
        (ConversationBatchOperator, {**BATCH, "message": []}, "message is empty"),
        (ConversationBatchOperator, {**BATCH, "message": 5}, "message must be text"),
        (ConversationBatchOperator, {**BATCH, "result_path": "out"}, "result_path must be a URI"),
        (ConversationBatchOperator, {**BATCH, "records": "foo"}, "records must be a URI"),
        (ConversationBatchOperator, {**BATCH, "key": ""}, "key must be the name of a field"),
        (StartSessionOperator, {"agentforce_conn_id": None}, "agentforce_conn_id must be the id"),
        (ConversationBatchOperator, {**BATCH, "agentforce_conn_id": 5}, "agentforce_conn_id must be the id"),
        (ConversationOperator, {"messages": ["a"], "agentforce_conn_id": " "}, "agentforce_conn_id must be"),
        (
            ConversationOperator,
            {"messages": ["a", Reply(turn=START.output)]},
            "messages contains the output of a task in a Reply",
        ),
        (
            SendMessageOperator,
            {"session": START.output, "cancel": Cancel(START.output)},
            "cancel contains the output of a task in a Cancel",
        ),
        (
            SendMessageOperator,
            {
                "session": START.output,
                "reply": Reply([{"type": "a", "property": "b", "value": START.output}]),
            },
            "reply contains the output of a task in a Reply",
        ),
        (
            ConversationBatchOperator,
            {**BATCH, "records": [{"a": Reply(turn=START.output)}]},
            "records contains",
        ),
    ],
)
def test_a_literal_that_cannot_be_right_is_refused_while_the_dag_is_parsed(kind, arguments, words):
    with pytest.raises(AgentforceInputError, match=words):
        kind(task_id="a", **arguments)


def test_a_template_may_become_the_messages(run, org):
    assert ConversationOperator(task_id="a", messages="{{ params.messages }}").messages


def test_a_subclass_elsewhere_may_take_arguments_of_its_own(run, org):
    class Mine(ConversationOperator):
        def __init__(self, **kwargs):
            self.mine = kwargs.pop("mine")
            super().__init__(**kwargs)

    assert Mine(task_id="a", messages=["b"], mine=1).mine == 1


LOOP = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 1, "max_tries": 1}


def test_iterations_of_a_loop_are_told_apart_and_outside_of_one_all_is_as_before():
    region = uuid.uuid4()
    before = SimpleNamespace(**LOOP)
    outside = SimpleNamespace(**LOOP, region_id=uuid.UUID(int=0), region_index=-1)
    first, second = (SimpleNamespace(**LOOP, region_id=region, region_index=index) for index in (0, 1))
    key = external_session_key("d", "r", "t")
    assert key_of(before) == key_of(outside) == key
    assert len({key, key_of(first), key_of(second)}) == 3
    store = {}
    accessor = SimpleNamespace(get=store.get, set=store.__setitem__, delete=store.pop)
    ledgers = [Ledger.of({"ti": ti, "task_state_store": accessor}) for ti in (before, outside, first, second)]
    for ledger in ledgers[1:]:
        ledger.intend("turn", "mark")
    assert sorted(store) == sorted(
        ["agentforce_turn", f"agentforce_{region}:0_turn", f"agentforce_{region}:1_turn"]
    )
    assert ledgers[0].read("turn") is not None


PROGRAM = """
from decimal import Decimal
from pydantic import BaseModel, Field
from airflow_provider_agentforce.operators._ledger import fingerprint_of, name_of_question
from airflow_provider_agentforce.structured import OutputType

class Order(BaseModel):
    tags: list[str] = Field(examples=list({"a", "b", "c", "d", "e", "f"}))

print(fingerprint_of("text", {"b": 1, "a": [1.5, None, "ü"], 3: True}), name_of_question(OutputType(Order)))
"""


def test_a_fingerprint_is_the_same_with_another_hash_seed():
    told = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1


class TestRequests:
    @pytest.mark.parametrize("stored", [True, False])
    def test_what_was_asked_is_in_every_turn_unless_it_is_not_to_be(self, org, run, stored):
        message = {"text": "hello", "variables": {"$Context.A": "b"}}
        operator = ConversationOperator(task_id="a", messages=[message, "more"], store_requests=stored)
        given = [{"name": "$Context.A", "type": "Text", "value": "b"}]
        assert [turn["request"] for turn in run(operator).value["turns"]] == (
            [
                {"type": "Text", "text": "hello", "reply": None, "variables": given},
                {"type": "Text", "text": "more", "reply": None, "variables": []},
            ]
            if stored
            else [None, None]
        )

    def test_it_is_the_first_to_go_where_the_value_is_too_long(self, org, run):
        operator = ConversationOperator(task_id="a", messages=["x" * 30_000, "y" * 30_000])
        done = run(operator)
        assert [turn["request"] for turn in done.value["turns"]] == [None, None]
        assert all(turn["text"] for turn in done.value["turns"])
