"""Whatever a server sends: an answer or one error, and the next message has its own answer."""

from __future__ import annotations

import queue
import socket
import ssl

import pytest
import trustme
import wire
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from telling import failing, look_over

from airflow_provider_agentforce.client import Session
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceRequestError,
    DeliveryUnknownError,
)

JSON = b'{"messages":[{"type":"Inform","id":"1","message":"Hello."}]}'
EVENTS = (
    b'event: INFORM\r\ndata: {"message":{"type":"Inform","id":"1","message":"Hello."}}\r\n\r\n'
    b'event: END_OF_TURN\r\ndata: {"message":{"type":"EndOfTurn"}}\r\n\r\n'
)
OWN = wire.response({"messages": [{"type": "Inform", "id": "2", "message": "My own."}]})
WHOLE = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(JSON)
    + JSON,
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in JSON)
    + b"0\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3
    + b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    + JSON,
    "stream": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"%x\r\n%s\r\n0\r\n\r\n" % (len(EVENTS), EVENTS),
}
LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 500 Oops\r\n",
        b"HTTP/1.1 204 No Content\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 59\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Content-Type: text/event-stream\r\n",
        b"Connection: close\r\n",
        b"\r\n",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"data: {}\r\n\r\n",
        JSON,
        EVENTS,
    ]
)


def send_and_end(sock, data):
    sock.sendall(data, socket.MSG_MORE)
    sock.shutdown(socket.SHUT_WR)


class Scripted:
    """A server that answers a request with the pieces of a script, and then closes the connection."""

    def __init__(self):
        self.scripts = queue.SimpleQueue()

    def __call__(self, peer):
        while peer.read_request() is not None:
            try:
                pieces = self.scripts.get_nowait()
            except queue.Empty:
                peer.send(OWN)
                continue
            peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces[:-1]:
                peer.send(piece)
            if pieces:
                # The end arrives together with the last bytes, so that the client cannot overlook it.
                send_and_end(peer.sock, pieces[-1])
            return


@pytest.fixture
def exchange(org, make_client):
    """Send a message that is answered with given pieces, and then one that must get its own answer."""
    scripted = Scripted()
    with wire.Server(scripted) as server:
        client = make_client(org, api_url=server.url, timeout=5.0)

        def send(pieces, stream=False):
            scripted.scripts.put(pieces)
            try:
                found = client.send_message(Session("one"), "hello", stream=stream)
            except AgentforceError as error:
                look_over(error, client)
                found = error
            assert client.send_message(Session("other"), "hello", stream=stream).text == "My own."
            return found

        yield send
        client.close()


@pytest.mark.parametrize("name", WHOLE)
def test_answer_that_comes_byte_by_byte_is_the_same(exchange, name):
    reply = WHOLE[name]
    whole, bytewise = exchange([reply]), exchange([reply[place : place + 1] for place in range(len(reply))])
    assert whole == bytewise
    assert whole.text == "Hello."


@pytest.mark.parametrize("name", WHOLE)
def test_answer_that_is_cut_anywhere_is_an_answer_or_one_error(exchange, name):
    reply = WHOLE[name]
    for place in range(0, len(reply), 3):
        found = exchange([reply[:place]])
        if isinstance(found, AgentforceError):
            assert isinstance(found, DeliveryUnknownError)
            assert found.applied in {None, True}
        else:
            assert found.text == "Hello."


@given(pieces=st.lists(LINES | st.binary(max_size=20), max_size=12), stream=st.booleans())
@example(pieces=[b"\x15\x03\x01\x00\x02\x02\x46"], stream=False)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_an_answer_or_one_error(exchange, pieces, stream):
    exchange(pieces, stream)


@pytest.mark.parametrize(
    "flood", [b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100_000, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000]
)
def test_flood_of_heads_ends_in_one_error(exchange, flood):
    assert isinstance(exchange([flood]), DeliveryUnknownError)


# TLS


@pytest.fixture
def picky(authority, trusted):
    """A TLS context that asks for a client certificate of an authority that nobody uses."""
    trusted.verify_mode = ssl.CERT_REQUIRED
    trustme.CA().configure_trust(trusted)
    return trusted


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("operation", ["start", "send"])
def test_missing_client_certificate_is_final_and_not_acted_on(
    org, make_client, some_session, picky, version, operation
):
    picky.minimum_version = picky.maximum_version = version
    with wire.Server(wire.answering(OWN, last_again=True), tls=picky) as server:
        error = failing(make_client(org, api_url=server.url), operation, some_session)
    assert (type(error), error.applied, error.retryable) == (AgentforceRequestError, False, False)
    assert "client certificate" in error.hint
    assert server.requests == []


def test_address_may_be_one_of_ipv6(org, make_client, some_session):
    with wire.Server(wire.answering(OWN), address="::1") as server:
        client = make_client(org, api_url=server.url)
        assert client.send_message(some_session, "hello").text == "My own."
        client.close()
