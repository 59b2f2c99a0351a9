"""What passes between Airflow and the operators: data stays data, references resolve, sessions are found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_agentforce.exceptions import AgentforceInputError
from airflow_provider_agentforce.operators import (
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
    SubmitFeedbackOperator,
    external_session_key,
)
from airflow_provider_agentforce.operators._identity import key_of
from airflow_provider_agentforce.operators._ledger import Ledger

WORDS = "{{ conn.agentforce_default.password }} {{ 7 * 7 }}"


def sent(org):
    return sorted(turn.text for session in org.sessions.values() for turn in session.turns)


def started_with(org):
    return [request.body for request in org.requests if request.operation == "start"]


def test_what_came_from_xcom_is_never_rendered_and_what_the_author_wrote_is(dag_test, org):
    status, output = dag_test("data_is_data", org)
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


def test_references_at_any_depth_are_resolved_and_make_the_dependency(dag_test, org):
    from airflow.dag_processing.dagbag import DagBag  # noqa: PLC0415 - after the environment is set

    status, output = dag_test("references", org)
    assert status == 0, output
    assert sent(org) == sorted(
        [WORDS, WORDS, WORDS, f"q {WORDS} manual", "q b manual", WORDS, WORDS, f"q {WORDS}"]
    )
    dag = DagBag(Path(__file__).parent / "dags").dags["references"]
    for task_id, upstream in {
        "talk": {"up", "other"},
        "mapped": {"up", "other"},
        "batch": {"up", "other"},
        "mapped_batch": {"up"},
    }.items():
        assert dag.get_task(task_id).upstream_task_ids == upstream


@pytest.mark.parametrize(
    "dag_id",
    [
        "end_after_a_failed_send",
        "end_after_two_sends",
        "end_after_a_skipped_send",
        "end_after_a_mapped_send",
        "end_after_a_send_by_template",
        "end_in_a_mapped_group",
    ],
)
def test_a_session_is_ended_whatever_became_of_its_messages(dag_test, org, dag_id):
    dag_test(dag_id, org)
    assert len(org.sessions) == (2 if "group" in dag_id else 1)
    assert org.open_sessions == []


@pytest.mark.parametrize(
    ("dag_id", "words"),
    [
        ("nothing_to_send_in", "session is None: the task nothing left no session"),
        ("nothing_to_end", "session is None: the task nothing left no session"),
        ("nothing_by_template", "session_id is 'None': the task nothing left no session"),
        ("no_connection", "Connection typo does not exist."),
    ],
)
def test_what_is_not_there_fails_at_once_and_is_named(dag_test, org, dag_id, words):
    status, output = dag_test(dag_id, org)
    assert status == 1
    assert words in output
    assert "up_for_retry" not in output.lower().replace(" ", "_")
    assert org.requests == []


def test_a_connection_of_another_type_is_named(org, run, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", "http://example.com")
    done = run(StartSessionOperator(task_id="a", agentforce_conn_id="other"))
    assert isinstance(done.error, AirflowFailException)
    assert "Connection other is of type http, not agentforce." in str(done.error)


START = StartSessionOperator(task_id="start")


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
        (ConversationOperator, {"messages": ["a"], "fail_on": ["bad"]}, "'bad' is none of answered"),
        (ConversationOperator, {"messages": ["a"], "output_type": "Order"}, "Give the class itself"),
        (
            ConversationOperator,
            {"messages": ["a"], "store_requests": 1},
            "store_requests must be True or False",
        ),
        (ConversationOperator, {"message": ["a"]}, "has no argument message. Did you mean messages?"),
        (SendMessageOperator, {"message": "a"}, "SendMessageOperator has no argument message"),
        (SendMessageOperator, {"text": "a", "sesion": 1}, "no argument sesion. Did you mean session?"),
        (SendMessageOperator, {"text": "a", "session": START}, "give its output: session=start.output"),
        (EndSessionOperator, {"session": START}, "give its output: session=start.output"),
        (EndSessionOperator, {"session_id": "{{ x"}, "session_id is not a valid template"),
        (SubmitFeedbackOperator, {"turn": START, "feedback": "GOOD"}, "turn=start.output"),
        (StartSessionOperator, {"agent": "x"}, "no argument agent. Did you mean agent_id?"),
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
from pydantic import BaseModel
from airflow_provider_agentforce.operators._ledger import fingerprint, name_of_question
from airflow_provider_agentforce.structured import OutputType

class Order(BaseModel):
    tags: set[str] = {"a", "b", "c", "d", "e", "f"}

print(fingerprint("text", {"b": 1, "a": [1.5, None, "ü"], 3: True}), name_of_question(OutputType(Order)))
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
        for seed in ("1", "2", "3")
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
