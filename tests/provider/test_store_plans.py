"""``store_plans``: what the planner did is beside the answer, and never costs it."""

from __future__ import annotations

import json

import pytest
from stand_ins import StateStore, TaskInstance

from airflow_provider_agentforce.exceptions import AgentforceInputError
from airflow_provider_agentforce.hooks.agentforce import AgentforceHook
from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    SendMessageOperator,
)

ORDER = "Where is order 42?"


def talk(**more):
    return ConversationOperator(task_id="talk", messages=[ORDER, "Hello."], **more)


def sent(text=ORDER, **more):
    session = AgentforceHook().start_session().to_dict()
    return SendMessageOperator(task_id="send", session=session, text=text, **more)


def test_every_turn_of_a_conversation_has_its_plan(org, run):
    turns = run(talk(store_plans=True)).value["turns"]
    assert [turn["plan"]["subagent"] for turn in turns] == ["DefaultTopic"] * 2
    assert [action["name"] for action in turns[0]["plan"]["actions"]] == ["Get_Order_Status"]
    assert turns[1]["plan"]["actions"] == []


def test_a_send_has_its_plan_also_with_an_output_type(org, run):
    assert run(sent(store_plans=True)).value["plan"]["subagent"] == "DefaultTopic"
    schema = {"type": "object", "required": ["status"]}
    found = run(sent("Give me order 42 as json.", store_plans=True, output_type=schema)).value
    assert found["plan"]["subagent"] == "DefaultTopic"
    assert found["result"]


def test_without_it_there_is_no_plan_and_no_call(org, run):
    assert "plan" not in run(sent()).value
    assert all("plan" not in turn for turn in run(talk()).value["turns"])
    assert org.count("trace") == 0


@pytest.mark.parametrize("fault", [{"status": 404}, {"status": 403}, {"drop": True}, {"body": "x"}], ids=str)
def test_a_plan_that_cannot_be_had_fails_no_task(org, run, fault):
    org.fail("trace", times=3, **fault)
    done = run(sent(store_plans=True))
    assert (done.error, done.value["outcome"]) == (None, "answered")
    assert "plan" not in done.value
    assert org.applied() == 1
    org.reset()


def test_the_next_try_has_the_answer_from_its_record_and_asks_for_the_plan_again(org):
    operator, store = sent(store_plans=True), StateStore()
    for tries in (1, 2):
        context = {"ti": TaskInstance(tries, 3), "task_state_store": store}
        assert operator.execute(context)["plan"]["subagent"] == "DefaultTopic"
    assert (org.applied(), org.count("trace")) == (1, 2)


def test_plans_are_the_first_to_go_when_a_value_gets_too_long(org, run):
    long = "x" * 9_000
    org.fail(
        "trace",
        times=2,
        body={"topic": "T", "plan": [{"type": "FunctionStep", "function": {"name": long}}] * 4},
    )
    done = run(talk(store_plans=True)).value
    assert len(json.dumps(done)) < 48_000
    assert [turn["plan"] for turn in done["turns"]] == [None, None]
    assert [turn["request"]["text"] for turn in done["turns"]] == [ORDER, "Hello."]


def test_a_plan_that_is_too_long_for_xcom_is_not_kept(org, run):
    step = {"type": "FunctionStep", "function": {"name": "A", "input": "x" * 5_000_000}}
    org.fail("trace", body={"topic": "T", "plan": [step]})
    done = run(sent(store_plans=True))
    assert (done.error, done.value["outcome"]) == (None, "answered")
    assert len(json.dumps(done.value)) < 48_000


def test_a_batch_has_no_such_argument():
    with pytest.raises(AgentforceInputError, match="store_plans"):
        ConversationBatchOperator(
            task_id="ask", records=[], message="m", result_path="file:///x", store_plans=True
        )


def test_the_hook_gives_the_whole_plan(org):
    hook = AgentforceHook()
    with hook.conversation() as chat:
        turn = chat.send(ORDER)
    assert hook.get_plan(turn)["plan"][0]["type"] == "UserInputStep"
