"""The org's own trace of a session: read in any shape, and searched for one message."""

import html
import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telling import failing

from airflow_provider_agentforce.client.answer_reader import MAX_TRACE_BYTES
from airflow_provider_agentforce.client.otlp import read_trace
from airflow_provider_agentforce.client.responses import UnreadableReplyError
from airflow_provider_agentforce.client.session_trace import TracedAction
from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceRequestError,
    AgentforceTransientError,
)

SESSION = "019d0aac-dcd0-7368-936c-106bffe75e84"
OTHER = "019d0aac-dcd0-7368-936c-106bffe75e85"
SENT = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)


def nanoseconds(seconds):
    return str(int((SENT.timestamp() + seconds) * 1e9))


def attributes(**values):
    return [{"key": key, "value": value} for key, value in values.items()]


def text(value):
    return {"stringValue": html.escape(value)}


def turn(user, *answers, at=0.0, span_id="", ended=True, **more):
    """A turn that began *at* seconds after the message was sent."""
    said = {"agent.messages.user.0.content": text(user)}
    said |= {f"agent.messages.assistant.{place}.content": text(one) for place, one in enumerate(answers, 1)}
    return {
        "spanId": span_id,
        "startTimeUnixNano": nanoseconds(at),
        "endTimeUnixNano": nanoseconds(at + 1) if ended else "0",
        "attributes": attributes(**said),
        **more,
    }


def otlp(*spans, resource=(), scopes="scopeSpans"):
    return {"resourceSpans": [{"resource": {"attributes": list(resource)}, scopes: [{"spans": list(spans)}]}]}


def read(*spans, **more):
    return read_trace(otlp(*spans, **more), SESSION)


def step(kind="LLM_STEP", name="step", *, parent="", at=0.0, took=0.5, **values):
    values = {"step.type": {"stringValue": kind}, **values}
    return {
        "spanId": f"{name}{at}",
        "parentSpanId": parent,
        "name": name,
        "startTimeUnixNano": nanoseconds(at),
        "endTimeUnixNano": nanoseconds(at + took),
        "attributes": attributes(**values),
    }


# Messages


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("I'm here", "I&#39;m here"),
        ('"a" < b & c', "&quot;a&quot; &lt; b &amp; c"),
        ("I'm here", "I&amp;#39;m here"),
        ("I'm here", "I'm here"),
        (" two\n lines ", "two lines"),
        ("caf\u00e9", "cafe\u0301"),
        ("&amp; &#39;", "&amp;amp; &amp;#39;"),
    ],
)
def test_a_text_is_found_as_it_was_sent_whatever_the_trace_makes_of_it(sent, shown):
    trace = read_trace(
        otlp(
            {
                "startTimeUnixNano": nanoseconds(1),
                "endTimeUnixNano": nanoseconds(2),
                "attributes": attributes(
                    **{
                        "agent.messages.user.0.content": {"stringValue": shown},
                        "agent.messages.assistant.1.content": {"stringValue": "It&#39;s &lt;done&gt;"},
                    }
                ),
            }
        ),
        SESSION,
    )
    found = trace.find_message(sent, 1, SENT)
    assert (found.answer, found.complete) == ("It's <done>", True)


YES = [turn("yes", "first", at=-30), turn("yes", "second", at=1)]
OTHERS = [turn("a", "A", at=-9), turn("yes", "B", at=1)]
# What the trace has, the message's place, how many messages with its text went before, when it was sent, and
# the answer that is found.
SOUGHT = {
    "by its place and time": (OTHERS, 2, None, SENT, "B"),
    "by its place among those with its text": (OTHERS, 2, 0, None, "B"),
    "by its place alone": (OTHERS, 2, None, None, None),
    "by its time alone": ([turn("yes", "B", at=1)], None, None, SENT, None),
    "by neither": ([turn("yes", "B", at=1)], None, None, None, None),
    "in seconds": ([turn("yes", "B", at=1)], 1, None, SENT.timestamp(), "B"),
    "the spans in any order": (OTHERS[::-1], 2, 0, SENT, "B"),
    "the second of two that are the same": (YES, 2, 1, SENT, "second"),
    "the second of two, with nothing known of the first": (YES, 2, None, SENT, "second"),
    "the second of two, without a time": (YES, 2, 1, None, "second"),
    "the first of two that are the same": (YES, 1, 0, SENT - timedelta(seconds=31), "first"),
    "only the first of two is there": (YES[:1], 2, 1, SENT, None),
    "only the first of two, in the place of the second": ([turn("a", at=-40), *YES[:1]], 2, 1, SENT, None),
    "the same, with nothing known of the first": ([turn("a", at=-40), *YES[:1]], 2, None, SENT, None),
    "the same, by a clock that is ahead": ([turn("yes", "first", at=5)], 2, None, SENT, None),
    "the first of two, without a time": (
        [turn("a"), turn("yes", "first", startTimeUnixNano="0")],
        2,
        None,
        SENT,
        None,
    ),
    "only the second of two is there": (YES[1:], 2, 1, SENT, None),
    "the first of two, written twice": ([YES[0], YES[0]], 2, 1, SENT, None),
    "the first of two, written twice, by a clock that is ahead": (
        [turn("yes", "first", at=5), turn("yes", "first", at=5.5)],
        2,
        1,
        SENT,
        None,
    ),
    "the same, first without its end": (
        [turn("yes", at=5, ended=False), turn("yes", "first", at=5.5)],
        2,
        1,
        SENT,
        None,
    ),
    "the same, without a time of sending": (
        [turn("yes", "first", at=5), turn("yes", "first", at=5.5)],
        2,
        1,
        None,
        None,
    ),
    "the same, around another": (
        [turn("yes", "first", at=5), turn("yes", "first", at=5.5), turn("a", at=7)],
        3,
        1,
        SENT,
        None,
    ),
    "itself, written again with its answer": (
        [turn("yes", at=1, span_id="1"), turn("yes", "B", at=1, span_id="1")],
        *(1, 0, SENT, "B"),
    ),
    "itself, written again with its answer, as another span": (
        [turn("yes", at=1), turn("yes", "B", at=1)],
        *(1, 0, SENT, "B"),
    ),
    "itself, written again without its answer": (
        [turn("yes", "B", at=1, span_id="1"), turn("yes", at=1, span_id="1")],
        *(1, 0, SENT, "B"),
    ),
    "itself, written twice": (
        [turn("yes", at=1, ended=False), turn("yes", "B", at=1.5)],
        1,
        0,
        SENT,
        "B",
    ),
    "an earlier one in its place": ([turn("yes", "old", at=-300)], 1, 0, SENT, None),
    "by the clock of another machine": ([turn("yes", "B", at=-20)], 1, 0, SENT, "B"),
    "the same, in a session that others use": ([turn("yes", "B", at=-20)], 1, None, SENT, None),
    "another text in its place": ([turn("no", "B", at=1)], 1, None, SENT, None),
    "a trace that counts others": (OTHERS, 1, 0, SENT, "B"),
    "a trace that counts others, without a time": (OTHERS, 1, None, None, None),
    "a trace that does not count all": (OTHERS, 3, 0, SENT, "B"),
    "the same, with nothing known of the others": (OTHERS, 3, None, SENT, None),
    "two that may be meant": ([turn("yes", "A", at=1), turn("yes", "B", at=2)], 3, None, SENT, None),
    "more of them than were sent": ([*YES, turn("yes", "C", at=2)], 4, 1, SENT, None),
    "nothing yet": ([], 1, None, SENT, None),
}


@pytest.mark.parametrize(("spans", "position", "before", "sent_at", "answer"), SOUGHT.values(), ids=SOUGHT)
def test_a_message_is_found_or_it_is_not_known(spans, position, before, sent_at, answer):
    found = read(*spans).find_message("yes", position, sent_at, same_before=before)
    assert (found.answer if found else None) == answer


@pytest.mark.parametrize("order", [1, -1])
def test_a_turn_that_is_written_again_when_it_has_ended_is_one(order):
    begun, ended = turn("yes", ended=False, span_id="t"), turn("yes", "B", span_id="t")
    (message,) = read(*[begun, ended][::order]).messages
    assert (message.answer, message.complete) == ("B", True)


@pytest.mark.parametrize(
    ("span", "answer", "complete"),
    [
        (turn("hi", "one", "two"), "one\ntwo", True),
        (turn("hi"), None, True),
        (turn("hi", ended=False), None, False),
        (turn("hi", "half", ended=False), "half", False),
        (turn("hi", "half", droppedAttributesCount=3), "half", False),
    ],
)
def test_an_answer_may_be_missing_or_incomplete(span, answer, complete):
    found = read(span).find_message("hi", 1, same_before=0)
    assert (found.answer, found.complete) == (answer, complete)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["assistant.0:Hello", "user.1:a", "assistant.2:A", "user.3:b", "assistant.4:B"], ["A", "B"]),
        (["user.0:a", "assistant.0:A", "user.1:b", "assistant.1:B"], ["A", "B"]),
        (["user.0:a", "user.1:b", "assistant.2:B"], [None, "B"]),
        (["user.10:b", "user.9:a", "assistant.11:B"], [None, "B"]),
    ],
)
def test_one_span_may_hold_a_whole_conversation(said, expected):
    values = {}
    for one in said:
        place, _, words = one.partition(":")
        values[f"agent.messages.{place}.content"] = text(words)
    whole = {"spanId": "s", "startTimeUnixNano": nanoseconds(0), "endTimeUnixNano": nanoseconds(9)}
    inside = turn("a", "A", span_id="t", parentSpanId="s")
    trace = read({**whole, "attributes": attributes(**values)}, inside)
    assert [(one.text, one.answer) for one in trace.messages] == list(zip("ab", expected, strict=True))
    assert [one.position for one in trace.messages] == [1, 2]
    assert trace.messages[1].at is None


def test_steps_that_repeat_the_words_of_their_turn_are_no_messages():
    repeated = turn("a", "A", span_id="step", parentSpanId="deep")
    between = {"spanId": "deep", "parentSpanId": "turn"}
    trace = read(turn("a", "A", span_id="turn"), between, repeated, turn("a", "A", at=5, span_id="next"))
    assert len(trace.messages) == 2


def test_spans_that_are_each_others_parents_do_no_harm():
    first = turn("a", "A", span_id="1", parentSpanId="2")
    assert len(read(first, {"spanId": "2", "parentSpanId": "1"}).messages) == 1


# What else is in a trace


def test_actions_tokens_models_and_the_agent_are_read():
    usage = {"kvlistValue": {"values": attributes(**{"gen_ai.usage.output_tokens": {"intValue": 7}})}}
    request = json.dumps({"gen_ai.request.model": "gpt-x", "gen_ai.input.messages": ["long"]})
    failed = {"status": {"code": 2}}
    trace = read(
        turn("a", "A", span_id="turn"),
        step(
            parent="turn",
            **{
                "gen_ai.usage.input_tokens": {"intValue": "100"},
                "output.value": usage,
                "input.value": {"stringValue": html.escape(request)},
            },
        ),
        {
            **step("ACTION_STEP", "raw", at=1, **{"step.name": {"stringValue": "Get_Order"}}),
            "status": {"code": "STATUS_CODE_OK"},
        },
        {**step("ACTION_STEP", "Cancel_Order", at=2, took=2), **failed},
        {**step("ACTION_STEP", "Ask", at=3), "status": {}},
        step("ACTION_STEP", "Ask", at=4, **{"error.type": {"stringValue": "Timeout"}}),
        step("VARIABLE_UPDATE_STEP", "__state_update_action__", at=4),
        resource=attributes(**{"session.actors.0.name": {"stringValue": "Order&amp;Agent"}}),
    )
    assert trace.agent == "Order&Agent"
    assert trace.actions == (
        TracedAction("Get_Order", True, 0.5),
        TracedAction("Cancel_Order", False, 2.0),
        TracedAction("Ask", None, 0.5),
        TracedAction("Ask", False, 0.5),
    )
    assert (trace.input_tokens, trace.output_tokens, trace.total_tokens) == (100, 7, 107)
    assert trace.models == ("gpt-x",)
    told = trace.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert (told["messages"], told["actions"][1]["name"]) == (1, "Cancel_Order")


def test_a_sum_of_tokens_is_not_counted_beside_its_steps():
    tokens = {"gen_ai.usage.total_tokens": {"intValue": "5"}}
    whole = {**step(name="turn", **{"gen_ai.usage.total_tokens": {"intValue": 10}}), "spanId": "t"}
    assert read(whole, step(parent="t", **tokens), step(parent="t", at=1, **tokens)).total_tokens == 10


def test_spans_of_another_session_are_passed_over():
    def of(session):
        return attributes(**{"session.id": {"stringValue": session}})

    assert read(turn("a", "A"), resource=of(OTHER)).messages == ()
    foreign = turn("a", "A")
    foreign["attributes"] += of(OTHER)
    own = turn("b", "B")
    own["attributes"] += of(SESSION.upper())
    assert [one.text for one in read(foreign, own).messages] == ["b"]
    # A name that is no id of a session says nothing.
    assert len(read(turn("a", "A"), resource=of("chat-7")).messages) == 1


@pytest.mark.parametrize(
    "value",
    [
        [otlp(turn("a", "A"))],
        {"resource_spans": otlp(turn("a", "A"))["resourceSpans"]},
        otlp(turn("a", "A"), scopes="instrumentationLibrarySpans"),
        otlp(
            {
                "attributes": {
                    "agent.messages.user.0.content": "a",
                    "agent.messages.assistant.1.content": "A",
                }
            }
        ),
        otlp(
            {
                "attributes": [
                    {
                        "key": "agent",
                        "value": {
                            "kvlistValue": {
                                "values": [
                                    {
                                        "key": "messages",
                                        "value": {
                                            "kvlistValue": {
                                                "values": attributes(
                                                    **{
                                                        "user.0.content": {"stringValue": "a"},
                                                        "assistant.1.content": {"stringValue": "A"},
                                                    }
                                                )
                                            }
                                        },
                                    }
                                ]
                            }
                        },
                    }
                ]
            }
        ),
    ],
)
def test_other_shapes_are_read(value):
    trace = read_trace(value, SESSION)
    assert [(one.text, one.answer) for one in trace.messages] == [("a", "A")]


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, {"resourceSpans": None}, [[]], {"error": "x"}])
def test_what_is_no_trace_is_refused(value):
    with pytest.raises(UnreadableReplyError, match="resourceSpans"):
        read_trace(value, SESSION)


NAMES = st.sampled_from(
    [
        *("resource", "scopeSpans", "spans", "attributes", "key", "value", "values", "stringValue"),
        *("intValue", "kvlistValue", "arrayValue", "spanId", "parentSpanId", "status", "code", "name"),
        *("startTimeUnixNano", "endTimeUnixNano", "agent.messages.user.0.content", "step.type"),
        *("gen_ai.usage.input_tokens", "input.value"),
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | NAMES | st.sampled_from(["{", '{"a":1}'])
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4)
)


@given(st.lists(ANYTHING, max_size=3))
def test_any_shape_of_spans_is_read(resources):
    trace = read_trace({"resourceSpans": resources}, SESSION)
    found = trace.find_message("a", 1, 0.0)
    assert found is None or found in trace.messages
    assert [one.position for one in trace.messages] == list(range(1, len(trace.messages) + 1))
    kept = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    assert kept["session_id"] == SESSION


# The call


def test_a_trace_is_read_from_the_org(client, org):
    session = client.start_session()
    sent = datetime.now(timezone.utc)
    turn = client.send_message(session, "Where's order 123?")
    client.end_session(turn)
    trace = client.get_session_trace(turn)
    found = trace.find_message("Where's order 123?", turn.sequence_id, sent)
    assert (found.answer, found.complete) == (turn.text, True)
    assert (trace.agent, [one.name for one in trace.actions]) == ("Service_Agent", ["Get_Order_Status"])
    assert trace.total_tokens > 0
    assert trace.session_id == session.session_id


@pytest.mark.parametrize(
    ("tracing", "status", "kind", "words"),
    [
        ("no_dataspace", 400, AgentforceRequestError, "No data space is chosen"),
        ("no_feedback", 400, AgentforceRequestError, "Switch on Audit and Feedback"),
        ("forbidden", 403, AgentforceAuthError, "Agentforce Session Tracing"),
        ("missing", 404, AgentforceRequestError, "within 72 hours"),
    ],
)
def test_an_error_says_what_to_switch_on(make_org, make_client, tracing, status, kind, words):
    client = make_client(make_org(session_tracing=tracing))
    error = failing(client, "session_trace", client.start_session())
    assert type(error) is kind
    assert (error.status, error.operation, error.retryable) == (status, "session_trace", False)
    assert words in error.hint
    assert "Setup > Einstein Audit, Analytics, and Monitoring Setup" in error.hint


def test_a_used_up_limit_of_calls_is_no_switch(client, org):
    session = client.start_session()
    body = [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "TotalRequests Limit exceeded."}]
    org.fail("session_trace", status=403, body=body, times=3)
    assert "used up" in failing(client, "session_trace", session).hint


def bytes_of(size):
    """Return a trace of about *size* bytes, most of it the prompts of models."""
    filler = step(**{"input.value": {"stringValue": "x" * (size - 2000)}})
    return json.dumps(otlp(turn("hi", "A"), filler)).encode()


def test_a_long_trace_is_read_and_a_longer_one_is_refused_at_once(client, org):
    session = client.start_session()
    org.fail("session_trace", body=bytes_of(MAX_TRACE_BYTES - 1000), content_type="application/json")
    assert client.get_session_trace(session).find_message("hi", 1, same_before=0).answer == "A"
    org.fail("session_trace", body=bytes_of(50 * 1024 * 1024), content_type="application/json")
    before = org.count("session_trace")
    error = failing(client, "session_trace", session)
    assert "longer than 16 MiB" in error.what
    assert (type(error), org.count("session_trace") - before) == (AgentforceRequestError, 1)
    # The connection that was given up is not used again.
    org.fail("session_trace", body={"resourceSpans": []})
    assert client.get_session_trace(session).messages == ()


def test_a_trace_that_is_cut_is_read_again(client, org):
    session = client.start_session()
    client.send_message(session, "hi")
    org.fail("session_trace", cut=200)
    assert len(client.get_session_trace(session).messages) == 1
    org.fail("session_trace", cut=200, times=2)
    assert isinstance(failing(client, "session_trace", session), AgentforceTransientError)
