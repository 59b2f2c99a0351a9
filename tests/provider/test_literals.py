"""What the author of a Dag writes and cannot be right is refused when the Dag is parsed."""

from __future__ import annotations

from collections import UserDict, deque
from types import MappingProxyType

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_agentforce.client.messages import Reply, Transfer
from airflow_provider_agentforce.exceptions import AgentforceInputError
from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    SessionTraceOperator,
    StartSessionOperator,
    SubmitFeedbackOperator,
    WriteRecordsOperator,
)

SESSION = {"session_id": "abc", "sequence_id": 0}
RIGHT = {
    StartSessionOperator: {},
    SendMessageOperator: {"text": "hello", "session": SESSION},
    EndSessionOperator: {"session": SESSION},
    ConversationOperator: {"messages": ["x"]},
    ConversationBatchOperator: {"records": [{"id": 1}], "message": "m", "result_path": "file:///r"},
    SubmitFeedbackOperator: {"session_id": "abc", "feedback_id": "f", "feedback": "GOOD"},
    SessionTraceOperator: {"results": SESSION},
    WriteRecordsOperator: {
        "results": "file:///r",
        "sobject": "Account",
        "fields": {"Name": "{{ row.text }}"},
    },
}
VARIABLES = [5, "x", [5], [None], {5: 5}, {"A": {1}}, [{"name": "A"}], len]
MESSAGES = [5, "", " ", b"x", len]
URIS = [5, "", "data", b"x", "file:///a\0b", "file:///a\ud800b"]
BAD_ITEMS = [5, "yes", {}, [5], [{}], [{"type": "a", "property": "b"}], Reply(items="yes"), len]
# Values that are wrong whatever the run brings, by the argument.
LITERALS = [
    *(
        (kind, "agentforce_conn_id", [None, 5, "", "a\0b", "a\ud800b", len])
        for kind in (StartSessionOperator, SendMessageOperator, WriteRecordsOperator)
    ),
    *((kind, "variables", VARIABLES) for kind in (StartSessionOperator, SendMessageOperator)),
    (StartSessionOperator, "agent_id", [5, "", "a b", len]),
    (StartSessionOperator, "tz", [5, "Mars/Phobos", len]),
    (StartSessionOperator, "external_session_key", [5, "x", len]),
    (EndSessionOperator, "session", [5, "x", {"a": 1}, {"session_id": None}, len]),
    (EndSessionOperator, "session_id", [5, "a/b", "None", len]),
    (SendMessageOperator, "text", MESSAGES),
    (SendMessageOperator, "session", [5, {"a": 1}, {"session_id": "a/b"}, {**SESSION, "sequence_id": "x"}]),
    (SendMessageOperator, "in_reply_to", [5, "a/b"]),
    (SendMessageOperator, "sequence_id", ["x", -1, True]),
    (SendMessageOperator, "reply", BAD_ITEMS),
    (SendMessageOperator, "cancel", [5, "", [], {}, "yes", {"session_id": "s"}, len]),
    (SendMessageOperator, "transfer", [5, "Error", {}, True]),
    (
        ConversationOperator,
        "messages",
        [5, "hi", [], [5], [""], [{"text": 5}], [{"text": "a", "variables": 5}]],
    ),
    (
        ConversationOperator,
        "messages",
        [[{"text": "a", "variables": [5]}], [{"text": "a", "variables": {"A": {1}}}]],
    ),
    (ConversationOperator, "output_type", [5, "Order", len, {1}, object(), [], {"a": 1}, {"type": "strin"}]),
    (
        ConversationBatchOperator,
        "output_type",
        [MappingProxyType({5: 5}), {"properties": 5}],
    ),
    (ConversationBatchOperator, "records", [5, {"id": 1}, [{"id": 1}, 5], "data", "file:///a\0b"]),
    (ConversationBatchOperator, "message", [*MESSAGES[:-1], [], ["a", 5]]),
    (ConversationBatchOperator, "variables", [*VARIABLES[:-1], "{{ record.all }}"]),
    (ConversationBatchOperator, "result_path", URIS),
    (ConversationBatchOperator, "reuse", [*URIS, len, True]),
    (ConversationBatchOperator, "continue_from", [*URIS, {}, {"result_path": 5}]),
    (ConversationBatchOperator, "soql", [len]),
    (SubmitFeedbackOperator, "session_id", [5, "a/b", len]),
    (SubmitFeedbackOperator, "feedback_id", [5, "a/b", len]),
    (SubmitFeedbackOperator, "feedback", [5, "good", None, len]),
    (SubmitFeedbackOperator, "text", [5, " ", len]),
    (SubmitFeedbackOperator, "turn", [5, "x", [], len]),
    (
        SessionTraceOperator,
        "results",
        [5, "x", [], [5], {"a": 1}, {"result_path": 5}, {"result_path": "x"}, len],
    ),
    (WriteRecordsOperator, "results", [*URIS, [], [5], {"a": 1}, {"results": 5}, len]),
    (WriteRecordsOperator, "sobject", [5, "", "a b", len]),
    (WriteRecordsOperator, "external_id", [5, "a b", len]),
    (WriteRecordsOperator, "outcomes", [5, None, (), "x", {"answered": 1}]),
]


@pytest.mark.parametrize(
    ("kind", "wrong"), [(kind, {name: one}) for kind, name, values in LITERALS for one in values]
)
def test_a_literal_that_cannot_be_is_refused_when_the_dag_is_parsed(kind, wrong):
    ((name, value),) = wrong.items()
    given = RIGHT[kind]
    if name in {"session_id", "sequence_id", "in_reply_to"} and kind is not SubmitFeedbackOperator:
        given = {**given, "session": None, "session_id": "abc"}
        given.update({"sequence_id": 0} if kind is SendMessageOperator else {})
    if name in {"reply", "cancel", "transfer"}:
        given = {**given, "text": None}
    if name == "continue_from":
        given = {**given, "records": None}
    if name == "turn":
        given = {"feedback": "GOOD"}
    with pytest.raises(AgentforceInputError) as caught:
        kind(task_id="a", **{**given, name: value})
    assert name in str(caught.value) or "exactly one of" in str(caught.value)
    # A mapped task finds it when it runs; no retry follows.
    assert isinstance(caught.value, AirflowFailException)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", list(RIGHT))
def test_the_same_with_right_literals_is_not_refused(kind):
    kind(task_id="a", **RIGHT[kind])


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (
            SendMessageOperator,
            {"session": {"session_id": "{{ ti.xcom_pull('a') }}", "sequence_id": "{{ 1 }}"}},
        ),
        (SendMessageOperator, {"variables": [{"name": "A", "value": "{{ ds }}"}], "session": SESSION}),
        (
            SendMessageOperator,
            {
                "text": None,
                "reply": [{"type": "a", "property": "b", "value": "{{ ds }}"}],
                "session": SESSION,
            },
        ),
        (SubmitFeedbackOperator, {"feedback": "{{ params.rating }}"}),
        (SessionTraceOperator, {"results": [{"session_id": "{{ params.id }}"}]}),
        (ConversationOperator, {"messages": [{"text": "{{ ds }}", "variables": {"A": "{{ ds }}"}}]}),
    ],
)
def test_templates_stand_in_for_any_value(kind, given):
    kind(task_id="a", **{**RIGHT[kind], **given})


def test_a_reference_stands_in_for_any_value():
    with DAG("references", schedule=None):
        start = StartSessionOperator(task_id="start").output
        variables = [start["variable"], {"name": "A", "value": start["text"]}]
        StartSessionOperator(task_id="a", variables=variables)
        StartSessionOperator(task_id="b", variables={"A": start["text"], "B": 1})
        ConversationOperator(task_id="c", messages=[{"text": "hi", "variables": variables}, start["text"]])
        SessionTraceOperator(task_id="d", results=[start, {"session_id": start["session_id"]}])
        with pytest.raises(AgentforceInputError, match=r"variables\[1\]"):
            StartSessionOperator(task_id="e", variables=[start["variable"], 5])


@pytest.mark.parametrize(
    "container",
    [MappingProxyType, UserDict, lambda given: deque(given.values()), lambda given: Transfer(**given)],
)
def test_a_container_that_airflow_does_not_look_into_is_refused(container):
    with DAG("containers", schedule=None):
        start = StartSessionOperator(task_id="start").output
        given = {"description": "{{ ds }}"}
        with pytest.raises(AgentforceInputError, match="variables contains a template in a"):
            StartSessionOperator(task_id="a", variables=[container(given)])
        if container in {MappingProxyType, UserDict}:
            with pytest.raises(AgentforceInputError, match="variables contains the output of a task in a"):
                StartSessionOperator(task_id="b", variables=container({"description": start["text"]}))


def test_the_output_of_a_task_in_the_text_of_a_record_is_refused():
    with DAG("texts", schedule=None):
        start = StartSessionOperator(task_id="start").output
        with pytest.raises(AgentforceInputError, match=r"records\[1\] contains the output of a task"):
            ConversationBatchOperator(
                task_id="a",
                **{**RIGHT[ConversationBatchOperator], "records": [{"a": 1}, {"a": f"say {start}"}]},
            )
