"""Server-sent events and the turns made of them.

The specification: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import itertools
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_agentforce.client import Session
from airflow_provider_agentforce.client.delivery_policy import Failure
from airflow_provider_agentforce.client.responses import UnreadableReplyError
from airflow_provider_agentforce.client.sse import EventDecoder, StreamedTurn

PAYLOADS = Path(__file__).parent / "payloads"
SESSION = Session("s-1", 0, "0Xxxx0000000001CAA")


def stream(name):
    return (PAYLOADS / name).read_bytes()


def whole(data):
    return EventDecoder().feed(data)


def in_pieces(data, cuts):
    decoder = EventDecoder()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in itertools.pairwise(edges)]
    return [event for piece in pieces for event in decoder.feed(piece)]


def turn_of(data, *, size=None):
    """Feed *data* (in pieces of *size*) and return the collector."""
    streamed = StreamedTurn()
    for begin in range(0, len(data), size or len(data) or 1):
        streamed.feed(data[begin : begin + (size or len(data))])
    return streamed


def read(streamed):
    return streamed.turn(session=SESSION, sequence_id=1)


# The decoder


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"", []),
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\r\n\r\n", [b"a"]),
        (b"data: a\r\r", [b"a"]),
        (b"data: a\n\r\n", [b"a"]),
        (b"data: a\r\n\n", [b"a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\r\rdata: b\n\n", [b"a", b"b"]),
        (b"data:\n\n", [b""]),
        (b"\n\n\ndata: a\n\n\n\n", [b"a"]),
        (b": ping\n\n: pong\n\n", []),
        (b"event: X\nid: 7\nretry: 1\n\n", []),
        (b"event: X\ndata: a\nid: 7\n\n", [b"a"]),
        (b"database: a\n\n", []),
        (b"DATA: a\n\n", []),
        (b" data: a\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"\n\xef\xbb\xbfdata: a\n\n", []),
        (b"data: a", []),
        (b"data: a\n", []),
        (b"data: \xc3\xa9\xff\n\n", [b"\xc3\xa9\xff"]),
        ("data: a\u2028b\u0085c\n\n".encode(), ["a\u2028b\u0085c".encode()]),
    ],
)
def test_events_are_split_as_the_specification_says(data, events):
    assert whole(data) == events
    assert in_pieces(data, range(len(data))) == events


LINES = st.sampled_from(
    [b"", b"data: a", b"data:", b"data: \xc3\xa9", b": c", b"event: X", b"id", b"data: {}", b"\xef\xbb\xbf"]
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n", b"\r\r\n", b"\n\r"])


@given(st.lists(st.tuples(LINES, ENDS)), st.lists(st.integers(0, 10_000)))
def test_pieces_of_any_size_give_the_same_events(lines, cuts):
    data = b"".join(line + end for line, end in lines)
    assert in_pieces(data, cuts) == whole(data)
    assert in_pieces(data, range(len(data))) == whole(data)


@given(st.binary(max_size=300), st.lists(st.integers(0, 10_000)))
def test_any_bytes_in_any_pieces_give_the_same_events(data, cuts):
    assert in_pieces(data, cuts) == whole(data)


@given(st.lists(st.binary(min_size=1).filter(lambda b: not set(b) & {10, 13}), min_size=1))
def test_events_that_are_written_are_read(contents):
    for end in (b"\n", b"\r", b"\r\n"):
        data = b"".join(b"data: " + content + end + end for content in contents)
        assert whole(data) == contents


# Turns


@pytest.mark.parametrize("size", [None, 1, 7, 64])
def test_full_turn_is_read(size):
    streamed = turn_of(stream("05_stream_full_turn.sse"), size=size)
    streamed.check()
    turn = read(streamed)
    assert (turn.text, turn.outcome) == ("Here are two cases \u2013 café & co.", "answered")
    assert [message["type"] for message in turn.messages] == ["Inform"]
    assert turn.feedback_id == "f8308c08-5c63-479f-af71-c1e80ccdb166"


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_full_turn_with_other_line_ends_is_the_same(end):
    data = stream("05_stream_full_turn.sse")
    assert read(turn_of(data.replace(b"\n", end), size=1)) == read(turn_of(data))


def test_text_that_was_taken_back_is_dropped():
    data = stream("06_stream_validation_failure.sse")
    streamed = turn_of(data)
    streamed.check()
    assert read(streamed).text == "I could not verify the price."
    without_inform = data[: data.index(b"event: INFORM")]
    assert read(turn_of(without_inform)).text == "I could not verify the price."
    only_first = data[: data.index(b"event: UNKNOWN")]
    assert read(turn_of(only_first)).text == "Sure, the price is 10 dollars"


def edge_case(letter):
    text = stream("07_stream_edge_cases.sse").decode()
    begin = text.index(f": turn {letter}")
    following = text.find(": turn", begin + 5)
    return text[begin : following if following > 0 else None].encode()


def test_inform_in_the_shape_of_a_synchronous_reply_is_read():
    streamed = turn_of(edge_case("A"), size=5)
    streamed.check()
    assert read(streamed).text == "Here are two cases \u2013 café & co."


def test_error_event_is_the_agents_failure():
    streamed = turn_of(edge_case("B"), size=5)
    with pytest.raises(UnreadableReplyError, match="HttpServerErrorException") as caught:
        streamed.check()
    assert caught.value.failure is Failure.STREAM_ERROR
    assert read(streamed).text == "Let me"


def test_data_over_two_lines_is_one_event():
    streamed = turn_of(edge_case("C"), size=3)
    streamed.check()
    assert read(streamed).text == "Here are two cases \u2013 café & co."


def frames(*messages, raw=()):
    lines = [json.dumps({"message": message}) for message in messages]
    return "".join(f"data: {line}\n\n" for line in [*lines, *raw]).encode()


@pytest.mark.parametrize("kind", ["EndOfTurn", "SessionEnded", "Error"])
def test_turn_may_end_in_other_words(kind):
    streamed = turn_of(frames({"type": "Inform", "message": "x"}, {"type": kind}))
    streamed.check()
    assert (
        read(streamed).outcome == {"EndOfTurn": "answered", "SessionEnded": "ended", "Error": "failed"}[kind]
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b": ping\n\n" * 10,
        frames({"type": "Inform", "message": "x"}),
        frames({"type": "TextChunk", "message": "x"}),
        frames({"type": "EndOfTurn"})[:-1],
    ],
)
def test_stream_without_its_end_is_known(data):
    with pytest.raises(UnreadableReplyError) as caught:
        turn_of(data).check()
    assert caught.value.failure is Failure.STREAM_CUT


@pytest.mark.parametrize(
    "raw", ["{no json", "[1]", '"x"', "null", "\udc80".encode("utf-8", "replace").decode()]
)
def test_event_that_is_no_object_is_unreadable(raw):
    with pytest.raises(UnreadableReplyError) as caught:
        turn_of(frames({"type": "TextChunk", "message": "x"}, raw=[raw]))
    assert caught.value.failure is Failure.UNREADABLE


def test_events_and_messages_of_unknown_shapes_change_nothing():
    streamed = turn_of(
        frames(
            {"type": "Hologram", "value": 1},
            {"type": "TextChunk", "message": None},
            {"type": "TextChunk"},
            {"no": "type"},
            {"type": ["odd"]},
            {"type": "EndOfTurn"},
            raw=[
                '{"timestamp":1}',
                '{"message":"text"}',
                '{"messages":[1,null,{"type":"Inform","message":"x"}]}',
            ],
        )
    )
    streamed.check()
    turn = read(streamed)
    assert (turn.text, turn.outcome) == ("x", "answered")
    assert {"type": "Hologram", "value": 1} in turn.messages


def test_messages_are_handed_on_as_they_are_complete():
    data = frames({"type": "TextChunk", "message": "a"}, {"type": "TextChunk", "message": "b"})
    streamed = StreamedTurn()
    assert streamed.begun is False
    first = data.index(b"\n\n") + 2
    assert streamed.feed(data[: first - 1]) == []
    assert [message["message"] for message in streamed.feed(data[first - 1 :])] == ["a", "b"]
    assert streamed.begun is True


def test_streamed_values_can_be_stored():
    data = (
        b'data: {"message":{"type":"Inform","message":"\\ud83d\\u0000","n":1e999,"i":99999999999999999999}}'
    )
    message = read(turn_of(data + b"\n\n")).messages[0]
    assert (message["message"], message["n"]) == ("\ufffd\ufffd", "1e999")
    assert message["i"] == "99999999999999999999"


MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["TextChunk", "Inform", "EndOfTurn", "ValidationFailureChunk", "Error", "X"]
            )
        },
        optional={"message": st.text(max_size=5)},
    ),
    max_size=6,
)


@given(MESSAGES, st.integers(1, 20))
def test_turn_in_any_pieces_is_the_same(messages, size):
    data = frames(*messages)
    assert read(turn_of(data, size=size)) == read(turn_of(data))


@given(st.lists(st.binary(max_size=40).map(lambda content: b"data: " + content + b"\n\n"), max_size=4))
def test_any_events_make_a_turn_or_are_unreadable(events):
    streamed = StreamedTurn()
    failure = None
    try:
        streamed.feed(b"".join(events))
        streamed.check()
    except UnreadableReplyError as error:
        failure = error.failure
    assert failure in {None, Failure.UNREADABLE, Failure.STREAM_CUT, Failure.STREAM_ERROR}
    assert read(streamed).sequence_id == 1


MIB4 = 4 * 1024 * 1024


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"\r" * MIB4, 65536),
        (b"\n" * MIB4, 65536),
        (b"data:\n" * (MIB4 // 6), 65536),
        (b"data: " + b"x" * MIB4, 16),
        (b"x" * MIB4, 16),
        (b"data: x\n" * (MIB4 // 8), 1024),
        (frames({"type": "TextChunk", "message": "x"}) * (MIB4 // 52), 65536),
    ],
    ids=["CR", "LF", "empty data", "one line", "no line", "one event", "chunks"],
)
def test_longest_stream_is_read_in_bounded_time(data, size):
    streamed = StreamedTurn()
    began = time.process_time()
    for begin in range(0, len(data), size):
        streamed.feed(data[begin : begin + size])
    read(streamed)
    # What takes time that grows with the square takes hours; a slow machine does not.
    assert time.process_time() - began < 30
