"""The retry table as the caller and the server see it, row by row and operation by operation.

Why each cell is as it is: RFC 9110 section 9.2.2 (a request that is not idempotent is repeated only when it
is known not to have been applied), RFC 6749 section 5.2 (token errors), and the API's considerations page, by
which its own time-out of 120 s arrives as HTTP 500.
"""

from __future__ import annotations

import itertools
import ssl
from dataclasses import dataclass, replace
from typing import Any

import pytest
import wire
from quick import QUICK
from telling import OPERATIONS, aim, call, counted_as, failing

from airflow_provider_agentforce.client import Turn
from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceRequestError,
    AgentforceTransientError,
    DeliveryUnknownError,
    RateLimitedError,
    SessionBusyError,
    SessionNotFoundError,
)

AUTH, BUSY, LIMIT = AgentforceAuthError, SessionBusyError, RateLimitedError
GONE, TRANSIENT, FINAL = SessionNotFoundError, AgentforceTransientError, AgentforceRequestError

NOTHING_DONE, UNKNOWN, DELIVERED = False, None, True
REFUSED = NOTHING_DONE


@dataclass
class Row:
    """One row: how requests fail, what that says of the first one, and the cell of each operation.

    A cell is the number of requests in all and what the caller gets: ``T`` a transient error, ``X`` a final
    one, ``U`` unknown delivery, ``OK`` success, ``RF`` one renewed token and then ``X``. ``!``: a session may
    be left open, and a warning tells its external session key.
    """

    name: str
    fault: dict[str, Any]
    applied: bool | None
    token: str
    start: str
    send: str
    end: str
    feedback: str
    query: str
    transient: type = TRANSIENT
    final: type = FINAL
    final_of: dict[str, type] | None = None

    @property
    def timeout(self) -> float:
        return 0.3 if "delay" in self.fault else 5.0

    def cell(self, operation: str) -> str:
        # Calls that only read share a column.
        return self.query if operation == "session_trace" else getattr(self, counted_as(operation))


CONFIG = {"error": "EngineConfigLookupException", "message": "Unable to look up the engine config"}
BUSY_TOKENS = {"error": "temporarily_unavailable", "error_description": "try again"}
CALLS_USED_UP = [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "TotalRequests Limit exceeded."}]
GIVEN = {"headers": {"Retry-After": "0"}}

ROWS = [
    #                                                      token    start     send     end      feedback query
    Row("4 reset", {"drop": True}, UNKNOWN, "3 T", "2 T !", "1 U", "3 T", "2 T", "3 T"),
    Row("5 no reply", {"status": 200, "delay": 0.7}, UNKNOWN, "2 T", "1 T !", "1 U", "2 T", "2 T", "2 T"),
    Row("6 cut reply", {"cut": 5}, DELIVERED, "2 T", "1 T !", "1 U", "1 OK", "1 OK", "2 T"),
    Row("7 400", {"status": 400}, REFUSED, "1 X", "1 X", "1 X", "1 X", "1 X", "1 X"),
    Row(
        "7 400 busy token service",
        {"status": 400, "body": BUSY_TOKENS},
        REFUSED,
        *("3 T", "1 X", "1 X", "1 X", "1 X", "1 X"),
    ),
    Row("8 401", {"status": 401}, REFUSED, "1 X", "RF", "RF", "RF", "RF", "RF", final=AUTH),
    Row("8 401 not attached", {"error": "app_not_attached"}, REFUSED, *["1 X"] * 6, final=AUTH),
    Row("9 403", {"status": 403}, REFUSED, "1 X", "1 X", "1 X", "1 X", "1 X", "1 X", final=AUTH),
    Row(
        "9 403 of the API calls",
        {"status": 403, "body": CALLS_USED_UP},
        REFUSED,
        *("1 X", "1 X", "1 X", "1 X", "1 X", "3 T"),
        transient=LIMIT,
        final=AUTH,
    ),
    Row(
        "10 404",
        {"error": "session_not_found"},
        REFUSED,
        *("1 X", "1 X", "1 X", "1 OK", "1 X", "1 X"),
        final_of={"send": GONE, "feedback": GONE},
    ),
    Row(
        "10 410",
        {"status": 410},
        REFUSED,
        *("1 X", "1 X", "1 X", "1 OK", "1 X", "1 X"),
        final_of={"send": GONE, "feedback": GONE},
    ),
    Row("11 408", {"status": 408}, REFUSED, "3 T", "3 T", "2 T", "3 T", "2 T", "3 T"),
    Row("11 425", {"status": 425}, REFUSED, "3 T", "3 T", "2 T", "3 T", "2 T", "3 T"),
    Row("12 409", {"status": 409}, REFUSED, "1 X", "1 X", "1 X", "1 X", "1 X", "1 X"),
    Row("13 412", {"status": 412}, REFUSED, "1 X", "1 X", "1 X", "1 X", "1 X", "1 X"),
    Row("14 413", {"status": 413}, REFUSED, "1 X", "1 X", "1 X", "1 X", "1 X", "1 X"),
    Row("14 414", {"status": 414}, REFUSED, "1 X", "1 X", "1 X", "1 X", "1 X", "1 X"),
    Row("14 415", {"status": 415}, REFUSED, "1 X", "1 X", "1 X", "1 X", "1 X", "1 X"),
    Row("15 422", {"status": 422, "body": ""}, UNKNOWN, "1 X", "1 X", "1 U", "1 X", "1 X", "1 X"),
    Row("16 423", {"status": 423}, REFUSED, "1 T", "1 T", "lock", "3 T", "3 T", "1 T", transient=BUSY),
    Row("17 429 for 0 s", {"status": 429, **GIVEN}, REFUSED, *["3 T"] * 6, transient=LIMIT),
    Row("18 429", {"status": 429}, REFUSED, *["3 T"] * 6, transient=LIMIT),
    Row("19 500 config", {"status": 500, "body": CONFIG}, REFUSED, "3 T", "1 X", "1 X", "1 X", "1 X", "1 X"),
    Row(
        "19 500 inactive", {"error": "inactive_agent_500"}, REFUSED, "3 T", "1 X", "1 X", "1 X", "1 X", "1 X"
    ),
    Row("20 500", {"status": 500}, UNKNOWN, "3 T", "1 T", "1 U", "2 T", "2 T", "3 T"),
    Row("20 500 empty", {"status": 500, "body": ""}, UNKNOWN, "3 T", "1 T", "1 U", "2 T", "2 T", "3 T"),
    Row("21 502", {"status": 502}, UNKNOWN, "3 T", "2 T !", "1 U", "3 T", "2 T", "3 T"),
    Row("21 504", {"status": 504}, UNKNOWN, "3 T", "2 T !", "1 U", "3 T", "2 T", "3 T"),
    Row("22 503", {"status": 503}, UNKNOWN, "3 T", "2 T", "1 U", "3 T", "2 T", "3 T"),
    Row("22 503 for 0 s", {"status": 503, **GIVEN}, UNKNOWN, "3 T", "2 T", "1 U", "3 T", "2 T", "3 T"),
    Row(
        "23 302",
        {"status": 302, "headers": {"Location": "/elsewhere"}},
        REFUSED,
        *["1 X"] * 6,
    ),
    Row("23 304", {"status": 304}, REFUSED, *["1 X"] * 6),
    Row("24 418", {"status": 418}, REFUSED, *["1 X"] * 6),
    Row("24 520", {"status": 520}, UNKNOWN, "1 T", "1 T", "1 U", "1 T", "1 T", "1 T"),
    Row("25 HTML", {"body": "<html>hello"}, DELIVERED, "2 T", "1 T !", "1 U", "1 OK", "1 OK", "2 T"),
    Row("25 array", {"body": [1]}, DELIVERED, "2 T", "1 T !", "1 U", "1 OK", "1 OK", "2 T"),
    Row("25 empty", {"body": b""}, DELIVERED, "2 T", "1 T !", "1 U", "1 OK", "1 OK", "2 T"),
    Row(
        "25 wrong shape",
        {"body": {"messages": "none", "access_token": 7}},
        DELIVERED,
        *("2 T", "1 T !", "1 U", "1 OK", "1 OK", "2 T"),
    ),
    Row(
        "25 not gzip",
        {"headers": {"Content-Encoding": "gzip"}},
        DELIVERED,
        *("2 T", "1 T !", "1 U", "1 OK", "1 OK", "2 T"),
    ),
]
CELLS = [(row, operation) for row in ROWS for operation in OPERATIONS if row.cell(operation) != "lock"]
IDS = [f"{row.name}, {operation}" for row, operation in CELLS]
RESENT = [(row, operation) for row, operation in CELLS if row.cell(operation)[0] in "23R"]


def expected(row, operation):
    """Return requests, type of the error or None, and ``applied``."""
    cell = row.cell(operation)
    number, ending = (2, "X") if cell == "RF" else (int(cell[0]), cell[2:].split(" ")[0])
    if ending == "OK":
        return number, None
    # What refuses a token by its own words concerns the app and its user.
    of_token = AUTH if row.name.split()[0] in {"7", "8", "9"} else row.final
    final = of_token if operation == "token" else (row.final_of or {}).get(counted_as(operation), row.final)
    return number, {"T": row.transient, "X": final, "U": DeliveryUnknownError}[ending]


def fault_for(row, operation):
    fault = dict(row.fault)
    if operation == "feedback" and "cut" in fault:
        fault = {"body": "a body that is cut", "cut": 5}
    return fault


@pytest.fixture
def ready(org, make_client):
    """A client with a session in which one answer can be rated, and tokens as the operation needs them."""

    def prepare(operation, timeout=5.0, **timing):
        client = make_client(org, timeout=timeout, timing=replace(QUICK, **timing))
        if operation == "token":
            return client, None
        client.authenticate()
        if operation in {"start", "query"}:
            return client, None
        session = make_client(org).start_session()
        org.sessions[session.session_id].feedback_ids = lambda: {"f8308c08-5c63-479f-af71-c1e80ccdb166"}
        return client, session

    return prepare


@pytest.mark.parametrize(("row", "operation"), CELLS, ids=IDS)
def test_cell(org, ready, caplog, row, operation):
    client, session = ready(operation, row.timeout)
    name = counted_as(operation)
    requests, kind = expected(row, operation)
    before, tokens_before = org.count(name), org.count("token")
    org.fail(name, times=requests, **fault_for(row, operation))
    if kind is None:
        result = call(client, operation, session)
        assert result is (row.name.split(" ")[0] != "10" if operation == "end" else None)
    else:
        error = failing(client, operation, session)
        assert type(error) is kind
        assert error.applied is row.applied
        assert error.operation == name
        assert error.retryable is (row.cell(operation).split(" ")[1:2] == ["T"])
        assert error.session_id == (session.session_id if session else None)
        assert (error.external_session_key is not None) is (operation == "start")
    sent = [record for record in org.requests if record.operation == name][before:]
    assert len(sent) == requests
    if name in {"send", "feedback"}:
        assert all(record.body == sent[0].body for record in sent)
    if operation != "token":
        assert org.count("token") - tokens_before == (1 if row.cell(operation) == "RF" else 0)
    warned = [r.getMessage() for r in caplog.records if "may have been left open" in r.getMessage()]
    keys = [record.body["externalSessionKey"] for record in sent] if operation == "start" else []
    if row.cell(operation).endswith("!"):
        # Every start that may have arrived had a key of its own, and each of them is told.
        assert len(set(keys)) == len(keys) == len(warned)
        assert all(key in text for key, text in zip(keys, warned, strict=True))
        assert error.external_session_key == keys[-1]
    else:
        assert warned == []


@pytest.mark.parametrize(
    ("row", "operation"), RESENT, ids=[f"{row.name}, {operation}" for row, operation in RESENT]
)
def test_cell_that_is_sent_again_succeeds_at_the_last_attempt(org, ready, row, operation):
    client, session = ready(operation, row.timeout)
    name = counted_as(operation)
    requests, _ = expected(row, operation)
    before = org.count(name)
    org.fail(name, times=requests - 1, **fault_for(row, operation))
    result = call(client, operation, session)
    assert org.count(name) - before == requests
    if name == "send":
        assert (result.outcome, result.sequence_id, org.applied("hello")) == ("answered", 1, 1)
    if operation == "start":
        assert result.session_id == list(org.sessions)[-1]
        assert result.external_session_key == org.sessions[result.session_id].external_session_key
    if operation == "end":
        assert org.open_sessions == []
    if operation == "query":
        assert result == org.agent_id


@pytest.mark.parametrize("operation", ["send", "stream"])
def test_locked_session_is_waited_for_and_the_message_delivered_once(org, ready, operation):
    client, session = ready(operation)
    org.fail("send", status=423, times=5)
    assert call(client, operation, session).sequence_id == 1
    assert (org.count("send"), org.applied("hello")) == (6, 1)


@pytest.mark.parametrize("operation", ["send", "stream"])
def test_lock_that_outlasts_the_patience_is_transient(org, ready, operation):
    # A clock by which every look at it comes a hundredth of a second later.
    clock = itertools.count(0, 0.01).__next__
    client, session = ready(operation, longest_wait=0.15, clock=clock)
    fault = org.fail("send", status=423, times=1000)
    error = failing(client, operation, session)
    assert (type(error), error.applied, error.status) == (SessionBusyError, False, 423)
    assert 3 < fault.used < 30
    assert org.applied() == 0
    org.reset()


def test_lock_after_an_unknown_send_is_unknown_and_sent_once(org, ready):
    client, session = ready("send")
    org.fail("send", status=423)
    with pytest.raises(DeliveryUnknownError) as caught:
        client.send_message(session, "hello", repeated=True)
    assert caught.value.applied is None
    assert org.count("send") == 1


def test_login_rate_is_transient_and_asks_for_a_minute(org, ready):
    for status in (400, 403):
        client, _ = ready("token")
        org.fail("token", error="login_rate", status=status)
        error = failing(client, "token")
        assert (type(error), error.retry_after, error.applied) == (RateLimitedError, 60.0, False)
        assert "Wait" in error.hint
    assert org.count("token") == 2


@pytest.mark.parametrize("operation", ["send", "stream"])
def test_answer_without_a_known_type_is_no_error(org, ready, operation):
    client, session = ready(operation)
    for messages in ([], [{"type": "HologramChunk", "id": "1", "value": {"deep": [1]}}]):
        org.fail("send", body={"messages": messages}, content_type="application/json")
        turn = call(client, operation, session)
        assert (turn.text, turn.outcome, turn.messages) == ("", "answered", messages)


@pytest.mark.parametrize("body", ["{}", '{"sessionId": ""}', '{"sessionId": 7}', '{"sessionId": "../x"}'])
def test_start_without_a_usable_session_id_warns_of_an_open_session(org, ready, caplog, body):
    client, _ = ready("start")
    org.fail("start", body=body, content_type="application/json")
    error = failing(client, "start")
    assert (type(error), error.applied, org.count("start")) == (AgentforceTransientError, True, 1)
    assert error.external_session_key in caplog.text


# Rows 27 and 28: streams.


def events(*names, **fields):
    texts = {
        "chunk": '{"message":{"type":"TextChunk","id":"1","offset":1,"message":"Half of"}}',
        "inform": '{"message":{"type":"Inform","id":"2","message":"Half of it is all","feedbackId":"f"}}',
        "end": '{"message":{"type":"EndOfTurn","id":"3"}}',
        "error": '{"status":500,"error":"HttpServerErrorException","message":"500 [boom]"}',
        **fields,
    }
    return "".join(f"event: X\ndata: {texts[name]}\n\n" for name in names)


def stream_fault(org, text, **more):
    org.fail("send", body=text, content_type="text/event-stream", **more)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["chunk"], "Half of"),
        (["chunk", "inform"], "Half of it is all"),
        (["inform"], "Half of it is all"),
        ([], None),
    ],
)
def test_stream_without_its_end_is_unknown_and_keeps_what_came(org, ready, names, text):
    client, session = ready("stream")
    body = events(*names) or ": a comment\n\n"
    stream_fault(org, body, headers={"Connection": "close"})
    error = failing(client, "stream", session)
    assert (type(error), error.applied, error.status) == (DeliveryUnknownError, True, 200)
    assert (error.turn.text if isinstance(error.turn, Turn) else error.turn) == text
    assert org.count("send") == 1
    assert not any("last-event-id" in record.headers for record in org.requests)


def test_stream_cut_on_the_wire_is_unknown_and_keeps_what_came(org, ready):
    client, session = ready("stream")
    text = events("chunk", "inform")
    stream_fault(org, text, cut=len(text) - 20)
    error = failing(client, "stream", session)
    assert (type(error), error.applied, error.turn.text) == (DeliveryUnknownError, True, "Half of")
    assert org.count("send") == 1


def test_stream_with_garbage_is_unknown_and_keeps_what_came(org, ready):
    client, session = ready("stream")
    stream_fault(org, events("chunk", "bad", "end", bad="{no json"))
    error = failing(client, "stream", session)
    assert (type(error), error.applied, error.turn.text) == (DeliveryUnknownError, True, "Half of")


def test_error_event_of_a_stream_is_the_agents_failure(org, ready):
    client, session = ready("stream")
    stream_fault(org, events("chunk", "error"))
    turn = client.send_message(session, "hello", stream=True)
    assert (turn.outcome, turn.text) == ("failed", "Half of")
    assert turn.failure_reason == "HttpServerErrorException: 500 [boom]"
    assert org.count("send") == 1


# Rows 1 to 3: nothing was sent. They need a listener that is no HTTP server.


@pytest.mark.parametrize("operation", OPERATIONS)
def test_refused_connection_is_tried_three_times(org, make_client, some_session, operation):
    attempts = []
    timing = replace(QUICK, back_off=lambda state: attempts.append(state.attempt_number) or 0.01)
    url = f"http://127.0.0.1:{wire.refused_port()}"
    error = failing(aim(make_client, org, operation, url, timing=timing), operation, some_session)
    assert error.operation == counted_as(operation)
    # No server can count connections that are refused; there is a pause after all but the last.
    assert attempts == [1, 2]
    assert (type(error), error.applied, error.status) == (AgentforceTransientError, False, None)
    assert "Connection refused" in str(error)
    assert "Check the host" in error.hint


@pytest.mark.parametrize("operation", OPERATIONS)
def test_proxy_that_refuses_is_asked_three_times(org, make_client, some_session, monkeypatch, operation):
    def refuse(peer):
        peer.read_request()
        peer.send(wire.response(status=403))

    with wire.Server(refuse) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        client = aim(make_client, org, operation, "https://acme.my.salesforce.com")
        error = failing(client, operation, some_session)
    assert error.operation == counted_as(operation)
    assert (type(error), error.applied) == (AgentforceTransientError, False)
    assert [request.method for request in proxy.requests] == ["CONNECT"] * 3
    assert all("authorization" not in request.headers for request in proxy.requests)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_proxy_that_cannot_be_used_is_final_at_once(org, make_client, some_session, monkeypatch, operation):
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.invalid:1080")
    client = aim(make_client, org, operation, "https://acme.my.salesforce.com")
    error = failing(client, operation, some_session)
    assert error.operation == counted_as(operation)
    assert (type(error), error.applied) == (AgentforceRequestError, False)
    assert "HTTPS_PROXY" in error.hint


@pytest.mark.parametrize("operation", OPERATIONS)
def test_tls_to_a_plain_port_is_final_at_once(org, make_client, some_session, operation):
    def answer_in_plain_text(peer):
        peer.sock.recv(100)
        peer.send(wire.response(status=400))

    with wire.Server(answer_in_plain_text) as server:
        url = server.url.replace("http://", "https://")
        error = failing(aim(make_client, org, operation, url), operation, some_session)
    assert error.operation == counted_as(operation)
    assert (type(error), error.applied, server.accepted) == (AgentforceRequestError, False, 1)
    assert "http or https" in error.hint


@pytest.mark.parametrize("operation", OPERATIONS)
def test_host_that_asks_for_a_client_certificate_is_final_at_once(
    org, make_client, some_session, trusted, operation
):
    trusted.verify_mode = ssl.CERT_REQUIRED
    with wire.Server(wire.answering(), tls=trusted) as server:
        error = failing(aim(make_client, org, operation, server.url), operation, some_session)
    assert error.operation == counted_as(operation)
    assert (type(error), error.applied) == (AgentforceRequestError, False)
    # Two when the host closes the first one before the request leaves.
    assert server.accepted in (1, 2)
    assert server.requests == []
    assert "client certificate" in error.hint


@pytest.mark.parametrize(
    "garbled",
    [
        b"HTTP/1.1 200 OK\r\nContent-Ty",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["half a head", "head", "body"],
)
@pytest.mark.parametrize("operation", ["end", "feedback"])
def test_success_that_cannot_be_read_is_a_success_where_it_says_nothing_more(
    org, make_client, some_session, operation, garbled
):
    with wire.Server(wire.answering(garbled)) as server:
        client = make_client(org, api_url=server.url, timeout=0.5)
        assert call(client, operation, some_session) in (True, None)
        assert len(server.requests) == 1


@pytest.mark.parametrize("operation", OPERATIONS)
def test_reset_in_the_handshake_is_tried_three_times(org, make_client, some_session, operation):
    def reset(peer):
        peer.sock.recv(1)
        peer.reset()

    with wire.Server(reset, scheme="https") as server:
        error = failing(aim(make_client, org, operation, server.url), operation, some_session)
    assert error.operation == counted_as(operation)
    assert (type(error), error.applied, server.accepted) == (AgentforceTransientError, False, 3)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_bad_certificate_is_final_at_once(org, make_client, some_session, stranger, operation):
    with wire.Server(wire.answering(), tls=stranger) as server:
        error = failing(aim(make_client, org, operation, server.url), operation, some_session)
    assert error.operation == counted_as(operation)
    assert (type(error), error.applied, server.accepted) == (AgentforceRequestError, False, 1)
    assert "certificate" in str(error)
    assert "REQUESTS_CA_BUNDLE" in error.hint
    assert server.requests == []
