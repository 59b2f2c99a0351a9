"""Raw answers of a server, what the caller gets, and that the next message gets its own answer.

Every case is sent as bytes; the next message goes to another session and may use the same connection.
"""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
from dataclasses import dataclass, replace

import pytest
import wire
from quick import QUICK
from telling import failing, look_over

from airflow_provider_agentforce.client import Session
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceRequestError,
    AgentforceTransientError,
    AnswerLostError,
    DeliveryUnknownError,
    RateLimitedError,
    SessionNotFoundError,
)

HELLO = {"type": "Inform", "id": "m1", "message": "Hello.", "feedbackId": "a"}
JSON = json.dumps({"messages": [HELLO]}).encode()
SECOND = wire.response({"messages": [{"type": "Inform", "id": "m2", "message": "Second."}]})
FIRST, OTHER = Session("first-session"), Session("other-session")


def head(*lines, status="200 OK", kind="application/json"):
    fields = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *lines]
    return "\r\n".join(fields).encode() + b"\r\n\r\n"


def whole(body, status="200 OK", kind="application/json"):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(f"Content-Length: {len(content)}", status=status, kind=kind) + content


def chunk(data):
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(message, name="INFORM"):
    return f"event: {name}\r\ndata: {json.dumps({'message': message})}\r\n\r\n".encode()


def stream(*events, kind="text/event-stream"):
    return head("Transfer-Encoding: chunked", kind=kind) + b"".join(map(chunk, events))


END = event({"type": "EndOfTurn"}, "END_OF_TURN")
LAST_CHUNK = b"0\r\n\r\n"
ANSWERED = ("answered", "Hello.")


@dataclass
class Case:
    """Bytes that answer the first message.

    :param then: what follows on the connection: ``keep`` serves the next request, ``close``, ``reset`` or
        ``hold`` (silence).
    :param expected: outcome and text of the turn, or the class of an error and its ``applied``.
    """

    name: str
    reply: bytes
    expected: tuple
    then: str = "keep"
    streamed: bool | None = None


CASES = [
    # An informational reply is read past, however many there are.
    Case("103 first", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + whole(JSON), ANSWERED),
    Case("199 first", b"HTTP/1.1 199 Odd\r\n\r\n" + whole(JSON), ANSWERED),
    Case("100 twice", b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + whole(JSON), ANSWERED),
    Case(
        "101", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", (DeliveryUnknownError, None), "hold"
    ),
    Case("endless 1xx", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000, (DeliveryUnknownError, None), "hold"),
    # Bytes that nothing asked for.
    Case("extra reply", whole(JSON) + SECOND.replace(b"Second", b"Forged"), ANSWERED),
    # A whole answer counts, however the connection ends.
    Case("no last chunk, held open", stream(JSON, kind="application/json"), ANSWERED, "hold"),
    Case("no last chunk, reset", stream(JSON, kind="application/json"), ANSWERED, "reset"),
    Case("no last chunk, closed", stream(JSON, kind="application/json"), ANSWERED, "close"),
    Case("no length, held open", head() + JSON, ANSWERED, "hold"),
    Case("no length, closed", head("Connection: close") + JSON, ANSWERED, "close"),
    Case("length too long, closed", head("Content-Length: 999") + JSON, ANSWERED, "close"),
    Case("end of turn, held open", stream(event(HELLO), END), ANSWERED, "hold", streamed=True),
    Case("end of turn, reset", stream(event(HELLO), END), ANSWERED, "reset", streamed=True),
    Case("end of turn, whole", stream(event(HELLO), END) + LAST_CHUNK, ANSWERED, streamed=True),
    Case(
        "half a JSON, closed", head("Content-Length: 999") + JSON[:-5], (DeliveryUnknownError, True), "close"
    ),
    Case(
        "stream without its end",
        stream(event(HELLO)) + LAST_CHUNK,
        (DeliveryUnknownError, True),
        streamed=True,
    ),
    # Framing that two readers could read differently.
    Case(
        "length and chunks",
        head(f"Content-Length: {len(JSON)}", "Transfer-Encoding: chunked") + chunk(JSON) + LAST_CHUNK,
        (DeliveryUnknownError, True),
    ),
    Case("two lengths", head("Content-Length: 3, 3") + b"abc", (DeliveryUnknownError, True), "hold"),
    Case("negative length", head("Content-Length: -1") + JSON, (DeliveryUnknownError, True), "hold"),
    Case(
        "gzip",
        head(f"Content-Length: {len(gzip.compress(JSON))}", "Content-Encoding: gzip") + gzip.compress(JSON),
        ANSWERED,
    ),
    # What gateways do to streams.
    Case(
        "heartbeats",
        stream(
            b"event: ping\r\ndata:\r\n\r\n", b": hello\r\n\r\n", event(HELLO), b"data: [DONE]\r\n\r\n", END
        )
        + LAST_CHUNK,
        ANSWERED,
        streamed=True,
    ),
    Case(
        "odd media type",
        stream(event(HELLO), END, kind="Text/Event-Stream;charset=utf-8") + LAST_CHUNK,
        ANSWERED,
        streamed=True,
    ),
    Case(
        "no blank line after the last event",
        stream(event(HELLO), END.removesuffix(b"\r\n")) + LAST_CHUNK,
        ANSWERED,
        streamed=True,
    ),
    # What the org or the agent says.
    Case(
        "error list in a 200",
        whole([{"errorCode": "SESSION_BUSY", "message": "planner down"}]),
        ("failed", "planner down"),
    ),
    Case(
        "error object in a 200",
        whole({"error": "PlannerError", "message": "planner down"}),
        ("failed", "planner down"),
    ),
    Case(
        "errors in a 200",
        whole({"errors": [{"errorCode": "E1", "message": "planner down"}]}),
        ("failed", "planner down"),
    ),
    Case(
        "error after half a text",
        stream(
            event({"type": "TextChunk", "message": "Half "}),
            event({"type": "TextChunk", "message": "a text"}),
            b'event: ERROR\r\ndata: {"errorCode":"E12","message":"tool failed"}\r\n\r\n',
        )
        + LAST_CHUNK,
        ("failed", "tool failed"),
        streamed=True,
    ),
    Case("message twice", stream(event(HELLO), event(HELLO), END) + LAST_CHUNK, ANSWERED, streamed=True),
    Case("message twice in JSON", whole({"messages": [HELLO, HELLO]}), ANSWERED),
    Case(
        "text in the result",
        whole(
            {
                "messages": [
                    {
                        "type": "Inform",
                        "message": None,
                        "result": [{"type": "x", "property": "text", "value": "Hello."}],
                    }
                ]
            }
        ),
        ANSWERED,
    ),
    Case(
        "escalation",
        whole({"messages": [{"type": "EscalateToConversationMessage", "targets": []}]}),
        ("escalated", ""),
    ),
    # Refusals, and words that only look like one.
    Case(
        "500 of an action",
        whole({"error": "InternalError", "message": "Flow fault: Unsupported Media Type"}, "500 Oops"),
        (DeliveryUnknownError, None),
    ),
    Case(
        "422 of an action",
        whole({"message": "Apex: cannot determine the active version of the price book"}, "422 Oops"),
        (DeliveryUnknownError, None),
    ),
    Case(
        "500 session gone",
        whole({"message": "V6Session not found for sessionId: first-session"}, "500 Oops"),
        (SessionNotFoundError, False),
    ),
    Case("410", whole(b"", "410 Gone"), (SessionNotFoundError, False)),
]


def serving(case):
    """Answer the first message with the case, and every later one with an answer of its own."""
    numbers = iter(range(1000))

    def behave(peer):
        while peer.read_request() is not None:
            if next(numbers):
                peer.send(SECOND)
                continue
            peer.send(case.reply)
            if case.then == "hold":
                peer.hang()
            if case.then == "reset":
                # A reset overtakes what is still in the client's kernel.
                peer.server.stopping.wait(0.5)
                peer.reset()
            if case.then != "keep":
                return

    return behave


def both_ways():
    for case in CASES:
        for streamed in (False, True) if case.streamed is None else (case.streamed,):
            yield pytest.param(case, streamed, id=f"{case.name}, {'stream' if streamed else 'plain'}")


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(("case", "streamed"), [*both_ways()])
def test_answer_is_the_messages_own_and_the_next_one_has_its_own(
    org, make_client, trusted, case, streamed, tls
):
    with wire.Server(serving(case), tls=trusted if tls else None) as server:
        client = make_client(
            org, api_url=server.url, timeout=1.0 if isinstance(case.expected[0], type) else 20.0
        )
        if isinstance(case.expected[0], type):
            with pytest.raises(AgentforceError) as caught:
                client.send_message(FIRST, "hello", stream=streamed)
            look_over(caught.value, client)
            assert (type(caught.value), caught.value.applied) == case.expected
        else:
            turn = client.send_message(FIRST, "hello", stream=streamed)
            said = turn.failure_reason if turn.outcome == "failed" else turn.text
            assert turn.outcome == case.expected[0]
            assert case.expected[1] in said
            assert said.count(case.expected[1]) == 1 or not case.expected[1]
        assert client.send_message(OTHER, "hello", stream=streamed).text == "Second."
        client.close()
    assert [request.json["message"]["sequenceId"] for request in server.requests] == [1, 1]


def test_unasked_reply_after_a_204_is_never_an_answer(org, make_client):
    ended, forged = threading.Event(), threading.Event()

    def behave(peer):
        while (request := peer.read_request()) is not None:
            if request.method == "DELETE":
                peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
                ended.wait(10)
                peer.send(SECOND.replace(b"Second", b"Forged"))
                forged.set()
            else:
                peer.send(SECOND)

    with wire.Server(behave) as server:
        client = make_client(org, api_url=server.url)
        client.end_session(FIRST)
        ended.set()
        assert forged.wait(10)
        for _ in range(3):
            assert client.send_message(OTHER, "hello").text == "Second."
        client.close()


def test_listener_that_takes_its_time_loses_no_answer(org, make_client):
    heard, sent = threading.Event(), threading.Event()

    def behave(peer):
        assert peer.read_request() is not None
        peer.send(stream(event(HELLO)))
        assert heard.wait(20)
        peer.send(chunk(END))
        sent.set()

    def listen(_message):
        heard.set()
        sent.wait(20)
        time.sleep(0.4)

    with wire.Server(behave) as server:
        client = make_client(org, api_url=server.url, timeout=0.3)
        turn = client.send_message(FIRST, "hello", stream=True, on_chunk=listen)
        client.close()
    assert (turn.outcome, turn.text) == ANSWERED


def test_children_of_a_fork_have_connections_of_their_own(org, make_client):
    def behave(peer):
        while (request := peer.read_request()) is not None:
            peer.send(
                wire.response({"messages": [{"type": "Inform", "message": request.json["message"]["text"]}]})
            )

    with wire.Server(behave) as server:
        client = make_client(org, api_url=server.url)
        assert client.send_message(FIRST, "parent").text == "parent"
        children = []
        for number in range(3):
            child = os.fork()
            if not child:
                said = [client.send_message(FIRST, f"{number}-{turn}").text for turn in range(20)]
                os._exit(0 if said == [f"{number}-{turn}" for turn in range(20)] else 1)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
        assert client.send_message(FIRST, "parent again").text == "parent again"
        client.close()
    assert server.accepted <= 5


@pytest.mark.parametrize("operation", ["start", "send", "token"])
@pytest.mark.parametrize("status", [429, 503])
def test_wait_over_the_limit_is_never_begun(org, make_client, operation, status):
    client = make_client(org)
    session = client.start_session() if operation == "send" else None
    if operation == "start":
        client.authenticate()
    before = org.count(operation)
    org.fail(operation, status=status, headers={"Retry-After": "9999999999"})
    error = failing(client, operation, session)
    assert error.retry_after == 9999999999.0
    expected = RateLimitedError if status == 429 else AgentforceTransientError
    assert type(error) is (DeliveryUnknownError if (operation, status) == ("send", 503) else expected)
    assert org.count(operation) - before == 1


@pytest.mark.parametrize(
    ("status", "said", "kind", "applied"),
    [
        (423, "Session Already Locked", DeliveryUnknownError, None),
        (400, "Sequence id 1 was already used", AnswerLostError, True),
    ],
)
def test_refusal_of_a_repeated_message_tells_of_the_first_one(
    org, make_client, session, status, said, kind, applied
):
    org.fail("send", status=status, body={"error": "BadRequest", "message": said})
    with pytest.raises(DeliveryUnknownError) as caught:
        make_client(org).send_message(session, "hello", repeated=True)
    assert (type(caught.value), caught.value.applied) == (kind, applied)
    assert "earlier try" in caught.value.hint
    assert org.count("send") == 1


def test_temporary_error_of_the_token_endpoint_is_tried_again(org, client):
    org.fail("token", status=400, body={"error": "unknown_error", "error_description": "retry your request"})
    client.start_session()
    assert org.count("token") == 2


@pytest.mark.parametrize("then", ["hold", "close", "reset"])
def test_start_that_is_answered_as_a_whole_gives_its_session(org, make_client, then):
    reply = stream(json.dumps({"sessionId": "s-1", "messages": [HELLO]}).encode(), kind="application/json")
    with wire.Server(serving(Case("start", reply, (), then))) as server:
        client = make_client(org, api_url=server.url)
        session = client.start_session()
        client.close()
    assert (session.session_id, session.greeting) == ("s-1", "Hello.")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:{port}", ("127.0.0.1:{port}", "Is agentforce-emulator running?")),
        ("https://localhost:{port}", ("localhost:{port}",)),
    ],
)
def test_refused_connection_names_the_address(org, make_client, some_session, url, words):
    port = wire.refused_port()
    error = failing(make_client(org, api_url=url.format(port=port)), "send", some_session)
    assert all(word.format(port=port) in str(error) for word in words)
    assert (error.applied, error.retryable) == (False, True)


@pytest.mark.parametrize(
    ("scheme", "reply"),
    [
        ("https", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
        ("http", b"\x15\x03\x01\x00\x02\x02\x46"),
    ],
)
def test_wrong_scheme_is_named_and_final(org, make_client, some_session, scheme, reply):
    def behave(peer):
        peer.sock.recv(65536)
        peer.send(reply)

    with wire.Server(behave, scheme=scheme) as server:
        error = failing(make_client(org, api_url=server.url), "send", some_session)
    assert (type(error), error.applied, error.retryable) == (AgentforceRequestError, False, False)
    assert "http or https" in error.hint


def test_longest_wait_is_the_timings(org, make_client, session):
    client = make_client(org, timing=replace(QUICK, longest_wait=1.0))
    org.fail("send", status=429, headers={"Retry-After": "2"})
    error = failing(client, "send", session)
    assert (type(error), error.retry_after) == (RateLimitedError, 2.0)
