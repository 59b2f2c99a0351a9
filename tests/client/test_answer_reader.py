"""Bodies that are read piece by piece: the same answer however they are cut, and at once when it is whole."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_agentforce.client import Session, responses
from airflow_provider_agentforce.client.answer_reader import MAX_BODY_BYTES, AnswerReader, JsonReader
from airflow_provider_agentforce.client.delivery_policy import Failure
from airflow_provider_agentforce.client.responses import UnreadableReplyError

PAYLOADS = Path(__file__).parent / "payloads"
SESSION = Session("s-1", 0, "0Xxxx0000000001CAA")
JSON, STREAM = "application/json", "text/event-stream"


def answer_reader(kind):
    return AnswerReader(kind, session=SESSION, sequence_id=1)


def fed(reader, data, size=None):
    """Feed *data* in pieces of *size* until the reader has enough; return what it passed on."""
    news = []
    for begin in range(0, len(data), size or len(data) or 1):
        news += reader.feed(data[begin : begin + (size or len(data))])
        if reader.complete:
            break
    return news


def read(data, kind=STREAM, size=None):
    reader = answer_reader(kind)
    fed(reader, data, size)
    return reader.turn()


def unreadable(data, kind=STREAM, size=None):
    """Return the failure of an answer that is not whole, and what can be read of it."""
    reader = answer_reader(kind)
    fed(reader, data, size)
    assert reader.complete is False
    with pytest.raises(UnreadableReplyError) as caught:
        reader.turn()
    return caught.value.failure, reader.partial()


def payload(name):
    return (PAYLOADS / name).read_bytes()


def edge_case(letter):
    text = payload("07_stream_edge_cases.sse").decode()
    begin = text.index(f": turn {letter}")
    following = text.find(": turn", begin + 5)
    return text[begin : following if following > 0 else None].encode()


def event(message, name="", end="\n\n"):
    return f"event: {name}\ndata: {json.dumps({'message': message})}{end}".encode()


def events(*messages):
    return b"".join(map(event, messages))


def raw(data, name=""):
    return f"event: {name}\r\ndata: {data}\r\n\r\n".encode()


DOCUMENTED = "Here are two cases \u2013 café & co."
HELLO = {"type": "Inform", "id": "m1", "message": "Hello.", "feedbackId": "a", "result": [1]}
END = {"type": "EndOfTurn", "id": "m9"}
CHUNKS = [
    {"type": "TextChunk", "id": "c1", "offset": 1, "message": "Half "},
    {"type": "TextChunk", "id": "c2", "offset": 2, "message": "a text"},
]
WHOLE = events(HELLO, END)
BODY = json.dumps({"messages": [HELLO]}).encode()

# Name: content type, body, and the outcome, text and failure reason of the turn.
ANSWERED = ("answered", "Hello.", "")
CASES = {
    "plain": (JSON, BODY, ANSWERED),
    "plain, no media type": (None, BODY, ANSWERED),
    "plain, other media type": ("text/plain", BODY, ANSWERED),
    "plain, blanks and mark around it": (JSON, b"\xef\xbb\xbf \r\n" + BODY + b"\n\n", ANSWERED),
    "plain, a byte that is not UTF-8": (
        JSON,
        BODY.replace(b"Hello.", b"Hell\xf6."),
        ("answered", "Hell\ufffd.", ""),
    ),
    "plain, same id and other words": (
        JSON,
        json.dumps({"messages": [HELLO, {**HELLO, "message": "And more."}]}).encode(),
        ("answered", "Hello.\nAnd more.", ""),
    ),
    "stream, same id and other words": (
        STREAM,
        events(HELLO, {**HELLO, "message": "And more."}, END),
        ("answered", "Hello.\nAnd more.", ""),
    ),
    "stream, progress that cannot be read": (
        STREAM,
        raw('{"message":{"type":', "PROGRESS_INDICATOR") + WHOLE,
        ANSWERED,
    ),
    "plain, garbage after it": (JSON, BODY + b"\r\n0\r\n}]x", ANSWERED),
    "plain, brackets in text": (
        JSON,
        json.dumps({"messages": [{"type": "Inform", "message": 'a "}]} \\" { [ \\'}]}).encode(),
        ("answered", 'a "}]} \\" { [ \\', ""),
    ),
    "stream": (STREAM, WHOLE, ANSWERED),
    "stream, odd media type": ("Text/Event-Stream;charset=utf-8", WHOLE, ANSWERED),
    "stream, odd media type and blanks": (" TEXT/EVENT-STREAM ; charset=UTF-8", WHOLE, ANSWERED),
    "stream, no media type": (None, WHOLE, ANSWERED),
    "stream, wrong media type": (JSON, b": comment\n\n" + WHOLE, ANSWERED),
    "plain, wrong media type": (STREAM, BODY, ANSWERED),
    "plain, wrong media type, mark and blank lines": (STREAM, b"\xef\xbb\xbf\r\n\n" + BODY, ANSWERED),
    "stream, wrong media type, blank lines": (JSON, b"\n\r\n" + WHOLE, ANSWERED),
    "stream, mark before it": (STREAM, b"\xef\xbb\xbf" + WHOLE, ANSWERED),
    "stream, more after its end": (STREAM, WHOLE + events({"type": "Inform", "message": "Other."}), ANSWERED),
    "stream, ends with the session": (
        STREAM,
        events(HELLO, {"type": "SessionEnded", "feedbackId": "b"}),
        ("ended", "Hello.", ""),
    ),
    "stream, no blank line after the last event": (STREAM, WHOLE[:-1], ANSWERED),
    "stream, no line end after the last event": (STREAM, WHOLE[:-2], ANSWERED),
    "heartbeats": (
        STREAM,
        raw("", "ping")
        + b": comment\r\n\r\n"
        + raw("ping")
        + events(HELLO)
        + raw("[DONE]")
        + raw("{}")
        + events(END),
        ANSWERED,
    ),
    "heartbeats of other kinds": (
        STREAM,
        raw('"x"') + raw("null") + raw("[1]") + raw('{"message":"alive"}') + raw('{"timestamp":1}') + WHOLE,
        ANSWERED,
    ),
    "[DONE] instead of the end": (
        STREAM,
        events(HELLO, {"type": "SessionEnded"}) + raw("[DONE]"),
        ("ended", "Hello.", ""),
    ),
    "message without an envelope": (STREAM, raw(json.dumps(HELLO)) + raw(json.dumps(END)), ANSWERED),
    "message twice": (STREAM, events(HELLO, HELLO, END), ANSWERED),
    "message twice, plain": (JSON, json.dumps({"messages": [HELLO, HELLO]}).encode(), ANSWERED),
    "two messages without an id": (
        STREAM,
        events(*[{"type": "Inform", "message": "Yes."}] * 2, END),
        ("answered", "Yes.\nYes.", ""),
    ),
    "piece twice": (STREAM, events(*CHUNKS, CHUNKS[1], END), ("answered", "Half a text", "")),
    "pieces without a place": (
        STREAM,
        events(*[{"type": "TextChunk", "id": "c", "message": "ha"}] * 2, END),
        ("answered", "haha", ""),
    ),
    "text in the result": (
        STREAM,
        events({"type": "Inform", "message": "", "result": [{"property": "text", "value": "Hello."}]}, END),
        ANSWERED,
    ),
    "error list": (
        JSON,
        b'[{"errorCode":"SESSION_BUSY","message":"planner down"}]',
        ("failed", "planner down", "SESSION_BUSY: planner down"),
    ),
    "errors below a name": (
        JSON,
        b'{"errors":[{"errorCode":"E","message":"planner down"}]}',
        ("failed", "planner down", "E: planner down"),
    ),
    "error object event": (
        STREAM,
        events(*CHUNKS) + raw('{"errorCode":"E12","message":"tool failed"}', "ERROR"),
        ("failed", "Half a text", "E12: tool failed"),
    ),
    "error object event without a name": (
        STREAM,
        events(*CHUNKS) + raw('{"errorCode":"E12","message":"tool failed"}'),
        ("failed", "Half a text", "E12: tool failed"),
    ),
    "error list event": (
        STREAM,
        events(*CHUNKS) + raw('[{"errorCode":"E12","message":"tool failed"}]'),
        ("failed", "Half a text", "E12: tool failed"),
    ),
    "error event of words only": (
        STREAM,
        events(*CHUNKS) + raw('{"message":"tool failed"}', "ERROR"),
        ("failed", "Half a text", "tool failed"),
    ),
    "error event that is not JSON": (
        STREAM,
        events(*CHUNKS) + raw("tool failed", "error"),
        ("failed", "Half a text", "tool failed"),
    ),
    "error event of JSON text": (
        STREAM,
        raw('"tool failed"', "ERROR"),
        ("failed", "tool failed", "tool failed"),
    ),
    "error event without words": (STREAM, events(*CHUNKS) + raw("", "ERROR"), ("failed", "Half a text", "")),
    "error event in an envelope without a type": (
        STREAM,
        events(*CHUNKS) + event({"errorCode": "E12", "message": "tool failed"}, "ERROR"),
        ("failed", "Half a text", "E12: tool failed"),
    ),
    "error message": (
        STREAM,
        events(*CHUNKS, {"type": "Error", "error": "E12", "message": "tool failed"}),
        ("failed", "Half a text", "E12: tool failed"),
    ),
    "error message after an answer": (
        STREAM,
        events(HELLO, {"type": "Error", "error": "E12", "message": "tool failed"}),
        ("failed", "Hello.", "E12: tool failed"),
    ),
    "failure message": (
        STREAM,
        events({"type": "Failure", "code": "ACTION_FAILED", "errors": ["no"]}, END),
        ("failed", "", "ACTION_FAILED: no"),
    ),
    "nothing but the end": (STREAM, events(END), ("answered", "", "")),
    "shape of the guide": (STREAM, edge_case("A"), ("answered", DOCUMENTED, "")),
    "data over two lines": (STREAM, edge_case("C"), ("answered", DOCUMENTED, "")),
    "documented stream": (
        STREAM,
        payload("05_stream_full_turn.sse"),
        ("answered", DOCUMENTED, ""),
    ),
    "documented stream, CRLF": (
        STREAM,
        payload("05_stream_full_turn.sse").replace(b"\n", b"\r\n"),
        ("answered", DOCUMENTED, ""),
    ),
    "documented stream, CR": (
        STREAM,
        payload("05_stream_full_turn.sse").replace(b"\n", b"\r"),
        ("answered", DOCUMENTED, ""),
    ),
    "text that was taken back": (
        STREAM,
        payload("06_stream_validation_failure.sse"),
        ("answered", "I could not verify the price.", ""),
    ),
}


@pytest.mark.parametrize("size", [None, 1, 2, 3, 7, 64])
@pytest.mark.parametrize("case", CASES)
def test_answer_is_the_same_however_it_is_cut(case, size):
    kind, data, expected = CASES[case]
    turn = read(data, kind, size)
    assert (turn.outcome, turn.text, turn.failure_reason) == expected
    assert (turn.session_id, turn.sequence_id, turn.agent_id) == ("s-1", 1, SESSION.agent_id)
    assert turn == read(data, kind)


@pytest.mark.parametrize("case", CASES)
def test_what_follows_a_whole_answer_adds_nothing(case):
    kind, data, _ = CASES[case]
    reader = answer_reader(kind)
    for place in range(len(data)):
        reader.feed(data[place : place + 1])
        if reader.complete:
            break
    read_alone = data[: place + 1]
    assert read(read_alone, kind) == read(data, kind)
    if place + 1 < len(data):
        assert reader.feed(data[place + 1 :]) == []
        assert reader.turn() == read(data, kind)


@pytest.mark.parametrize("case", ["plain", "stream", "error list", "error object event", "documented stream"])
def test_answer_needs_no_end_of_its_connection(case):
    kind, data, _ = CASES[case]
    reader = answer_reader(kind)
    fed(reader, data, 1)
    assert reader.complete is True


CUT = {
    "no byte": (STREAM, b"", Failure.STREAM_CUT, None),
    "only comments": (STREAM, b": ping\n\n" * 10, Failure.STREAM_CUT, None),
    "only a sign of life": (STREAM, events({"type": "ProgressIndicator"}), Failure.STREAM_CUT, None),
    "no end of the turn": (STREAM, events(HELLO), Failure.STREAM_CUT, "Hello."),
    "pieces only": (STREAM, events(*CHUNKS), Failure.STREAM_CUT, "Half a text"),
    "event cut": (STREAM, events(*CHUNKS, HELLO)[:-20], Failure.STREAM_CUT, "Half a text"),
    "end cut": (STREAM, WHOLE[:-5], Failure.STREAM_CUT, "Hello."),
    "text taken back": (
        STREAM,
        payload("06_stream_validation_failure.sse").partition(b"event: INFORM")[0],
        Failure.STREAM_CUT,
        "I could not verify the price.",
    ),
    "garbled event": (STREAM, events(*CHUNKS) + raw('{"message":{'), Failure.UNREADABLE, "Half a text"),
    "plain, no byte": (JSON, b"", Failure.UNREADABLE, None),
    "plain, cut": (JSON, BODY[:-1], Failure.UNREADABLE, None),
    "plain, cut in a string": (JSON, BODY[: BODY.index(b"Hello") + 2], Failure.UNREADABLE, None),
    "plain, not JSON": (JSON, b"<style>{}</style>", Failure.UNREADABLE, None),
    "plain, nearly JSON": (JSON, b"{oops}", Failure.UNREADABLE, None),
    "plain, a number": (JSON, b"12", Failure.UNREADABLE, None),
    "plain, mismatched": (JSON, b'[{"messages":[}]]', Failure.UNREADABLE, None),
    "plain, too long": (JSON, b'{"messages":["' + b"x" * MAX_BODY_BYTES + b'"]}', Failure.UNREADABLE, None),
}


@pytest.mark.parametrize("size", [None, 4099])
@pytest.mark.parametrize("case", CUT)
def test_answer_that_is_not_whole_is_known_and_keeps_what_came(case, size):
    kind, data, failure, text = CUT[case]
    found, partial = unreadable(data, kind, size)
    assert found is failure
    assert (partial.text if partial is not None else None) == text


def test_garbled_event_makes_the_answer_unreadable_even_with_its_end():
    reader = answer_reader(STREAM)
    fed(reader, events(*CHUNKS) + raw("{no json") + events(END))
    with pytest.raises(UnreadableReplyError, match="not JSON") as caught:
        reader.turn()
    assert caught.value.failure is Failure.UNREADABLE
    assert reader.partial().text == "Half a text"


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"messages":7}', b'{"messages":[7]}'])
def test_whole_json_of_another_shape_is_unreadable(body):
    reader = answer_reader(JSON)
    reader.feed(body)
    assert reader.complete is True
    with pytest.raises(UnreadableReplyError):
        reader.turn()
    assert (reader.partial(), reader.body) == (None, body)


def test_messages_are_passed_on_as_they_are_complete_and_once():
    data = events(*CHUNKS, CHUNKS[1], HELLO, HELLO, END)
    reader = answer_reader(STREAM)
    first = data.index(b"\n\n") + 2
    assert reader.feed(data[: first - 1]) == []
    assert reader.feed(data[first - 1 : first]) == CHUNKS[:1]
    assert reader.feed(data[first:]) == [CHUNKS[1], HELLO, END]
    assert fed(answer_reader(JSON), BODY, 1) == []


def test_what_is_known_of_an_answer_may_be_asked_at_any_time():
    reader = answer_reader(STREAM)
    data = events(*CHUNKS)
    reader.feed(data)
    assert reader.partial().text == "Half a text"
    reader.feed(events(HELLO, END))
    assert reader.turn().text == "Hello."


def test_streamed_values_can_be_stored():
    values = '"message":"\\ud83d\\u0000","n":1e999,"i":99999999999999999999'
    turn = read(raw(f'{{"message":{{"type":"Inform",{values}}}}}') + raw("\\ud83d\\u0000", "ERROR"))
    assert (turn.text, turn.messages[0]["n"]) == ("\ufffd\ufffd", "1e999")
    assert turn.messages[0]["i"] == "99999999999999999999"


def test_messages_of_unknown_shapes_change_nothing():
    odd = [
        {"type": "Hologram", "value": 1},
        {"type": "TextChunk", "message": None},
        {"no": "type"},
        {"type": ["odd"]},
    ]
    turn = read(events(*odd) + raw('{"messages":[1,null,{"type":"Inform","message":"x"}]}') + events(END))
    assert (turn.text, turn.outcome) == ("x", "answered")
    assert {"type": "Hologram", "value": 1} in turn.messages


@pytest.mark.parametrize("size", [None, 1, 5])
@pytest.mark.parametrize(
    ("body", "whole"),
    [
        (b'{"sessionId":"s"}', True),
        (b' \n{"sessionId":"s"} \n', True),
        (b'[{"errorCode":"x"}]', True),
        (b"{}", True),
        (b'{"a":"\\\\"}', True),
        (b'{"a":"\\""}', True),
        (b'{"a":"\\"}', False),
        (b"", False),
        (b"<html>{}</html>", False),
        (b"}{", False),
        (b"{]", False),
        (b'"{}"', False),
        (b"plain words {}", False),
        (b"{" * 5000, False),
        (b"[" * 5000 + b"]" * 5000, False),
    ],
)
def test_json_body_is_whole_when_its_value_is(body, whole, size):
    reader = JsonReader()
    assert fed(reader, body, size) == []
    assert reader.complete is whole
    # A body of another kind is kept as it is; the blanks after a value do not matter.
    assert reader.body.strip() == body.strip()
    assert responses.error(reader.body).text == responses.error(body).text


def test_body_is_kept_up_to_a_limit():
    for reader in (JsonReader(), answer_reader(JSON), answer_reader(STREAM)):
        for _ in range(5):
            reader.feed(b"x" * 1024 * 1024)
        assert len(reader.body) == MAX_BODY_BYTES


MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["TextChunk", "Inform", "EndOfTurn", "ValidationFailureChunk", "Error", "X"]
            )
        },
        optional={
            "message": st.text(max_size=5),
            "id": st.sampled_from(["a", "b"]),
            "offset": st.integers(0, 2),
        },
    ),
    max_size=6,
)


def outcome_of(data, kind, size=None):
    try:
        return read(data, kind, size)
    except UnreadableReplyError as error:
        return error.failure


@given(MESSAGES, st.integers(1, 20))
def test_any_messages_give_the_same_in_any_pieces(messages, size):
    stream, body = events(*messages), json.dumps({"messages": messages}).encode()
    assert outcome_of(stream, STREAM, size) == outcome_of(stream, STREAM)
    assert outcome_of(body, JSON, size) == outcome_of(body, JSON)


@given(
    st.lists(st.sampled_from([b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"1", b" ", b'"a"', b"x"])),
    st.integers(1, 5),
)
def test_any_bytes_give_the_same_in_any_pieces(parts, size):
    body = b"".join(parts)
    assert outcome_of(body, JSON, size) == outcome_of(body, JSON)
    frames = b"data: " + body + b"\n\n"
    assert outcome_of(frames, STREAM, size) == outcome_of(frames, STREAM)


@pytest.mark.parametrize("size", [64, 65536])
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: b"[" * MAX_BODY_BYTES, JSON),
        (lambda: b'"' + b'\\"' * (MAX_BODY_BYTES // 2), JSON),
        (lambda: b'{"a":"' + b"}" * MAX_BODY_BYTES, JSON),
        (lambda: b"x{}" * (MAX_BODY_BYTES // 3), JSON),
        (lambda: b"[" + b'"a",' * (MAX_BODY_BYTES // 4), JSON),
        (lambda: events(CHUNKS[0]) * (MAX_BODY_BYTES // 90), STREAM),
        (lambda: events({"type": "TextChunk", "message": "x"}) * (MAX_BODY_BYTES // 60), STREAM),
        (lambda: b"data: " + b"{" * MAX_BODY_BYTES, STREAM),
    ],
    ids=[
        "brackets",
        "escapes",
        "brackets in a string",
        "not JSON",
        "strings",
        "one piece",
        "pieces",
        "one line",
    ],
)
def test_longest_body_is_read_in_bounded_time(make, kind, size):
    data = make()
    reader = answer_reader(kind)
    began = time.process_time()
    for begin in range(0, len(data), size):
        reader.feed(data[begin : begin + size])
    reader.partial()
    # What takes time that grows with the square takes hours; a slow machine does not.
    assert time.process_time() - began < 30
