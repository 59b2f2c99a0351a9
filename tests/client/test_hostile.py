"""Replies, signals and kernels at their worst: nothing is sent twice, lost, shown or looped over."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import ssl
import threading
import traceback

import pytest
import wire
from telling import call, share_token

from airflow_provider_agentforce.client.open_session import OpenSession
from airflow_provider_agentforce.client.timing import Timing
from airflow_provider_agentforce.client.transport.errors import is_foreign
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceInputError,
    AgentforceRequestError,
    DeliveryUnknownError,
    SessionBusyError,
)

ANSWER = {"messages": [{"type": "Inform", "id": "m1", "message": "Hello."}]}
JSON = json.dumps(ANSWER).encode()


def nested(depth):
    return f'{{"messages":[{{"type":"Error","message":"m","data":{"[" * depth}{"]" * depth}}}]}}'.encode()


@pytest.mark.parametrize("depth", [99, 300, 600, 900, 20_000])
def test_answer_nested_deep_is_an_answer_lost_at_worst(org, make_client, some_session, depth):
    with wire.Server(wire.answering(wire.response(nested(depth)))) as server:
        with pytest.raises(DeliveryUnknownError) as caught:
            make_client(org, api_url=server.url).send_message(some_session, "hello")
        assert (caught.value.applied, len(server.requests)) == (True, 1)


@pytest.mark.parametrize("asked", ["0", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_pause_of_no_length_is_no_leave_to_go_without_one(org, make_client, some_session, asked):
    pauses = []

    def back_off(_state):
        pauses.append(None)
        return 0.01

    busy = wire.response({"error": "Locked"}, status=423, headers={"Retry-After": asked})
    with wire.Server(wire.answering(*[busy] * 1000)) as server:
        client = make_client(org, api_url=server.url, timing=Timing(back_off=back_off, longest_wait=0.05))
        with pytest.raises(SessionBusyError):
            client.send_message(some_session, "hello")
        assert 0 < len(server.requests) <= len(pauses) + 1


@pytest.mark.parametrize("operation", ["start", "token", "send"])
def test_causes_and_answers_quote_no_secret(org, make_client, some_session, operation):
    said = f"bad secret {org.consumer_secret}"
    failure = {"messages": [{"type": "Failure", "message": said, "errors": [said]}]}
    body = failure if operation == "send" else [{"errorCode": "E", "message": said}]
    with wire.Server(wire.answering(*[wire.response(body)] * 3)) as server:
        client = make_client(org, **{"host" if operation == "token" else "api_url": server.url})
        try:
            found = repr(call(client, operation, some_session))
        except AgentforceError as error:
            found = "".join(traceback.format_exception(error)) + str(error.cause)
    assert "bad secret" in found
    assert org.consumer_secret not in found


@pytest.mark.parametrize(
    ("error", "foreign"),
    [
        (TimeoutError(110, "Connection timed out"), False),
        (ConnectionResetError(104, "reset"), False),
        (socket.gaierror(-2, "unknown"), False),
        (ssl.SSLError("x"), False),
        (TimeoutError("time is up"), True),
        (ConnectionError("stop now"), True),
        (ValueError(), False),
    ],
)
def test_error_without_a_number_is_a_signal_handlers(error, foreign):
    assert is_foreign(error) is foreign


class Interrupting(list):
    """A list of turns at which a signal handler raises."""

    def append(self, _turn):
        raise TimeoutError("time is up")


def test_signal_after_the_answer_keeps_the_answer_and_sends_no_other_message(org, client):
    chat = OpenSession(client, client.start_session())
    chat.turns = Interrupting()
    with pytest.raises(DeliveryUnknownError) as caught:
        chat.send("refund order 7")
    assert (caught.value.turn.outcome, caught.value.applied) == ("needs_confirmation", True)
    with pytest.raises(AgentforceInputError, match="last message is unknown"):
        chat.send("something else")
    assert org.count("send") == 1


def test_signal_while_the_end_of_a_reply_is_awaited_is_not_swallowed(org, make_client, some_session):
    def behave(peer):
        peer.read_request()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        peer.send(head + b"%x\r\n%s\r\n" % (len(JSON), JSON))
        os.kill(os.getpid(), signal.SIGALRM)
        peer.hang()

    def stop(*_):
        raise TimeoutError("time is up")

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with wire.Server(behave) as server, pytest.raises(DeliveryUnknownError, match="TimeoutError"):
            make_client(org, api_url=server.url).send_message(some_session, "hello")
    finally:
        signal.signal(signal.SIGALRM, before)


def test_connection_that_closes_before_the_message_leaves_is_not_written_on(org, make_client, some_session):
    closed = threading.Event()

    def behave(peer):
        if peer.server.accepted == 1:
            peer.sock.close()
            closed.set()
            return
        peer.read_request()
        peer.send(wire.response(ANSWER))

    with wire.Server(behave) as server:
        client = make_client(org, api_url=server.url)
        client.authenticate()
        turn = client.send_message(some_session, "hello", before_send=lambda _key: closed.wait(20))
        assert (turn.text, server.accepted, len(server.requests)) == ("Hello.", 2, 1)


@pytest.mark.parametrize(
    "tail",
    [b"\0\0\0\0", b"\r\n", b"junk", gzip.compress(b" ")],
    ids=["zeros", "line end", "junk", "another member"],
)
@pytest.mark.parametrize("broken", [False, True], ids=["whole", "bad checksum"])
def test_gzip_with_a_bad_end_is_an_answer(org, make_client, some_session, tail, broken):
    packed = gzip.compress(JSON)
    body = (packed[:-6] + b"\1\2\3\4\5\6" if broken else packed) + tail
    reply = wire.response(body, headers={"Content-Encoding": "gzip"})
    with wire.Server(wire.answering(reply)) as server:
        turn = make_client(org, api_url=server.url).send_message(some_session, "hello")
    assert turn.text == "Hello."


@pytest.mark.parametrize("versions", [5, "x", [1], {"records": 5}, {"records": [None, 5]}], ids=repr)
def test_record_of_another_shape_is_an_agent_without_a_version(org, make_client, versions):
    agent = {"Id": org.agent_id, "DeveloperName": "Service_Agent", "BotVersions": versions}
    with wire.Server(wire.answering(wire.response({"records": [agent]}))) as server:
        client = make_client(org, api_url=server.url)
        token = client.authenticate()[0]
        assert token.access_token
        other = make_client(org, host=server.url)
        share_token(client, other)
        with pytest.raises(AgentforceRequestError, match="no active version"):
            other.agent("Service_Agent")


def test_listener_cannot_send_in_the_session_that_it_hears(org, client):
    chat, said = OpenSession(client, client.start_session()), []

    def answer_at_once(_message):
        with pytest.raises(AgentforceInputError, match="on_chunk cannot send"):
            chat.send("And now?")
        said.append(True)

    assert chat.send("hello", stream=True, on_chunk=answer_at_once).outcome == "answered"
    assert said
    assert org.count("send") == 1
