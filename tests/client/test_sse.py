"""Server-sent events.

The specification: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_agentforce.client.sse import Event, EventDecoder


def whole(data):
    return EventDecoder().feed(data)


def in_pieces(data, cuts):
    decoder = EventDecoder()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in itertools.pairwise(edges)]
    return [event for piece in pieces for event in decoder.feed(piece)]


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
    assert [event.data for event in whole(data)] == events
    assert in_pieces(data, range(len(data))) == whole(data)


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"event: X\ndata: a\n\n", [("X", b"a")]),
        (b"data: a\nevent:Y\n\ndata: b\n\n", [("Y", b"a"), ("", b"b")]),
        (b"event: X\n\ndata: b\n\n", [("", b"b")]),
        (b"event: X\nevent: Z\ndata: a\n\n", [("Z", b"a")]),
        (b"event: \xff\ndata\ndata: a\n\n", [("\ufffd", b"a")]),
    ],
)
def test_event_has_the_name_of_its_own_field(data, events):
    assert whole(data) == [Event(*event) for event in events]


@pytest.mark.parametrize(
    ("data", "left"),
    [
        (b"", []),
        (b"data: a\n\n", []),
        (b"data: a\n", [b"a"]),
        (b"data: a\r", [b"a"]),
        (b"data: a", [b"a"]),
        (b"data: a\ndata: b", [b"a\nb"]),
        (b"\xef\xbb\xbfdata: a", [b"a"]),
        (b": a comment", []),
        (b"data: a\n\nevent: X\nda", []),
    ],
)
def test_event_that_the_end_of_the_stream_completes_is_given_once(data, left):
    decoder = EventDecoder()
    decoder.feed(data)
    assert [event.data for event in decoder.finish()] == left
    assert decoder.finish() == []


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
        assert [event.data for event in whole(data)] == contents


MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"\r" * MIB, 65536),
        (b"\n" * MIB, 65536),
        (b"data:\n" * (MIB // 6), 65536),
        (b"data: " + b"x" * MIB, 16),
        (b"x" * MIB, 16),
        (b"data: x\n" * (MIB // 8), 1024),
    ],
    ids=["CR", "LF", "empty data", "one line", "no line", "one event"],
)
def test_longest_stream_is_split_in_bounded_time(data, size):
    decoder = EventDecoder()
    began = time.process_time()
    for begin in range(0, len(data), size):
        decoder.feed(data[begin : begin + size])
    decoder.finish()
    # What takes time that grows with the square takes hours; a slow machine does not.
    assert time.process_time() - began < 30
