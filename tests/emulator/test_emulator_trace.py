import pytest
from emulator_caller import assert_refused


def trace(caller, session, plan_id):
    path = f"/einstein/ai-agent/v1.1/preview/sessions/{session}/plans/{plan_id}"
    return caller.call("GET", path, headers={"x-client-name": "afdx"})


def plan_of(answer):
    return answer.json()["messages"][0]["planId"]


def test_a_turn_has_a_trace_with_topic_actions_and_answer_also_after_the_end(caller):
    session = caller.open()
    order, echo = (plan_of(caller.send(session, text, at)) for at, text in enumerate(("order 123", "hi"), 1))
    caller.end(session)
    found = trace(caller, session, order).json()
    assert {name: found[name] for name in ("type", "planId", "sessionId")} == {
        "type": "PlanSuccessResponse",
        "planId": order,
        "sessionId": session,
    }
    assert found["intent"] == found["topic"]
    said, topic, action, reason, response = found["plan"]
    assert said == {"type": "UserInputStep", "message": "order 123"}
    assert (topic["type"], topic["topic"], reason["type"]) == (
        "UpdateTopicStep",
        found["topic"],
        "ReasoningStep",
    )
    assert action["function"]["name"] == "Get_Order_Status"
    assert action["function"]["output"]["order"] == "123"
    spent = action["endExecutionTime"] - action["startExecutionTime"]
    assert spent == action["executionLatency"]
    assert (response["type"], response["responseType"]) == ("PlannerResponseStep", "Inform")
    assert response["message"].startswith("Order 123 ")
    kinds = [step["type"] for step in trace(caller, session, echo).json()["plan"]]
    assert "FunctionStep" not in kinds


def test_an_unknown_plan_or_session_has_no_trace(caller):
    session, other = caller.open(), caller.open()
    plan = plan_of(caller.send(session))
    for place in ((session, "x"), (other, plan), ("x", plan)):
        assert_refused(trace(caller, *place), 404, "Not Found")


def test_a_trace_needs_a_token(caller, org):
    session = caller.open()
    plan = plan_of(caller.send(session))
    org.revoke_tokens()
    assert_refused(trace(caller, session, plan), 401, "Access bearer token is missing or invalid")


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_trace_can_be_made_to_fail(caller, org, status):
    session = caller.open()
    plan = plan_of(caller.send(session))
    org.fail("trace", status=status)
    assert trace(caller, session, plan).status_code == status
    assert trace(caller, session, plan).status_code == 200
