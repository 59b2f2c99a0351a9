"""The transport alone, against raw sockets: what went wrong, what had left, what the next exchange gets."""

from __future__ import annotations

import gc
import gzip
import hashlib
import os
import signal
import socket
import sys
import threading
import time
import zlib
from dataclasses import dataclass

import pytest
import wire

from airflow_provider_agentforce.client.api_requests import HttpCall
from airflow_provider_agentforce.client.delivery_policy import Failure
from airflow_provider_agentforce.client.transport import Exchange, Transport, TransportError
from airflow_provider_agentforce.client.transport.connection import MAX_IDLE_SECONDS

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CAP = 4 * 1024 * 1024


@dataclass
class Got:
    """What one exchange brought."""

    status: int | None
    body: bytes
    sent: bool
    failure: Failure | None = None
    detail: str = ""


def made(transport, url, body=b"first", **options):
    arguments = {"bearer": None, "timeout": 5.0, **options}
    return Exchange(transport, HttpCall("POST", f"{url}/x", {}, body), **arguments)


def post(transport, url, body=b"first", **options):
    exchange = made(transport, url, body, **{"bearer": "canary-token", "timeout": 60.0, **options})
    pieces = []
    try:
        with exchange:
            exchange.send()
            pieces += exchange.iter_bytes()
    except TransportError as error:
        look_over(error)
        return Got(exchange.status, b"".join(pieces), exchange.sent, error.failure, error.detail)
    return Got(exchange.status, b"".join(pieces), exchange.sent)


def look_over(error):
    assert error.detail.isprintable()
    assert len(error.detail) <= 200
    assert "canary" not in f"{error} {error.detail}"


def own(body):
    return Got(200, body, sent=True)


@pytest.fixture
def transport():
    transport = Transport(max_idle=10)
    yield transport
    transport.close()


def echo(peer):
    while (request := peer.read_request()) is not None:
        peer.send(wire.response(request.body))


def at_first(act):
    """Let *act* answer the first request, and echo the others.

    The connection of the first one stays open unless *act* returns something.
    """

    def behave(peer):
        while (request := peer.read_request()) is not None:
            if len(peer.server.requests) > 1:
                peer.send(wire.response(request.body))
            elif act(peer):
                return

    return behave


def sending(*parts, then=None, pause=0.0):
    def act(peer):
        for part in parts:
            peer.send(part)
            time.sleep(pause)
        if then == "reset":
            peer.reset()
        return then

    return at_first(act)


def flood(head, piece):
    def act(peer):
        peer.send(head)
        while not peer.server.stopping.is_set():
            peer.send(piece)

    return at_first(act)


def encoded(name, body):
    return wire.response(body, headers={"Content-Encoding": name})


def deflated(body):
    return zlib.compress(body)


CUT, UNREADABLE, RESET = Failure.CUT_REPLY, Failure.UNREADABLE, Failure.RESET

# What the server does with the first request, and what the exchange brings: failure, status, body.
BROKEN = {
    "close": (sending(then="close"), RESET, None, b""),
    "reset": (sending(then="reset"), RESET, None, b""),
    "banner": (sending(b"SSH-2.0-OpenSSH_9.6\r\n", then="close"), RESET, None, b""),
    "switch of protocol": (sending(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"), RESET, None, b""),
    "21 interim replies": (sending(b"HTTP/1.1 103 Early\r\n\r\n" * 21), RESET, None, b""),
    "interim replies without end": (flood(b"", b"HTTP/1.1 103 Early\r\n\r\n" * 500), RESET, None, b""),
    "header without end": (flood(HEAD + b"X: ", b"y" * 9000), UNREADABLE, 200, b""),
    "headers without end": (flood(HEAD, b"X: y\r\n" * 900), UNREADABLE, 200, b""),
    "head cut": (sending(HEAD + b"Content-", then="close"), CUT, 200, b""),
    "head of a refusal cut": (sending(b"HTTP/1.1 401 No\r\nContent-", then="close"), RESET, None, b""),
    "length not reached": (sending(wire.response(b"part", length=9), then="close"), CUT, 200, b"part"),
    "reset in the body": (
        sending(wire.response(b"part", length=9), then="reset", pause=0.1),
        CUT,
        200,
        b"part",
    ),
    "chunk cut": (sending(CHUNKED + b"9\r\npart", then="close"), CUT, 200, b"part"),
    "last chunk missing": (sending(CHUNKED + b"4\r\npart\r\n", then="close"), CUT, 200, b"part"),
    "last chunk and a reset": (
        sending(CHUNKED + b"4\r\npart\r\n", then="reset", pause=0.1),
        CUT,
        200,
        b"part",
    ),
    "chunk size not a number": (sending(CHUNKED + b"zz\r\npart"), UNREADABLE, 200, b""),
    "chunk without its end": (sending(CHUNKED + b"4\r\npartXX"), UNREADABLE, 200, b"part"),
    "chunk extension without end": (flood(CHUNKED + b"1;", b"x" * 9000), UNREADABLE, 200, b""),
    "chunk extensions without end": (
        flood(CHUNKED, b"1;" + b"x" * 50_000 + b"\r\ny\r\n"),
        UNREADABLE,
        200,
        None,
    ),
    "tiny chunks without end": (flood(CHUNKED, b"1\r\ny\r\n" * 9000), UNREADABLE, 200, None),
    "trailers without end": (flood(CHUNKED + b"0\r\n", b"X: y\r\n" * 900), UNREADABLE, 200, b""),
    "body without end": (flood(HEAD + b"\r\n", b"y" * 60_000), UNREADABLE, 200, None),
    "length and chunks": (
        sending(HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n0\r\n\r\n"),
        UNREADABLE,
        200,
        b"",
    ),
    "two equal lengths": (
        sending(HEAD + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\npart"),
        UNREADABLE,
        200,
        b"",
    ),
    "list of lengths": (sending(HEAD + b"content-length: 4, 4\r\n\r\npart"), UNREADABLE, 200, b""),
    "two lengths": (
        sending(HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\npart"),
        UNREADABLE,
        200,
        b"",
    ),
    "negative length": (sending(HEAD + b"Content-Length: -4\r\n\r\npart"), UNREADABLE, 200, b""),
    "length in words": (sending(HEAD + b"Content-Length: four\r\n\r\npart"), UNREADABLE, 200, b""),
    "unknown transfer coding": (
        sending(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
        UNREADABLE,
        200,
        b"",
    ),
    "unknown encoding": (sending(encoded("br", b"part")), UNREADABLE, 200, b""),
    "gzip inside gzip": (
        sending(encoded("gzip, gzip", gzip.compress(gzip.compress(b"part")))),
        UNREADABLE,
        200,
        b"",
    ),
    "not gzip": (sending(encoded("gzip", b"part")), UNREADABLE, 200, b""),
    "gzip of too much": (sending(encoded("gzip", gzip.compress(bytes(CAP + 1)))), UNREADABLE, 200, None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_reply_has_its_failure_and_the_next_exchange_its_own_reply(serve, transport, name):
    behaviour, failure, status, body = BROKEN[name]
    server = serve(behaviour)
    found = post(transport, server.url)
    assert (found.failure, found.status, found.sent) == (failure, status, True)
    if body is None:
        assert len(found.body) <= CAP
    else:
        assert found.body == body
    assert post(transport, server.url, b"second") == own(b"second")
    assert [request.body for request in server.requests] == [b"first", b"second"]
    assert server.accepted == 2


# A reply, and how many connections this exchange and the next one take.
WHOLE = {
    "length": (sending(wire.response(b"whole")), 1),
    "chunks": (sending(CHUNKED + b"2;x=y\r\nwh\r\n3\r\nole\r\n0\r\nX: y\r\n\r\n"), 1),
    "interim replies before": (
        sending(
            b"HTTP/1.1 103 Early\r\nLink: </x>\r\n\r\n", b"HTTP/1.1 199 x\r\n\r\n", wire.response(b"whole")
        ),
        1,
    ),
    "20 interim replies before": (sending(b"HTTP/1.1 100 x\r\n\r\n" * 20 + wire.response(b"whole")), 1),
    "gzip": (sending(encoded("gzip", gzip.compress(b"whole"))), 1),
    "gzip of two members": (sending(encoded("gzip", gzip.compress(b"wh") + gzip.compress(b"ole"))), 1),
    "deflate": (sending(encoded("deflate", deflated(b"whole"))), 1),
    "end of the connection": (sending(HEAD + b"\r\nwhole", then="close"), 2),
    "a wish to close": (sending(wire.response(b"whole", headers={"Connection": "close"})), 2),
    "HTTP/1.0": (sending(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nwhole"), 2),
    "another reply with it": (sending(wire.response(b"whole") + wire.response(b"stray")), 2),
    "bytes after it": (sending(wire.response(b"whole") + b"\r\n"), 2),
}


@pytest.mark.parametrize("name", WHOLE)
def test_connection_is_used_again_only_when_its_exchange_ended_cleanly(serve, transport, name):
    behaviour, connections = WHOLE[name]
    server = serve(behaviour)
    assert post(transport, server.url) == own(b"whole")
    assert post(transport, server.url, b"second") == own(b"second")
    assert server.accepted == connections


@pytest.mark.parametrize("status", [204, 304, 200])
def test_reply_without_body_that_is_followed_by_one_does_not_answer_the_next_exchange(
    serve, transport, status
):
    head = b"HTTP/1.1 %d Whatever\r\n%s\r\n" % (status, b"Content-Length: 0\r\n" if status == 200 else b"")
    late = threading.Event()

    def answer(peer):
        peer.send(head)
        late.wait(5)
        peer.send(wire.response(b"stray"))

    server = serve(at_first(answer))
    assert post(transport, server.url) == Got(status, b"", sent=True)
    second = threading.Timer(0.05, late.set)
    second.start()
    assert post(transport, server.url, b"second") == own(b"second")
    second.join()
    assert post(transport, server.url, b"third") == own(b"third")


def test_late_reply_is_noticed_before_the_connection_is_used_again(serve, transport):
    sent = threading.Event()

    def answer(peer):
        peer.send(wire.response(b"whole"))
        peer.send(wire.response(b"stray"))
        sent.set()

    server = serve(at_first(answer))
    assert post(transport, server.url) == own(b"whole")
    assert sent.wait(5)
    assert post(transport, server.url, b"second") == own(b"second")


def test_exchange_that_is_not_read_to_its_end_leaves_no_connection(serve, transport):
    server = serve(sending(CHUNKED + b"4\r\npart\r\n", b"4\r\nmore\r\n"))
    with made(transport, server.url) as exchange:
        exchange.send()
        assert next(exchange.iter_bytes()) == b"part"
    assert post(transport, server.url, b"second") == own(b"second")
    assert server.accepted == 2


# Time


@pytest.mark.parametrize(
    ("head", "failure", "status"),
    [(b"", Failure.NO_REPLY, None), (HEAD + b"Content-Length: 900\r\n\r\n", CUT, 200)],
)
def test_deadline_holds_however_slowly_bytes_come(serve, transport, head, failure, status):
    def drip(peer):
        peer.send(head)
        peer.drip(b"HTTP/1.1 200 OK" * 60, 0.15)

    server = serve(at_first(drip))
    found = post(transport, server.url, timeout=1.0)
    assert (found.failure, found.status, found.sent) == (failure, status, True)


def test_time_that_runs_out_before_the_first_byte_is_known_not_to_be_sent(serve, transport):
    server = serve(echo)
    found = post(transport, server.url, timeout=0.5, before_send=lambda: time.sleep(0.6))
    assert (found.failure, found.sent, server.requests) == (Failure.UNREACHABLE, False, [])


# Before the first byte


def refusing_tunnel(status):
    def refuse(peer):
        peer.read_request()
        peer.send(wire.response(status=status))

    return refuse


def closing_tunnel(peer):
    peer.read_request()


NOTHING_LEFT = {
    # A name whose first address cannot be reached fails at once, with an error that poll does not show.
    "no route": ("http://255.255.255.255:9", None, Failure.UNREACHABLE, "255.255.255.255:9: "),
    "unknown name": ("http://no-such-org.invalid", None, Failure.UNREACHABLE, "no-such-org.invalid:80: "),
    "SOCKS proxy": ("https://localhost", "socks5://u:canary@h:1", Failure.BAD_ROUTE, "a socks5 proxy"),
    "proxy over TLS": ("https://localhost", "https://u:canary@h:1", Failure.BAD_ROUTE, "only HTTP proxies"),
    "proxy without a host": ("https://localhost", "http://", Failure.BAD_ROUTE, "not a valid URL"),
    "proxy with a bad port": (
        "https://localhost",
        "http://u:c/canary@h:1",
        Failure.BAD_ROUTE,
        "not a valid",
    ),
    "proxy that refuses": (
        "https://localhost",
        refusing_tunnel(502),
        Failure.UNREACHABLE,
        "answered 502 to CONNECT",
    ),
    "proxy that wants a password": (
        "https://localhost",
        refusing_tunnel(407),
        Failure.BAD_ROUTE,
        "answered 407 to CONNECT, because it needs a valid user and password",
    ),
    "proxy that closes": ("https://localhost", closing_tunnel, Failure.UNREACHABLE, "closed the connection"),
}


@pytest.mark.parametrize("name", NOTHING_LEFT)
def test_what_fails_before_the_first_byte_is_known_not_to_be_sent(transport, monkeypatch, name):
    url, proxy, failure, words = NOTHING_LEFT[name]
    with wire.Server(proxy if callable(proxy) else echo) as server:
        if proxy:
            monkeypatch.setenv("HTTPS_PROXY", server.url if callable(proxy) else proxy)
        found = post(transport, url)
        if callable(proxy):
            assert found.detail.startswith(f"proxy 127.0.0.1:{server.port}: ")
    assert (found.failure, found.sent, found.status) == (failure, False, None)
    assert words in found.detail


def test_proxy_that_is_not_there_is_named(transport, monkeypatch):
    port = wire.refused_port()
    monkeypatch.setenv("ALL_PROXY", f"127.0.0.1:{port}")
    found = post(transport, "http://api.example")
    assert found.detail.startswith(f"proxy 127.0.0.1:{port}: ")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_bundle_that_cannot_be_read_is_named(transport, monkeypatch, tmp_path, content):
    bundle = tmp_path / "ca.pem"
    if content:
        bundle.write_text(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    found = post(transport, "https://localhost:1")
    assert not found.sent
    assert f"the CA bundle {bundle} cannot be read" in found.detail


@pytest.mark.parametrize("bearer", ["line\nbreak canary", "canary with \u20ac"])
def test_header_that_cannot_be_sent_is_an_error_that_does_not_show_it(serve, transport, bearer):
    server = serve(echo)
    found = post(transport, server.url, bearer=bearer)
    assert (found.sent, server.requests) == (False, [])
    assert "not valid HTTP" in found.detail


def test_a_server_that_switches_to_another_protocol_is_told_in_plain_words(serve, transport):
    server = serve(sending(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"))
    assert post(transport, server.url).detail == "not valid HTTP (it switched to another protocol)"


def test_nothing_leaves_when_before_send_fails(serve, transport):
    def refuse():
        raise LookupError("not recorded")

    server = serve(echo)
    with (
        pytest.raises(LookupError, match="not recorded"),
        made(transport, server.url, before_send=refuse) as exchange,
    ):
        exchange.send()
    assert (exchange.sent, exchange.status) == (False, None)
    assert post(transport, server.url, b"second") == own(b"second")
    assert [request.body for request in server.requests] == [b"second"]


def test_before_send_is_not_called_when_no_connection_can_be_made(transport):
    called = []
    found = post(transport, f"http://127.0.0.1:{wire.refused_port()}", before_send=lambda: called.append(1))
    assert (found.sent, called) == (False, [])


def test_before_send_is_not_called_when_a_closed_connection_cannot_be_replaced(transport):
    called = []
    with wire.Server(echo) as server:
        assert post(transport, server.url) == own(b"first")
    found = post(transport, server.url, b"second", before_send=lambda: called.append(1))
    assert (found.sent, called) == (False, [])


def test_reply_to_nothing_on_a_new_connection_answers_no_message(serve, transport):
    stray = threading.Event()

    def behave(peer):
        if peer.server.accepted == 1:
            # Otherwise it would wait until the session tickets have been acknowledged.
            peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.send(wire.response(b"stray"))
            stray.set()
        echo(peer)

    url = serve(behave).url
    assert post(transport, url, before_send=lambda: stray.wait(5)) == own(b"first")
    assert post(transport, url, b"second") == own(b"second")


def test_new_connection_is_used_however_long_before_send_takes(serve, transport):
    server = serve(echo)
    found = post(transport, server.url, before_send=lambda: time.sleep(MAX_IDLE_SECONDS + 0.1))
    assert (found, server.accepted) == (own(b"first"), 1)


def test_connection_that_is_closed_during_before_send_is_not_used(serve, transport):
    close, closed = threading.Event(), threading.Event()

    def behave(peer):
        peer.send(wire.response(peer.read_request().body))
        if peer.server.accepted == 1:
            close.wait(5)
            peer.sock.shutdown(socket.SHUT_RDWR)
            closed.set()

    def slow():
        close.set()
        assert closed.wait(5)

    server = serve(behave)
    assert post(transport, server.url) == own(b"first")
    assert post(transport, server.url, b"second", before_send=slow) == own(b"second")
    assert server.accepted == 2


def test_name_with_an_address_that_refuses_is_reached_by_another(transport):
    with wire.Server(echo) as server:
        assert post(transport, f"http://localhost:{server.port}") == own(b"first")


@pytest.mark.parametrize("answer", ["alert", "alert and close"])
def test_plain_request_to_a_tls_port_is_named(transport, answer):
    server = wire.Server(
        sending(b"\x15\x03\x01\x00\x02\x02\x46", then="close" if "close" in answer else None)
    )
    with server:
        found = post(transport, server.url)
    assert (found.failure, found.detail) == (
        Failure.WRONG_PROTOCOL,
        f"127.0.0.1:{server.port} speaks TLS only",
    )


# Replies before the request is whole


@pytest.mark.parametrize("then", ["close", "wait"])
@pytest.mark.parametrize("status", [401, 413])
def test_refusal_that_comes_before_the_request_is_read_is_the_reply(transport, status, then):
    # Not over TLS: there a server that closes with unread bytes resets, and its last record can be lost.
    def refuse(peer):
        peer.sock.recv(100)
        peer.send(wire.response(b"refused", status=status, headers={"Connection": "close"}))
        if then == "wait":
            peer.server.stopping.wait(10)

    with wire.Server(refuse) as server:
        found = post(transport, server.url, bytes(30_000_000), timeout=2.0)
        assert found == Got(status, b"refused", sent=True)


def test_reply_may_begin_before_the_request_is_whole(serve, transport):
    def answer(peer):
        peer.rest = peer.sock.recv(100)
        peer.send(CHUNKED)
        body = peer.read_request().body
        peer.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    body = b"x" * 3_000_000
    assert post(transport, serve(answer).url, body) == own(body)


def test_long_request_arrives_whole_at_a_server_that_reads_late(serve, transport):
    def answer(peer):
        peer.server.stopping.wait(0.2)  # until no more fits on the way
        peer.send(wire.response(hashlib.sha256(peer.read_request().body).digest()))

    body = bytes(range(250)) * 80_000
    assert post(transport, serve(answer).url, body) == own(hashlib.sha256(body).digest())


# Stopping


@pytest.fixture
def waiting():
    """A behaviour that reads requests and answers each when it is let go."""

    class Waiting:
        def __init__(self):
            self.arrived, self.go = threading.Semaphore(0), threading.Event()

        def __call__(self, peer):
            while (request := peer.read_request()) is not None:
                self.arrived.release()
                self.go.wait(5)
                peer.send(wire.response(request.body))

    behaviour = Waiting()
    yield behaviour
    behaviour.go.set()


def in_thread(function, *arguments, **options):
    found = []
    thread = threading.Thread(target=lambda: found.append(function(*arguments, **options)))
    thread.start()

    def result():
        thread.join(10)
        return found[0]

    return result


def test_stop_cuts_what_is_under_way_and_nothing_else(serve, transport, waiting):
    server = serve(waiting)
    other = transport.sibling()
    calls = {
        "plain": in_thread(post, transport, server.url, b"plain"),
        "start": in_thread(post, transport, server.url, b"start", starts_session=True),
        "cleanup": in_thread(post, transport, server.url, b"cleanup", during_cleanup=True),
        "sibling": in_thread(post, other, server.url, b"sibling"),
    }
    for _ in calls:
        assert waiting.arrived.acquire(timeout=5)
    transport.stop(keep_starts=True)
    assert calls["plain"]().failure is Failure.STOPPED
    waiting.go.set()
    assert [calls[name]() for name in ("start", "cleanup", "sibling")] == [
        own(b"start"),
        own(b"cleanup"),
        own(b"sibling"),
    ]
    late = post(transport, server.url)
    assert (late.failure, late.sent) == (Failure.STOPPED_BEFORE, False)
    assert post(transport, server.url, during_cleanup=True) == own(b"first")
    assert post(other, server.url) == own(b"first")


def test_stop_without_exception_cuts_also_starts(serve, transport, waiting):
    server = serve(waiting)
    call = in_thread(post, transport, server.url, starts_session=True)
    assert waiting.arrived.acquire(timeout=5)
    transport.stop()
    assert call().failure is Failure.STOPPED


def test_stop_in_the_body_is_no_end_of_it(serve, transport):
    began = threading.Event()

    def answer(peer):
        peer.send(HEAD + b"\r\npart")
        began.set()
        peer.hang()
        return True

    server = serve(at_first(answer))
    call = in_thread(post, transport, server.url)
    assert began.wait(5)
    transport.stop()
    found = call()
    assert found.failure is Failure.STOPPED
    assert (found.status, found.sent) in {(200, True), (None, True)}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_stop_while_connecting_or_in_the_handshake_is_known_not_to_be_sent(transport, scheme):
    came = threading.Event()

    def hang(peer):
        came.set()
        peer.hang()

    with wire.Server(hang, scheme=scheme) as server:
        call = in_thread(post, transport, server.url, before_send=lambda: came.wait(5) and transport.stop())
        if scheme == "https":
            assert came.wait(5)
            transport.stop()
        found = call()
    assert (found.failure, found.sent, server.requests) == (Failure.STOPPED_BEFORE, False, [])


def test_late_stop_does_not_meet_the_next_exchange_on_the_connection(serve, transport, waiting):
    waiting.go.set()
    server = serve(waiting)
    first = transport.sibling()
    assert post(first, server.url) == own(b"first")
    waiting.go.clear()
    call = in_thread(post, transport, server.url, b"second")
    for _ in range(2):
        assert waiting.arrived.acquire(timeout=5)
    first.stop()
    waiting.go.set()
    assert call() == own(b"second")
    assert server.accepted == 1


# Signals


class Interrupted(BaseException):
    pass


@pytest.fixture
def interrupt():
    """Raise :class:`Interrupted` in the main thread when called with a delay."""

    def handle(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handle)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def read(exchange):
    with exchange:
        exchange.send()
        return b"".join(exchange.iter_bytes())


@pytest.mark.parametrize(
    ("reply", "status"), [(b"", None), (HEAD, None), (HEAD + b"Content-Length: 9\r\n\r\npart", 200)]
)
def test_signal_in_a_call_comes_out_and_the_connection_is_closed(serve, transport, interrupt, reply, status):
    closed = threading.Event()

    def answer(peer):
        peer.send(reply)
        interrupt(0.2)
        peer.hang()
        closed.set()
        return True

    server = serve(at_first(answer))
    exchange = made(transport, server.url)
    with pytest.raises(Interrupted):
        read(exchange)
    assert (exchange.sent, exchange.status) == (True, status)
    assert closed.wait(5)
    assert post(transport, server.url, b"second") == own(b"second")


def test_signal_at_any_moment_leaves_nothing_behind(serve, transport, interrupt, monkeypatch):
    # pytest keeps what strikes a finalizer until the test ends, with its frames and their sockets.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    server = serve(echo)
    interrupted = 0
    for number in range(300):
        body = b"%d" % number
        try:
            interrupt(0.00002 * (number % 50 + 1))
            found = post(transport, server.url, body)
            interrupt(0)
        except Interrupted:
            interrupted += 1
        else:
            assert found == own(body)
    assert interrupted
    assert post(transport, server.url, b"last") == own(b"last")
    transport.close()
    # The traceback of a struck call may hold its connection in a cycle.
    gc.collect()
    assert server.all_closed(5)


# Processes and threads


def in_child(function):
    """Run *function* in a forked child, and return what waits for it and tells whether it returned."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if function() else 2
        finally:
            os._exit(code)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_children_and_their_parent_each_get_their_own_replies(serve, transport):
    server = serve(echo)
    assert post(transport, server.url) == own(b"first")

    def calls(name):
        return all(
            post(transport, server.url, b"%s %d" % (name, n)) == own(b"%s %d" % (name, n)) for n in range(5)
        )

    waits = [in_child(lambda name=name: calls(name)) for name in (b"one", b"two", b"three")]
    assert calls(b"parent")
    assert [wait() for wait in waits] == [0, 0, 0]
    assert calls(b"parent")
    assert server.accepted == 4


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_fork_before_the_first_byte_gives_parent_and_child_a_connection_each(serve, transport):
    server, here = serve(echo), os.getpid()
    children = []
    try:
        found = post(transport, server.url, before_send=lambda: children.append(os.fork()))
    finally:
        if os.getpid() != here:
            os._exit(0 if found == own(b"first") else 2)
    assert found == own(b"first")
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    assert server.accepted == 2


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_child_that_stops_or_closes_leaves_the_calls_of_its_parent_alone(serve, transport, waiting):
    server = serve(waiting)
    call = in_thread(post, transport, server.url)
    assert waiting.arrived.acquire(timeout=5)

    def stop():
        transport.stop()
        transport.close()
        return True

    assert in_child(stop)() == 0
    waiting.go.set()
    assert call() == own(b"first")
    assert post(transport, server.url, b"second") == own(b"second")
    assert server.accepted == 1


def test_threads_share_connections_and_get_their_own_replies(serve, transport):
    server = serve(echo)
    start = threading.Barrier(12)

    def calls(name):
        start.wait(5)
        return all(
            post(transport, server.url, b"%d %d" % (name, n)) == own(b"%d %d" % (name, n)) for n in range(20)
        )

    assert all(result() for result in [in_thread(calls, name) for name in range(12)])
    assert server.accepted <= 14
