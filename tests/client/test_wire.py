"""Broken wires: what a caller is told when the network or the server does not behave, and what was sent.

One exception type of ``requests`` covers a request that never left, one that may have been acted on and an
idle connection that was closed, so every case looks at what arrived on the other side.
"""

import functools
import gzip
import socket
import threading
import time
import tracemalloc
from dataclasses import replace

import pytest
import trustme
import wire
from quick import QUICK
from telling import call, failing

from airflow_provider_agentforce.client.transport.connection import MAX_IDLE_SECONDS
from airflow_provider_agentforce.exceptions import (
    AgentforceRequestError,
    AgentforceTransientError,
    DeliveryUnknownError,
)

TIMEOUT = 0.3
ANSWER = {"messages": [{"type": "Inform", "id": "1", "message": "Hello."}]}
JSON = b'{"messages":[{"type":"Inform","id":"1","message":"Hello."}]}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
NO_LENGTH = HEAD + b"Connection: close\r\n\r\n"


def after_request(act):
    """Read one request whole, then let *act* do with the connection what it will."""

    def behave(peer):
        if peer.read_request() is not None:
            act(peer)

    return behave


def sending(*parts, then="close"):
    """Answer one request with *parts*, or what they return, then close, hang or reset."""

    def act(peer):
        for part in parts:
            peer.send(part() if callable(part) else part)
        if then == "hang":
            peer.hang()
        elif then == "reset":
            time.sleep(0.1)  # what was sent must not be overtaken by the reset
            peer.reset()

    return after_request(act)


def dripping(head, body=b"x" * 1000):
    def act(peer):
        peer.send(head)
        peer.drip(body, 0.04)

    return after_request(act)


@functools.cache
def bomb():
    return gzip.compress(bytes(200_000_000), compresslevel=9)


def in_chunks(data):
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)


GZIPPED = HEAD + b"Content-Encoding: gzip\r\n"

# What the server does, whether bytes of an answer were a 2xx, and a word of the cause.
LOST_BEFORE_THE_ANSWER = {
    "reset after the request": (after_request(lambda peer: peer.reset()), "connection lost"),
    "close after the request": (after_request(lambda peer: None), "connection lost"),
    "close right after accept": (lambda peer: None, "connection lost"),
    "hang before the headers": (after_request(lambda peer: peer.hang()), "no reply in time"),
    "hang in the status line": (sending(b"HTTP/1.1 2", then="hang"), "no reply in time"),
    "drip of the status line": (dripping(b"", b"HTTP/1.1 200 OK"), "no reply in time"),
    "half a status line": (sending(b"HTTP/1.1 2"), "connection lost"),
    "no HTTP at all": (sending(b"SSH-2.0-OpenSSH_9.6\r\n"), "connection lost"),
}
LOST_IN_THE_ANSWER = {
    "hang in the headers": (sending(HEAD, then="hang"), "cut or too slow"),
    "drip of the headers": (dripping(HEAD + b"X-Slow: "), "cut or too slow"),
    "close in the headers": (sending(HEAD), "cut or too slow"),
    "header line too long": (sending(HEAD + b"X: " + b"y" * 70_000 + b"\r\n\r\n"), "not readable"),
    "header of 1 MB": (sending(HEAD + b"X: " + b"y" * 1_000_000 + b"\r\n\r\n"), "not readable"),
    "10,000 headers": (
        sending(HEAD + b"".join(b"X-%d: 1\r\n" % number for number in range(10_000)) + b"\r\n"),
        "not readable",
    ),
    "stall in the body": (sending(wire.response(JSON[:-5], length=500), then="hang"), "cut or too slow"),
    "drip of the body": (dripping(HEAD + b"Content-Length: 1000\r\n\r\n"), "cut or too slow"),
    "drip of a body without length": (dripping(NO_LENGTH), "cut or too slow"),
    "drip of chunks": (dripping(CHUNKED, b"1\r\nx\r\n" * 200), "cut or too slow"),
    "drip of one chunk": (dripping(CHUNKED + b"3e8\r\n"), "cut or too slow"),
    "body shorter than its length": (sending(wire.response(JSON[:-5], length=500)), "cut or too slow"),
    "reset in the body": (sending(wire.response(JSON[:-5], length=500), then="reset"), "cut or too slow"),
    "chunk cut": (sending(CHUNKED + b"ff\r\n" + JSON[:-5]), "cut or too slow"),
    "chunk size that is no number": (sending(CHUNKED + b"zz\r\n" + JSON), "not readable"),
    "tiny chunks without end": (sending(lambda: CHUNKED + b"1\r\nx\r\n" * 1_200_000), "cut or too slow"),
    "chunk extensions without end": (sending(lambda: CHUNKED + b"1;" + b"x" * 6_000_000), "not readable"),
    "gzip inside gzip": (
        sending(HEAD + b"Content-Encoding: gzip, gzip\r\nConnection: close\r\n\r\n" + gzip.compress(JSON)),
        "not readable",
    ),
    "half a JSON and a polite close": (sending(NO_LENGTH + JSON[:30]), "not JSON"),
    "nothing and a polite close": (sending(NO_LENGTH), "empty"),
    "bad gzip": (sending(GZIPPED + b"Content-Length: 60\r\n\r\n" + JSON), "not readable"),
    "gzip cut": (
        sending(GZIPPED + b"Connection: close\r\n\r\n" + gzip.compress(JSON * 9)[:-20]),
        "not readable",
    ),
    "answer over the cap": (
        sending(lambda: NO_LENGTH + b" " * 5_000_000 + JSON),
        "longer than 4194304 bytes",
    ),
    "chunks over the cap": (
        sending(CHUNKED, lambda: in_chunks(b" " * 5_000_000 + JSON)),
        "longer than 4194304",
    ),
}


@pytest.mark.parametrize("name", LOST_BEFORE_THE_ANSWER)
def test_message_that_may_have_arrived_is_unknown_and_sent_once(serve, org, make_client, some_session, name):
    behaviour, cause = LOST_BEFORE_THE_ANSWER[name]
    server = serve(behaviour)
    client = make_client(org, api_url=server.url, timeout=TIMEOUT)
    error = failing(client, "send", some_session)
    assert type(error) is DeliveryUnknownError
    assert (error.applied, error.status, error.turn) == (None, None, None)
    assert cause in str(error)
    assert "cannot be known" in str(error)
    assert "Look at the record that the message was to change" in error.hint
    # A first connection that closes before the message leaves is not written on.
    assert server.accepted in ({1, 2} if "accept" in name else {1})
    assert len(server.requests) == (0 if "accept" in name else 1)


def test_reset_right_after_accept_is_told_as_it_was_noticed(serve, org, make_client, some_session):
    # The reset may be noticed before the first byte, which makes a resend safe, or after it.
    server = serve(lambda peer: peer.reset())
    error = failing(make_client(org, api_url=server.url), "send", some_session)
    assert type(error) in {DeliveryUnknownError, AgentforceTransientError}
    assert (error.applied is False) is (type(error) is AgentforceTransientError)
    # A connection that is found closed before anything is written is no attempt.
    assert error.applied is None or server.accepted >= 3


@pytest.mark.parametrize("name", LOST_IN_THE_ANSWER)
def test_message_whose_answer_is_lost_is_delivered_and_sent_once(serve, org, make_client, some_session, name):
    behaviour, cause = LOST_IN_THE_ANSWER[name]
    server = serve(behaviour)
    client = make_client(org, api_url=server.url, timeout=TIMEOUT if "cap" not in name else 5)
    error = failing(client, "send", some_session)
    assert type(error) is DeliveryUnknownError
    assert (error.applied, error.status) == (True, 200)
    assert cause in str(error)
    assert "received the message" in str(error)
    assert "the answer is lost" in error.hint
    assert len(error.body) <= 2048
    assert (server.accepted, len(server.requests)) == (1, 1)


@pytest.mark.parametrize(
    "name", ["stall in the body", "reset in the body", "bad gzip", "answer over the cap"]
)
def test_end_and_feedback_are_done_when_half_a_reply_says_so(serve, org, make_client, some_session, name):
    server = serve(LOST_IN_THE_ANSWER[name][0])
    client = make_client(org, api_url=server.url, timeout=TIMEOUT if "cap" not in name else 5)
    assert call(client, "end", some_session) is True
    assert call(client, "feedback", some_session) is None
    assert len(server.requests) == 2


@pytest.mark.parametrize("chunked", [False, True])
def test_gzip_bomb_takes_little_memory(serve, org, make_client, some_session, chunked):
    data = bomb()
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(data)
    body = in_chunks(data) if chunked else data
    server = serve(sending(GZIPPED + length + b"\r\n\r\n" + body))
    client = make_client(org, api_url=server.url, timeout=10)
    client.authenticate()
    tracemalloc.start()
    try:
        error = failing(client, "send", some_session)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (type(error), error.applied) == (DeliveryUnknownError, True)
    assert "longer than 4194304 bytes" in str(error)
    assert peak < 40_000_000
    assert len(server.requests) == 1


def test_reply_as_long_as_the_cap_is_read(serve, org, make_client, some_session):
    body = b" " * (4 * 1024 * 1024 - len(JSON)) + JSON
    server = serve(wire.answering(wire.response(body)))
    client = make_client(org, api_url=server.url, timeout=5)
    assert client.send_message(some_session, "hello").text == "Hello."


def test_gzip_that_was_not_asked_for_is_read(serve, org, make_client, some_session):
    data = gzip.compress(JSON)
    drip = [bytes([byte]) for byte in data]
    server = serve(sending(GZIPPED + b"Content-Length: %d\r\n\r\n" % len(data), *drip))
    client = make_client(org, api_url=server.url)
    assert client.send_message(some_session, "hello").text == "Hello."
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_interim_response_is_no_answer(serve, org, make_client, some_session):
    server = serve(sending(b"HTTP/1.1 100 Continue\r\n\r\n", wire.response(ANSWER)))
    client = make_client(org, api_url=server.url)
    assert client.send_message(some_session, "hello").text == "Hello."


@pytest.mark.parametrize("pause", [None, 0.05])
def test_stray_bytes_after_an_answer_are_not_taken_for_the_next_one(
    serve, org, make_client, some_session, pause
):
    # RFC 9112 section 9.2: data without a request outstanding is no valid response.
    stray = wire.response({"messages": [{"type": "Inform", "id": "1", "message": "Not yours."}]})

    def behave(peer):
        while peer.read_request() is not None:
            if pause is None:
                peer.send(wire.response(ANSWER) + stray)
            else:
                peer.send(wire.response(ANSWER))
                time.sleep(pause)
                peer.send(stray)

    client = make_client(org, api_url=serve(behave).url)
    for _ in range(3):
        assert client.send_message(some_session, "hello").text == "Hello."
        time.sleep(2 * (pause or 0))


REDIRECTS = [(status, operation) for status in (301, 302, 303, 307, 308) for operation in ("token", "send")]
REDIRECTS += [(307, operation) for operation in ("start", "stream", "end", "feedback")]


@pytest.mark.parametrize("case", REDIRECTS)
def test_redirect_is_never_followed(serve, org, make_client, some_session, case):
    status, operation = case
    elsewhere = serve(wire.answering(wire.response(ANSWER), last_again=True))
    here = serve(sending(wire.response(status=status, headers={"Location": f"{elsewhere.url}/x"})))
    target = {"host": here.url} if operation == "token" else {"api_url": here.url}
    error = failing(make_client(org, **target), operation, some_session)
    assert isinstance(error, AgentforceRequestError)
    assert (error.status, error.applied) == (status, False)
    assert "never followed" in error.hint
    assert (len(here.requests), elsewhere.accepted) == (1, 0)


@pytest.mark.parametrize("operation", ["send", "end"])
def test_status_decides_even_when_its_body_is_lost(serve, org, make_client, some_session, operation):
    cut = wire.response(b'{"error":"TooMany', status=429, length=900)
    good = wire.response(ANSWER)
    replies = [cut, good]

    def behave(peer):
        peer.read_request()
        peer.send(replies.pop(0))

    server = serve(behave)
    call(make_client(org, api_url=server.url), operation, some_session)
    assert len(server.requests) == 2


# TLS


def test_name_that_the_certificate_does_not_hold_is_final(org, make_client, some_session, authority, trusted):
    with wire.Server(wire.answering(), tls=wire.server_context(authority, "elsewhere.example")) as server:
        error = failing(make_client(org, api_url=server.url), "send", some_session)
    assert type(error) is AgentforceRequestError
    assert (error.applied, server.accepted, server.requests) == (False, 1, [])
    assert "certificate not valid" in str(error)
    assert "REQUESTS_CA_BUNDLE" in error.hint


def test_certificate_of_a_stranger_can_be_trusted_by_its_authority(
    org, make_client, some_session, tmp_path, monkeypatch
):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "own.pem")
    with wire.Server(
        wire.answering(wire.response(ANSWER)), tls=wire.server_context(authority, "localhost")
    ) as server:
        failing(make_client(org, api_url=server.url), "send", some_session)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "own.pem"))
        assert make_client(org, api_url=server.url).send_message(some_session, "hello").text == "Hello."


def test_stall_in_the_handshake_is_not_unknown(org, make_client, some_session, trusted):
    with wire.Server(lambda peer: peer.hang(), scheme="https") as server:
        client = make_client(org, api_url=server.url, timeout=0.2)
        began = time.monotonic()
        error = failing(client, "send", some_session)
    assert (type(error), error.applied, server.accepted) == (AgentforceTransientError, False, 3)
    assert time.monotonic() - began > 0.5


def test_drip_in_the_handshake_is_cut_at_the_deadline(org, make_client, some_session, trusted):
    def drip(peer):
        peer.sock.recv(1)
        peer.drip(b"\x16\x03\x03\x40\x00" + bytes(5000), 0.04)

    with wire.Server(drip, scheme="https") as server:
        client = make_client(org, api_url=server.url, timeout=0.3)
        # Each drip is 200 s long.
        error = failing(client, "send", some_session)
    assert (type(error), error.applied, server.accepted) == (AgentforceTransientError, False, 3)


def test_plain_server_on_the_tls_port_is_final_and_not_unknown(org, make_client, some_session, trusted):
    def behave(peer):
        peer.sock.recv(65536)
        peer.send(wire.response(status=400))

    with wire.Server(behave, scheme="https") as server:
        error = failing(make_client(org, api_url=server.url), "send", some_session)
    assert (type(error), error.applied, server.accepted) == (AgentforceRequestError, False, 1)


def test_handshake_that_works_at_the_third_attempt_delivers_once(org, make_client, some_session, trusted):
    left = [2]

    def behave(peer):
        if left[0]:
            left[0] -= 1
            peer.sock.recv(1)
            peer.reset()
            return
        with trusted.wrap_socket(peer.sock, server_side=True) as peer.sock:
            sending(wire.response(ANSWER))(peer)

    with wire.Server(behave, scheme="https") as server:
        turn = make_client(org, api_url=server.url).send_message(some_session, "hello")
    assert (turn.text, server.accepted, len(server.requests)) == ("Hello.", 3, 1)


def test_tls_that_breaks_after_the_request_is_unknown(org, make_client, some_session, trusted):
    def behave(peer):
        with trusted.wrap_socket(peer.sock, server_side=True) as secure:
            secure.recv(65536)
            # A record that no key opens: the client's TLS gives up in the middle of the exchange.
            raw = socket.socket(fileno=secure.detach())
            raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
            time.sleep(0.1)
            raw.close()

    with wire.Server(behave, scheme="https") as server:
        error = failing(make_client(org, api_url=server.url), "send", some_session)
    assert (type(error), error.applied, server.accepted) == (DeliveryUnknownError, None, 1)


def test_host_without_an_address_is_transient_and_nothing_was_sent(org, make_client, some_session):
    client = make_client(org, api_url="https://no-such-org.invalid")
    error = failing(client, "send", some_session)
    assert (type(error), error.applied) == (AgentforceTransientError, False)
    assert "Check the host" in error.hint


def test_refused_and_then_accepted_is_delivered_once(org, make_client, some_session):
    port = wire.refused_port()
    began = threading.Event()
    timing = replace(QUICK, back_off=lambda _: began.set() or 0.3)
    client = make_client(org, api_url=f"http://127.0.0.1:{port}", timing=timing)
    client.authenticate()
    turns = []
    thread = threading.Thread(target=lambda: turns.append(client.send_message(some_session, "hello")))
    thread.start()
    assert began.wait(5)
    with wire.Server(wire.answering(wire.response(ANSWER)), port=port) as server:
        thread.join(5)
        assert [turn.text for turn in turns] == ["Hello."]
        assert len(server.requests) == 1


# Connections that are used again


def test_connection_is_used_again_at_once(serve, org, make_client, some_session):
    server = serve(wire.answering(wire.response(ANSWER), last_again=True))
    client = make_client(org, api_url=server.url)
    for _ in range(3):
        client.send_message(some_session, "hello")
    assert (server.accepted, len(server.requests)) == (1, 3)


def test_connection_that_idled_long_is_not_used_again(serve, org, make_client, some_session):
    server = serve(wire.answering(wire.response(ANSWER), last_again=True))
    client = make_client(org, api_url=server.url)
    client.send_message(some_session, "hello")
    time.sleep(MAX_IDLE_SECONDS + 0.1)
    client.send_message(some_session, "hello")
    assert (server.accepted, len(server.requests)) == (2, 2)


def test_connection_that_the_server_closed_while_idle_is_not_used_again(
    serve, org, make_client, some_session
):
    server = serve(sending(wire.response(ANSWER)))
    client = make_client(org, api_url=server.url)
    for _ in range(3):
        assert client.send_message(some_session, "hello").text == "Hello."
        time.sleep(0.05)
    assert (server.accepted, len(server.requests)) == (3, 3)


def test_connection_closed_as_it_is_used_again_is_unknown_and_not_resent(
    serve, org, make_client, some_session
):
    def behave(peer):
        peer.read_request()
        peer.send(wire.response(ANSWER))
        peer.read_request()

    server = serve(behave)
    client = make_client(org, api_url=server.url)
    client.send_message(some_session, "hello")
    error = failing(client, "send", some_session)
    assert (type(error), error.applied) == (DeliveryUnknownError, None)
    assert (server.accepted, len(server.requests)) == (1, 2)


@pytest.mark.parametrize("name", ["body shorter than its length", "reset in the body", "answer over the cap"])
def test_connection_of_a_broken_answer_is_not_used_again(serve, org, make_client, some_session, name):
    broken = LOST_IN_THE_ANSWER[name][0]

    def behave(peer):
        if peer.server.accepted == 1:
            broken(peer)
            peer.hang()
        else:
            sending(wire.response(ANSWER))(peer)

    server = serve(behave)
    client = make_client(org, api_url=server.url, timeout=0.3 if "length" in name else 3)
    failing(client, "send", some_session)
    assert client.send_message(some_session, "hello").text == "Hello."
    assert server.accepted == 2


# What the environment may change, and what not


@pytest.fixture
def password_file(tmp_path, monkeypatch):
    file = tmp_path / "netrc"
    names = ("127.0.0.1", "localhost")
    file.write_text("".join(f"machine {name} login mallory password canary\n" for name in names))
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))


def test_password_file_does_not_take_the_place_of_the_bearer(
    password_file, serve, org, make_client, some_session
):
    server = serve(wire.answering(wire.response(ANSWER)))
    client = make_client(org, api_url=server.url)
    client.send_message(some_session, "hello")
    token = client.authenticate()[0].access_token
    assert server.requests[0].headers["authorization"] == f"Bearer {token}"
    assert "authorization" not in next(r for r in org.requests if r.operation == "token").headers


@pytest.fixture
def tunnel(monkeypatch):
    with wire.Server(wire.tunnelling) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        yield proxy


def test_message_passes_a_proxy(tunnel, org, make_client, some_session, trusted):
    with wire.Server(wire.answering(wire.response(ANSWER)), tls=trusted) as server:
        client = make_client(org, api_url=server.url)
        assert client.send_message(some_session, "hello").text == "Hello."
        assert [request.method for request in server.requests] == ["POST"]
    assert [request.method for request in tunnel.requests] == ["CONNECT"]
    assert "authorization" not in tunnel.requests[0].headers


def test_message_without_tls_names_its_host_to_a_proxy(org, make_client, some_session, monkeypatch):
    with wire.Server(wire.answering(wire.response(ANSWER))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//user:password@"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        client = make_client(org, api_url="http://localhost:1")
        assert client.send_message(some_session, "hello").text == "Hello."
    (request,) = proxy.requests
    assert request.target.startswith("http://localhost:1/einstein/ai-agent/v1/sessions/")
    assert request.headers["host"] == "localhost:1"
    assert request.headers["proxy-authorization"].startswith("Basic ")


def test_socks_proxy_is_named_before_anything_is_sent(org, make_client, some_session, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:canary-password@127.0.0.1:1")
    error = failing(make_client(org, api_url="https://api.salesforce.com"), "send", some_session)
    assert (type(error), error.applied) == (AgentforceRequestError, False)
    assert "only HTTP proxies are supported" in str(error)
    assert "canary-password" not in f"{error} {vars(error)} {error.__cause__!r}"


def test_reset_behind_a_proxy_is_unknown_and_sent_once(tunnel, org, make_client, some_session, trusted):
    with wire.Server(after_request(lambda peer: peer.reset()), tls=trusted) as server:
        error = failing(make_client(org, api_url=server.url), "send", some_session)
    assert (type(error), error.applied, len(server.requests)) == (DeliveryUnknownError, None, 1)
    assert tunnel.accepted == 1


def test_reset_in_the_handshake_behind_a_proxy_is_sent_again(tunnel, org, make_client, some_session, trusted):
    def reset(peer):
        peer.sock.recv(1)
        peer.reset()

    with wire.Server(reset, scheme="https") as server:
        error = failing(make_client(org, api_url=server.url), "send", some_session)
    assert (type(error), error.applied, server.accepted) == (AgentforceTransientError, False, 3)


def test_proxy_that_hangs_is_not_unknown(org, make_client, some_session, monkeypatch):
    with wire.Server(after_request(lambda peer: peer.hang())) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        client = make_client(org, api_url="https://api.salesforce.com", timeout=0.2)
        error = failing(client, "send", some_session)
    assert (type(error), error.applied, proxy.accepted) == (AgentforceTransientError, False, 3)


def test_password_of_a_proxy_goes_to_the_proxy_and_into_no_error(
    org, make_client, some_session, monkeypatch, trusted
):
    def refuse(peer):
        peer.read_request()
        peer.send(wire.response(status=407))

    with wire.Server(refuse) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//user:canary-password@"))
        error = failing(make_client(org, api_url="https://localhost"), "send", some_session)
    assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")
    assert "canary-password" not in f"{error} {vars(error)} {error.__cause__!r}"
