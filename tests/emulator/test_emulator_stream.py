import json
import re

import pytest
from emulator_caller import BASE, Caller, assert_refused


def kinds(events):
    return [name for name, _, _ in events]


def scripted(make_caller, **entry):
    caller = make_caller(script={"answers": [entry]})
    return caller.stream(caller.open())


def test_a_turn_runs_from_progress_to_end_of_turn(caller, org):
    session = caller.open()
    events = caller.stream(session, "one two three four five")
    assert kinds(events)[0] == "PROGRESS_INDICATOR"
    assert kinds(events)[-2:] == ["INFORM", "END_OF_TURN"]
    assert set(kinds(events)[1:-2]) == {"TEXT_CHUNK"}
    assert len({identity for _, identity, _ in events}) == 1
    assert all(data["originEventId"] == identity for _, identity, data in events)
    assert all(
        set(data) == {"timestamp", "originEventId", "traceId", "offset", "message"} for _, _, data in events
    )
    assert events[0][2]["message"]["indicatorType"] == "ACTION"
    assert org.sessions[session].turns[0].stream


def test_chunks_count_their_offsets_and_join_to_the_answer(caller):
    events = caller.stream(caller.open(), "  spaces\n\nand £ café, all of them  are kept ")
    chunks = [data for name, _, data in events if name == "TEXT_CHUNK"]
    assert len(chunks) > 1
    assert [chunk["offset"] for chunk in chunks] == list(range(1, len(chunks) + 1))
    assert [chunk["message"]["offset"] for chunk in chunks] == [chunk["offset"] for chunk in chunks]
    [inform] = [data for name, _, data in events if name == "INFORM"]
    assert "".join(chunk["message"]["message"] for chunk in chunks) == inform["message"]["message"]
    assert {data["offset"] for name, _, data in events if name != "TEXT_CHUNK"} == {0}


def test_stream_has_its_content_type_and_closes_the_connection(caller):
    answer = caller.send(caller.open(), stream=True)
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["Connection"] == "close"
    assert answer.headers["Transfer-Encoding"] == "chunked"


@pytest.mark.parametrize("accept", [None, "application/json", "text/plain"])
def test_a_stream_has_to_be_asked_for(caller, org, accept):
    # None would make the HTTP library send its own header.
    headers = {"Accept": accept or ""}
    assert_refused(caller.send(caller.open(), stream=True, headers=headers), 406, "acceptable")
    assert org.applied() == 0


@pytest.mark.parametrize("accept", ["*/*", "text/*", "application/json, text/event-stream;q=0.9"])
def test_wider_accept_headers_allow_a_stream(caller, accept):
    assert caller.send(caller.open(), stream=True, headers={"Accept": accept}).status_code == 200


def test_errors_before_the_stream_are_plain_json(caller):
    answer = caller.send("gone", stream=True)
    assert_refused(answer, 404, "V6Session not found")
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("kind", "event"),
    [
        ("Inquire", "INQUIRE"),
        ("Confirm", "CONFIRM"),
        ("Failure", "FAILURE"),
        ("Escalate", "ESCALATE"),
        ("SessionEnded", "SESSION_ENDED"),
        ("Error", "ERROR"),
    ],
)
def test_other_types_stand_where_inform_stands(make_caller, kind, event):
    events = scripted(make_caller, type=kind)
    assert kinds(events) == ["PROGRESS_INDICATOR", event, "END_OF_TURN"]
    assert events[-2][2]["message"]["type"] == kind


def test_unknown_types_travel_under_an_unknown_event(make_caller):
    events = scripted(make_caller, messages=[{"type": "LightningChunk", "value": {"a": 1}}])
    assert kinds(events) == ["PROGRESS_INDICATOR", "UNKNOWN", "END_OF_TURN"]


def test_validation_failure_takes_chunks_back(make_caller):
    events = scripted(make_caller, text="I could not verify.", stream={"retracted": ["The price", " is 10"]})
    assert kinds(events) == [
        "PROGRESS_INDICATOR",
        "TEXT_CHUNK",
        "TEXT_CHUNK",
        "UNKNOWN",
        "TEXT_CHUNK",
        "INFORM",
        "END_OF_TURN",
    ]
    failure = events[3][2]["message"]
    assert (failure["type"], failure["offset"], failure["reason"]) == (
        "ValidationFailureChunk",
        3,
        "GROUNDING",
    )
    assert events[4][2]["offset"] == 4


def test_a_stream_can_fail_with_an_error_event(make_caller):
    events = scripted(make_caller, text="never sent", stream={"chunks": ["Let me"], "error": True})
    assert kinds(events) == ["PROGRESS_INDICATOR", "TEXT_CHUNK", "ERROR"]
    error = events[-1][2]
    assert (error["status"], error["error"]) == (500, "HttpServerErrorException")
    assert error["path"].endswith("/messages/stream")
    assert "message" in error
    assert "originEventId" not in error


def test_progress_and_chunks_can_be_left_out(make_caller):
    events = scripted(make_caller, text="short", stream={"progress": None, "chunks": []})
    assert kinds(events) == ["INFORM", "END_OF_TURN"]


def test_end_of_turn_can_be_missing(make_caller):
    assert kinds(scripted(make_caller, text="x", stream={"end_of_turn": False}))[-1] == "INFORM"


def test_inform_can_come_in_the_synchronous_shape(make_caller):
    events = scripted(make_caller, text="x", stream={"envelope": False})
    name, _, data = events[-2]
    assert name == "INFORM"
    assert set(data) == {"messages", "_links"}
    assert data["messages"][0]["message"] == "x"


def test_heartbeats_come_between_the_events(make_caller):
    caller = make_caller(script={"answers": [{"text": "x", "stream": {"heartbeats": True, "chunks": []}}]})
    content = caller.send(caller.open(), stream=True).text
    assert re.findall(r"^event: (.*)\n(?:data:\n)?", content, re.MULTILINE) == [
        *("ping", "PROGRESS_INDICATOR"),
        *("ping", "INFORM"),
        *("ping", "END_OF_TURN"),
    ]
    assert content.count("event: ping\ndata:\n\n") == 3


def test_messages_can_come_twice(caller, org):
    org.fail("send", stream={"repeated": True})
    session = caller.open()
    events = caller.stream(session, "escalate this")
    answers = [data["message"] for name, _, data in events if name in ("INFORM", "ESCALATE")]
    assert [message["type"] for message in answers] == ["Inform", "Inform", "Escalate", "Escalate"]
    assert answers[0] == answers[1]
    assert answers[2] == answers[3]
    assert org.applied() == 1


def test_a_stream_can_end_with_done(caller, org):
    org.fail("send", stream={"done": True})
    assert caller.send(caller.open(), stream=True).text.endswith("\n\ndata: [DONE]\n\n")


def test_a_connection_can_stay_open_after_the_end_of_the_turn(caller, org):
    session = caller.open()
    org.fail("send", stream={"hold_open": 60})
    with Caller(org) as other:
        other.bearer = caller.bearer
        body = {"message": {"type": "Text", "sequenceId": 1, "text": "hello"}}
        headers = {"Authorization": f"Bearer {caller.bearer}", "Accept": "text/event-stream"}
        url = f"{org.url}{BASE}/sessions/{session}/messages/stream"
        with caller.http.post(url, json=body, headers=headers, stream=True, timeout=10) as answer:
            lines = answer.iter_lines()
            kind = ""
            while kind != "EndOfTurn":
                line = next(lines)
                kind = json.loads(line[6:])["message"]["type"] if line.startswith(b"data: ") else kind
            # The answer has not ended, and yet the session is free.
            assert other.send(session, sequence_id=2).status_code == 200
            assert not answer.raw.isclosed()


def test_a_held_stream_ends_by_itself(caller, org):
    org.fail("send", stream={"hold_open": 0.05})
    assert kinds(caller.stream(caller.open()))[-1] == "END_OF_TURN"
