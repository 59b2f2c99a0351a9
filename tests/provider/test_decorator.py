"""What a function decorated with ``@task.agentforce`` may return, and what its task does with it."""

from __future__ import annotations

import pytest
from airflow.sdk import task
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_agentforce.decorators.agentforce import AgentforceDecoratedOperator, agentforce_task
from airflow_provider_agentforce.exceptions import AgentforceInputError


def decorated(function, **arguments):
    return AgentforceDecoratedOperator(task_id="ask", python_callable=function, **arguments)


def returning(value):
    return decorated(lambda: value)


def texts(org):
    return [turn.text for session in org.sessions.values() for turn in session.turns]


@pytest.mark.parametrize(
    ("returned", "sent"),
    [
        ("one", ["one"]),
        ({"text": "one"}, ["one"]),
        (["one", {"text": "two", "variables": {"A": 1}}], ["one", "two"]),
        (("one", "two"), ["one", "two"]),
        (lambda turns: f"after {len(turns)}" if len(turns) < 2 else None, ["after 0", "after 1"]),
    ],
)
def test_function_returns_a_message_or_a_list_or_what_comes_next(org, run, returned, sent):
    done = run(returning(returned))
    assert done.error is None
    assert texts(org) == sent
    assert done.value["sequence_id"] == len(sent)
    assert {"session_id", "agent_id", "text", "outcome", "sequence_id"} <= set(done.xcoms)
    assert org.open_sessions == []


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (None, "but returned NoneType."),
        ([], "but returned an empty list."),
        (7, "but returned int."),
        (b"one", "but returned bytes."),
        ({"one"}, "but returned set."),
        ("  ", "messages[0] is blank."),
        ("", "messages[0] is blank."),
        (["one", None], "messages[1] must be text, but is None."),
        ({"txt": "one"}, "messages[0] must have text"),
        ([["one"]], "messages[0] must be text, but is list."),
    ],
)
def test_anything_else_is_refused_before_anything_is_sent(org, run, returned, told):
    error = run(returning(returned)).error
    assert isinstance(error, AgentforceInputError)
    assert isinstance(error, AirflowFailException)
    assert told in str(error)
    assert org.requests == []


def test_function_gets_its_arguments_and_the_context_it_names(org, run):
    def ask(order, *, country, ti):
        return f"{ti.task_id}: order {order} in {country}?"

    run(decorated(ask, op_args=[7], op_kwargs={"country": "FR"}))
    assert texts(org) == ["task: order 7 in FR?"]


def test_error_of_the_function_is_the_task_s_and_nothing_is_sent(org, run):
    def ask():
        raise KeyError("order")

    assert isinstance(run(decorated(ask)).error, KeyError)
    assert org.requests == []


def test_task_takes_what_a_conversation_takes(org, run):
    done = run(decorated(lambda: "please fail", fail_on=(), variables={"$Context.Tier": "gold"}, tz="UTC"))
    assert done.value["outcome"] == "failed"
    (session,) = org.sessions.values()
    assert (session.variables, session.tz) == ({"$Context.Tier": "gold"}, "UTC")


def test_messages_are_shown_after_the_run_as_they_were_sent(org, run):
    operator = returning("{{ 7 * 7 }}")
    run(operator)
    assert operator.overwrite_rtif_after_execution
    assert "messages" in operator.template_fields
    assert operator.messages == ["{{ 7 * 7 }}"]


def test_messages_as_an_argument_are_refused_when_the_dag_is_read():
    with pytest.raises(AgentforceInputError, match="takes no messages"):
        decorated(lambda: "one", messages=["one"])


def test_async_function_is_refused_when_the_dag_is_read():
    async def ask():
        return "one"

    with pytest.raises(AgentforceInputError, match="must not be async"):
        decorated(ask)


@pytest.mark.parametrize("decorator", [agentforce_task, task.agentforce])
def test_return_type_of_the_function_does_not_decide_how_the_answer_is_stored(decorator):
    @decorator
    def ask() -> dict:
        return {"text": "one"}

    @decorator(multiple_outputs=True)
    def ask_for_all() -> str:
        return "one"

    assert ask().operator.multiple_outputs is False
    assert ask_for_all().operator.multiple_outputs is True
    assert ask().operator.operator_name == "@task.agentforce"
