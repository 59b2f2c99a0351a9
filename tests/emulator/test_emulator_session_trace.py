"""The trace of a session: what is in it, when, and what an org answers that keeps none."""

import time

import pytest


def read(caller, session, version="v66.0"):
    return caller.call("GET", f"/services/data/{version}/einstein/audit/otel/{session}")


def spans(answer):
    assert answer.status_code == 200, answer.text
    [resource] = answer.json()["resourceSpans"]
    [scope] = resource["scopeSpans"]
    return scope["spans"]


def attributes(span):
    return {one["key"]: one["value"] for one in span["attributes"]}


def texts(found):
    """Return what was said, by its attribute, in all turns."""
    named = [attributes(span) for span in found if span["name"] == "turn"]
    return [{name: value["stringValue"] for name, value in one.items()} for one in named]


def test_a_session_has_its_turns_steps_and_actions_also_after_its_end(caller, org):
    session = caller.open()
    caller.send(session, "order 123")
    caller.send(session, "I'm <b>here</b>", 2)
    caller.end(session)
    answer = read(caller, session)
    [resource] = answer.json()["resourceSpans"]
    assert attributes(resource["resource"]) == {
        "session.id": {"stringValue": session},
        "session.actors.0.name": {"stringValue": "Service_Agent"},
    }
    found = spans(answer)
    assert [span["name"] for span in found] == ["turn", "llm", "Get_Order_Status", "turn", "llm"]
    first, second = texts(found)
    assert first["agent.messages.user.0.content"] == "order 123"
    assert first["agent.messages.assistant.1.content"].startswith("Order 123 ")
    assert second["agent.messages.user.0.content"] == "I&#39;m &lt;b&gt;here&lt;/b&gt;"
    turn, model, action = found[:3]
    assert {model["parentSpanId"], action["parentSpanId"]} == {turn["spanId"]}
    assert attributes(action)["step.type"] == {"stringValue": "ACTION_STEP"}
    assert action["status"] == {"code": 1}
    assert set(attributes(model)) >= {"input.value", "output.value", "gen_ai.usage.input_tokens"}
    assert all(0 < int(one["startTimeUnixNano"]) <= int(one["endTimeUnixNano"]) for one in found)


@pytest.mark.parametrize("lost", ["after", "before"])
def test_what_the_agent_acted_on_is_there_whatever_the_caller_got(caller, org, lost):
    session = caller.open()
    org.fail("send", drop=True, after=lost == "after")
    with pytest.raises(OSError, match="Connection"):
        caller.send(session, "order 123")
    assert len(texts(spans(read(caller, session)))) == org.applied() == (lost == "after")


def test_a_trace_grows_in_stages(make_caller):
    delay = 2.0
    caller = make_caller(trace_delay=delay)
    session = caller.open()
    assert read(caller, session).status_code == 404
    caller.send(session, "hello")
    record = caller.org.sessions[session]
    record.started_at -= delay
    assert spans(read(caller, session)) == []
    [turn] = record.turns
    turn.at -= delay
    [only] = spans(read(caller, session))
    assert only["endTimeUnixNano"] == "0"
    assert texts([only]) == [{"agent.messages.user.0.content": "hello"}]
    turn.at -= delay
    assert len(texts(spans(read(caller, session)))[0]) == 2


def test_a_session_has_a_trace_for_72_hours(make_caller):
    caller = make_caller()
    session = caller.open()
    caller.send(session)
    record = caller.org.sessions[session]
    record.started_at = time.time() - 72 * 3600 + 60
    assert spans(read(caller, session))
    record.started_at -= 61
    assert read(caller, session).status_code == 404


def test_a_message_can_be_kept_out(make_caller):
    caller = make_caller(trace_without="second")
    session = caller.open()
    for number, text in enumerate(("first", "second", "third"), 1):
        caller.send(session, text, number)
    asked = [one["agent.messages.user.0.content"] for one in texts(spans(read(caller, session)))]
    assert asked == ["first", "third"]


@pytest.mark.parametrize(
    ("tracing", "status", "words"),
    [
        ("no_dataspace", 400, "No selected dataspace for Einstein Audit"),
        ("no_feedback", 400, "GenAIFeedback__dlm"),
        ("forbidden", 403, "not currently enabled"),
        ("missing", 404, "does not exist"),
    ],
)
def test_an_org_may_keep_no_traces(make_caller, tracing, status, words):
    caller = make_caller(session_tracing=tracing)
    answer = read(caller, caller.open())
    [error] = answer.json()
    assert answer.status_code == status
    assert words in error["message"]


def test_an_unknown_session_and_a_stranger_get_no_trace(caller, org):
    session = caller.open()
    assert read(caller, "x").status_code == 404
    org.revoke_tokens()
    assert read(caller, session).json()[0]["errorCode"] == "INVALID_SESSION_ID"


def test_who_watches_sees_what_the_agent_did_and_what_the_caller_got(caller, org):
    session = caller.open()
    for number, fault in enumerate(({"drop": True, "after": True}, {"drop": True}), 1):
        org.fail("send", **fault)
        with pytest.raises(OSError, match="Connection"):
            caller.send(session, f"message {number}", number)
    org.fail("send", status=500, after=True)
    caller.send(session, "message 3", 3)
    [watched] = caller.call("GET", "/emulator/sessions").json()["sessions"]
    seen = [
        (turn["text"], turn["applied"], turn["got_instead"])
        for turn in watched["turns"] + watched["not_acted"]
    ]
    assert seen == [
        ("message 1", 1, "connection dropped"),
        ("message 3", 1, "HTTP 500"),
        ("message 2", 0, "connection dropped"),
    ]
