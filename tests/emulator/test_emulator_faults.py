import http.client
import json
import socket
from urllib.parse import urlsplit

import pytest
import requests
from emulator_caller import BASE, assert_refused, read_events

from airflow_provider_agentforce.emulator import Fault
from airflow_provider_agentforce.emulator.errors import ERRORS
from airflow_provider_agentforce.emulator.faults import OPERATIONS


@pytest.fixture
def session(caller):
    return caller.open()


def raw_exchange(caller, method, path, body=b"", **headers):
    """Return every byte the emulator sends before it closes the connection."""
    url = urlsplit(caller.org.url)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {url.netloc}", f"Authorization: Bearer {caller.bearer}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    with socket.create_connection((url.hostname, url.port), timeout=5) as wire:
        wire.sendall("\r\n".join(lines).encode() + body)
        received = b""
        while piece := wire.recv(65536):
            received += piece
    return received


def raw_send(caller, session, *, stream=False):
    path = f"{BASE}/sessions/{session}/messages" + ("/stream" if stream else "")
    body = json.dumps({"message": {"type": "Text", "sequenceId": 1, "text": "hello"}}).encode()
    return raw_exchange(caller, "POST", path, body, Accept="text/event-stream" if stream else "*/*")


def test_a_fault_is_met_once_and_before_the_agent_acts(caller, org, session):
    fault = org.fail("send", status=503)
    assert org.unused_faults() == [fault]
    assert_refused(caller.send(session), 503, "Apex/Flow calls timed out", "ServiceUnavailable")
    assert org.applied() == 0
    assert org.unused_faults() == []
    assert caller.send(session).status_code == 200
    assert [record.status for record in org.requests[-2:]] == [503, 200]


def test_faults_are_counted_and_queue_in_order_per_operation(caller, org, session):
    first = org.fail("send", status=503, times=2)
    org.fail("send", status=429)
    other = org.fail("end", status=500)
    assert [caller.send(session).status_code for _ in range(4)] == [503, 503, 429, 200]
    assert first.remaining == 0
    assert org.unused_faults() == [other]


def test_a_partly_used_fault_is_unused(caller, org, session):
    fault = org.fail("send", status=503, times=3)
    caller.send(session)
    assert org.unused_faults() == [fault]
    assert (fault.used, fault.remaining) == (1, 2)


def test_sync_and_streamed_messages_share_their_faults(caller, org, session):
    org.fail("send", status=503, times=2)
    assert caller.send(session, stream=True).status_code == 503
    assert caller.send(session).status_code == 503


def test_after_means_the_message_counts_and_the_fault_is_the_answer(caller, org, session):
    org.fail("send", status=500, after=True)
    assert_refused(caller.send(session), 500, "UNKNOWN_EXCEPTION", "HttpServerErrorException")
    assert org.applied("hello") == 1


def test_after_applies_to_every_operation(caller, org, session):
    org.fail("token", status=503, after=True)
    assert caller.ask_token().status_code == 503
    assert org.tokens_issued == 2
    org.fail("start", status=500, after=True)
    assert caller.start().status_code == 500
    assert len(org.open_sessions) == 2
    org.fail("end", status=500, after=True)
    assert caller.end(session).status_code == 500
    assert session not in org.open_sessions


def test_an_after_fault_waits_for_a_request_that_is_acted_on(caller, org, session):
    fault = org.fail("send", status=500, after=True, times=2)
    assert caller.send("gone").status_code == 404
    assert (org.unused_faults(), fault.remaining) == ([fault], 2)
    assert caller.send(session).status_code == 500
    assert caller.send("gone").status_code == 404
    assert (org.unused_faults(), fault.remaining) == ([fault], 1)
    assert caller.send(session).status_code == 500
    assert org.unused_faults() == []


@pytest.mark.parametrize(("after", "applied"), [(False, 0), (True, 1)])
def test_drop_sends_no_byte(caller, org, session, after, applied):
    org.fail("send", drop=True, after=after)
    assert raw_send(caller, session) == b""
    assert org.applied() == applied
    assert org.requests[-1].status is None
    assert caller.send(session).status_code == 200


def test_a_client_sees_a_drop_as_a_lost_connection(caller, org, session):
    org.fail("send", drop=True)
    with pytest.raises(requests.ConnectionError):
        caller.send(session)
    assert caller.end(session).status_code == 200


def test_cut_announces_the_whole_body_and_sends_a_part(caller, org, session):
    org.fail("send", cut=20)
    head, _, body = raw_send(caller, session).partition(b"\r\n\r\n")
    announced = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert head.startswith(b"HTTP/1.1 200")
    assert len(body) == 20 < announced
    assert org.applied() == 1


def test_cut_of_zero_sends_headers_only(caller, org, session):
    org.fail("send", cut=0)
    assert raw_send(caller, session).endswith(b"\r\n\r\n")


def test_cut_stream_is_left_unterminated(caller, org, session):
    org.fail("send", cut=400)
    head, _, chunked = raw_send(caller, session, stream=True).partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.lower()
    content = b""
    while chunked:
        size, _, rest = chunked.partition(b"\r\n")
        content, chunked = content + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        assert int(size, 16) > 0
    assert len(content) == 400
    assert content.startswith(b"event: PROGRESS_INDICATOR")
    assert org.applied() == 1


def test_session_is_free_again_after_each_broken_answer(caller, org, session):
    for fault in ({"cut": 5}, {"drop": True, "after": True}, {"status": 500, "after": True}):
        org.fail("send", **fault)
        raw_send(caller, session) if "status" not in fault else caller.send(session)
        assert caller.send(session).status_code == 200


def test_own_body_headers_and_content_type_are_sent_as_given(caller, org, session):
    org.fail("send", status=502, body="<h1>no</h1>", content_type="text/html", headers={"Retry-After": "7"})
    answer = caller.send(session)
    assert (answer.status_code, answer.text) == (502, "<h1>no</h1>")
    assert answer.headers["Content-Type"] == "text/html"
    assert answer.headers["Retry-After"] == "7"


@pytest.mark.parametrize(
    ("body", "content"),
    [({"a": 1}, b'{"a": 1}'), ([1], b"[1]"), ("text", b"text"), (b"\xff\xfe", b"\xff\xfe"), ("", b"")],
)
def test_a_body_alone_replaces_only_the_body(caller, org, session, body, content):
    org.fail("send", body=body)
    answer = caller.send(session)
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["Content-Type"] == "application/json"
    assert org.applied() == 1


@pytest.mark.parametrize(
    ("body", "content_type"),
    [({"a": 1}, "application/json"), ("<html>", "text/plain"), (b"\x00", "application/octet-stream")],
)
def test_a_body_with_a_status_brings_its_own_type(caller, org, session, body, content_type):
    org.fail("send", status=500, body=body)
    assert caller.send(session).headers["Content-Type"] == content_type


def test_a_body_alone_keeps_a_stream_an_event_stream(caller, org, session):
    org.fail("send", body="event: X\ndata: {\n\n")
    answer = caller.send(session, stream=True)
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.text == "event: X\ndata: {\n\n"


def test_a_delay_alone_leaves_the_answer_as_it_is(caller, org, session):
    org.fail("send", delay=0.05)
    answer = caller.send(session)
    assert answer.elapsed.total_seconds() >= 0.05
    assert answer.json()["messages"]


@pytest.mark.parametrize("status", [502, 504, 599])
def test_a_status_without_documented_body_has_none(caller, org, session, status):
    org.fail("send", status=status)
    answer = caller.send(session)
    assert (answer.status_code, answer.content) == (status, b"")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_can_fail(caller, org, session, operation):
    calls = {
        "token": caller.ask_token,
        "start": caller.start,
        "send": lambda: caller.send(session),
        "end": lambda: caller.end(session),
        "feedback": lambda: caller.rate(session, feedbackId="x", feedback="GOOD"),
        "trace": lambda: caller.call("GET", "/einstein/ai-agent/v1.1/preview/sessions/x/plans/y"),
        "session_trace": lambda: caller.call("GET", "/services/data/v66.0/einstein/audit/otel/x"),
        "query": lambda: caller.call("GET", "/services/data/v63.0/query?q=x"),
        "write": lambda: caller.call("PATCH", "/services/data/v63.0/composite/sobjects", {}),
        "test": lambda: caller.call("GET", "/services/data/v63.0/einstein/ai-evaluations/runs/x"),
    }
    org.fail(operation, status=418)
    assert calls[operation]().status_code == 418
    assert org.unused_faults() == []


@pytest.mark.parametrize("name", ERRORS)
def test_every_documented_error_can_be_named(caller, org, session, name):
    org.fail("send", error=name)
    answer = caller.send(session)
    spec = ERRORS[name]
    assert answer.status_code == spec.status
    assert "{" not in answer.text or answer.headers["Content-Type"] == "application/json"
    if spec.style == "agent":
        assert_refused(answer, spec.status, "", spec.error)
    if name == "session_not_found":
        assert answer.json()["message"] == f"V6Session not found for sessionId: {session}"


def test_an_error_can_be_named_and_changed(caller, org):
    org.fail("start", error="too_many_requests", headers={"Retry-After": "3"})
    answer = caller.start()
    assert_refused(answer, 429, "Too many requests")
    assert answer.headers["Retry-After"] == "3"


def test_token_errors_have_the_oauth_shape(caller, org):
    org.fail("token", error="login_rate")
    assert caller.ask_token().json() == {"error": "invalid_grant", "error_description": "login rate exceeded"}
    org.fail("token", status=401)
    answer = caller.ask_token()
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_the_token_endpoint_can_ask_for_another_try(caller, org):
    org.fail("token", error="retry_request")
    answer = caller.ask_token()
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "unknown_error", "error_description": "retry your request"},
    )
    assert caller.ask_token().status_code == 200


@pytest.mark.parametrize("operation", ["start", "send"])
def test_a_fresh_token_can_be_refused_for_a_number_of_uses(caller, org, session, operation):
    org.fail(operation, error="invalid_jwt_format", times=2)
    caller.login()
    call = caller.start if operation == "start" else lambda: caller.send(session)
    answers = [call() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [401, 401, 200]
    assert answers[0].json() == [{"message": "INVALID_JWT_FORMAT", "errorCode": "INVALID_AUTH_HEADER"}]
    assert org.applied() == (1 if operation == "send" else 0)


def test_a_stream_fault_waits_for_a_streamed_message_that_is_acted_on(caller, org, session):
    fault = org.fail("send", stream={"end_of_turn": False})
    org.fail("send", status=503)
    assert caller.send(session).status_code == 503
    assert caller.send("gone", stream=True).status_code == 404
    assert org.unused_faults() == [fault]
    assert [name for name, _, _ in caller.stream(session)][-1] == "INFORM"
    assert org.unused_faults() == []


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"operation": "sned"}, "Unknown operation 'sned': one of token, start"),
        ({"error": "oops"}, "Unknown error 'oops': one of no_run_as_user"),
        ({"times": 0}, "times"),
        ({"status": 42}, "status"),
        ({"delay": -1}, "delay"),
        ({"cut": -1}, "cut"),
        ({"drop": True, "status": 500}, "drop"),
        ({"drop": True, "body": "x"}, "drop"),
        ({"stream": {"colour": "red"}}, "stream must be a mapping with any of progress"),
        ({"stream": {"hold_open": -1}}, "stream.hold_open must be a number of seconds"),
        ({"stream": {}, "status": 500}, "stream changes the answer"),
        ({"operation": "start", "stream": {}}, "stream changes the answer"),
    ],
)
def test_an_impossible_fault_is_refused_at_once(org, fields, problem):
    with pytest.raises(ValueError, match=problem):
        org.fail(**{"operation": "send", **fields})
    with pytest.raises(TypeError):
        org.fail("send", colour="red")
    assert org.unused_faults() == []


def test_fault_is_what_fail_returns(org):
    assert org.fail("send", status=503) == Fault(operation="send", status=503)


def test_keep_alive_connection_survives_a_fault_with_an_answer(caller, org, session):
    url = urlsplit(org.url)
    wire = http.client.HTTPConnection(url.hostname, url.port, timeout=5)
    headers = {"Authorization": f"Bearer {caller.bearer}", "x-session-end-reason": "UserRequest"}
    org.fail("end", status=503)
    for status in (503, 200):
        wire.request("DELETE", f"{BASE}/sessions/{session}", headers=headers)
        answer = wire.getresponse()
        answer.read()
        assert answer.status == status
    wire.close()


def test_stream_events_before_a_cut_are_whole(caller, org, session):
    whole = caller.send(session, stream=True).content
    org.fail("send", cut=len(whole))
    received = raw_send(caller, session, stream=True)
    assert not received.endswith(b"0\r\n\r\n")
    assert read_events(whole)
