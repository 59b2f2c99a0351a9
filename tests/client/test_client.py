"""The client as its callers know it: conversations from start to end, limits, waits, kills, and secrets."""

import contextlib
import gc
import itertools
import logging
import os
import pickle
import re
import signal
import threading
import time
import traceback
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
import tenacity
import wire
from quick import QUICK
from real_airflow import until
from telling import FEEDBACK_ID, aim, call, failing, look_over

from airflow_provider_agentforce import exceptions
from airflow_provider_agentforce.client import Session
from airflow_provider_agentforce.client.timing import Timing
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceInputError,
    AgentforceTransientError,
    DeliveryUnknownError,
    RateLimitedError,
    SessionBusyError,
    SessionNotFoundError,
    TaskStoppedError,
)

SLOW = {
    "answers": [
        {"match": "slow", "text": "At last.", "latency": 5},
        {"match": "error", "text": "Half of it", "stream": {"error": True}},
        {"match": "bye", "type": "SessionEnded", "text": "Goodbye!"},
        {"match": "", "text": "You said {{ text }}."},
    ]
}


# Conversations


@pytest.mark.parametrize("mode", ["official", "seed"])
@pytest.mark.parametrize("stream", [False, True])
def test_conversation_from_start_to_end(make_org, make_client, mode, stream):
    org = make_org(script=SLOW, mode=mode, strict_sequence=True)
    client = make_client(org)
    with client.conversation(tz="Europe/Berlin", variables={"$Context.Tier": "Gold", "Level": 3}) as chat:
        session_id = chat.session.session_id
        assert chat.session.sequence_id == 0
        assert bool(chat.session.greeting) is (mode == "official")
        for number, text in enumerate(["one", "zwei", "trois ✓ 🙂"], start=1):
            turn = chat.send(text, stream=stream)
            assert (turn.text, turn.outcome) == (f"You said {text}.", "answered")
            assert (turn.sequence_id, chat.session.sequence_id) == (number, number)
    record = org.sessions[session_id]
    assert [(turn.text, turn.applied) for turn in record.turns] == [
        ("one", 1),
        ("zwei", 1),
        ("trois ✓ 🙂", 1),
    ]
    assert (record.open, record.end_reason, record.tz) == (False, "UserRequest", "Europe/Berlin")
    assert record.variables == {"$Context.Tier": "Gold", "Level": 3}
    assert record.external_session_key
    assert [request.operation for request in org.requests] == [
        *("token", "start"),
        *["send"] * 3,
        "end",
    ]


MESSAGES = [
    {
        "type": "Inform",
        "id": "1",
        "feedbackId": "f1",
        "planId": "p1",
        "isContentSafe": True,
        "message": "Two cases: café & co.",
        "result": [{"type": "copilotActionOutput/X", "property": "", "value": {"a": [1, None]}}],
        "citedReferences": [{"type": "link", "value": "https://example.com", "label": None}],
    },
    {"type": "Escalate", "id": "2", "feedbackId": "f2", "targets": []},
    {"type": "Hologram", "id": "3", "value": [1.5, "x"]},
]


def test_stream_and_synchronous_answer_are_the_same(make_org, make_client):
    org = make_org(script={"answers": [{"match": "", "messages": MESSAGES}]})
    client = make_client(org)
    turns = [
        client.send_message(client.start_session(), "hello", stream=stream).to_dict()
        for stream in (False, True)
    ]
    assert [request.stream for request in org.requests if request.operation == "send"] == [False, True]
    for turn in turns:
        del turn["session_id"]
    assert turns[0] == turns[1]
    assert turns[0] == {
        "sequence_id": 1,
        "agent_id": org.agent_id,
        "request": {"type": "Text", "text": "hello", "reply": None, "variables": []},
        "resolution": None,
        "text": "Two cases: café & co.",
        "outcome": "escalated",
        "messages": MESSAGES,
        "citations": MESSAGES[0]["citedReferences"],
        "results": MESSAGES[0]["result"],
        "feedback_id": "f1",
        "plan_id": "p1",
        "is_content_safe": True,
        "agent_version": None,
    }


def test_answer_in_the_shape_of_the_guide_without_stream_envelope(make_org, make_client):
    plain = {"match": "", "text": "All of it.", "stream": {"envelope": False, "progress": None}}
    client = make_client(make_org(script={"answers": [plain]}))
    assert client.send_message(client.start_session(), "hello", stream=True).text == "All of it."


def test_stream_that_a_server_sends_unasked_is_read(org, client, session):
    body = 'data: {"message":{"type":"Inform","id":"1","message":"Hi"}}\r\n\r\n'
    body += 'data: {"message":{"type":"EndOfTurn"}}\r\n\r\n'
    org.fail("send", body=body, content_type="text/event-stream;charset=UTF-8")
    assert client.send_message(session, "hello").text == "Hi"


def test_json_that_a_server_sends_instead_of_a_stream_is_read(org, client, session):
    org.fail(
        "send", body={"messages": [{"type": "Inform", "message": "Hi"}]}, content_type="application/json"
    )
    assert client.send_message(session, "hello", stream=True).text == "Hi"


def test_session_may_be_given_as_session_turn_or_dict(org, client, session):
    first = client.send_message(session.to_dict(), "one")
    second = client.send_message(first, "two")
    third = client.send_message({**second.to_dict(), "sequence_id": "2"}, "three")
    assert [turn.sequence_id for turn in (first, second, third)] == [1, 2, 3]
    assert client.end_session(third.to_dict())
    assert [turn.sequence_id for turn in org.sessions[session.session_id].turns] == [1, 2, 3]


@pytest.mark.parametrize("bad", ["..", "../agents/x", "a/b", "a%2fb", "", "a\r\nb", "x" * 200])
@pytest.mark.parametrize("shape", [Session, lambda bad: {"session_id": bad}])
def test_session_id_that_would_lead_elsewhere_is_refused(org, client, shape, bad):
    before = len(org.requests)
    for attempt in (
        lambda: client.send_message(shape(bad), "hello"),
        lambda: client.end_session(shape(bad)),
        lambda: client.submit_feedback(shape(bad), FEEDBACK_ID, "GOOD"),
    ):
        with pytest.raises(AgentforceInputError, match="session_id must be"):
            attempt()
    assert len(org.requests) == before


def test_bad_arguments_are_refused_before_anything_is_sent(org, client):
    wrong = [
        lambda: client.start_session("my agent"),
        lambda: client.start_session(tz="Mars/Olympus"),
        lambda: client.start_session(variables=[{"name": "x"}]),
        lambda: client.start_session(external_session_key="not-a-uuid"),
        lambda: client.start_session(bypass_user="false"),
        lambda: client.start_session(surface_type="Cus tom"),
        lambda: client.start_session(surface_type=True),
        lambda: client.send_message({"session_id": "s", "sequence_id": -1}, "x"),
        lambda: client.send_message({"session_id": "s"}, " "),
        lambda: client.send_message({"session_id": "s"}, "x", in_reply_to="../x"),
        lambda: client.send_message({"session_id": "s"}, "x", variables={"a": {1, 2}}),
        lambda: client.send_message(None, "x"),
        lambda: client.end_session({"session_id": "s"}, "Because"),
        lambda: client.submit_feedback({"session_id": "s"}, "", "GOOD"),
        lambda: client.submit_feedback({"session_id": "s"}, FEEDBACK_ID, "good"),
        lambda: client.conversation(end_reason="Because\r\nX-Evil: 1").__enter__(),
    ]
    for attempt in wrong:
        with pytest.raises(AgentforceInputError) as caught:
            attempt()
        look_over(caught.value, client)
        assert caught.value.applied is False
    assert org.requests == []


def test_no_agent_is_told_before_anything_is_sent(org, make_client):
    with pytest.raises(AgentforceInputError, match=r"names an agent\. Give agent_id"):
        make_client(org, agent_id=None).start_session()
    assert org.requests == []


def test_start_sends_what_the_reference_asks_for_and_no_more(org, client):
    key = "57904EB6-5352-4C5E-ADF6-5F100572CF5D"
    session = client.start_session(
        org.agent_id, variables={"A": True}, tz="UTC", bypass_user=False, external_session_key=key
    )
    request = next(record for record in org.requests if record.operation == "start")
    assert request.path == f"/einstein/ai-agent/v1/agents/{org.agent_id}/sessions"
    assert request.body == {
        "externalSessionKey": key.lower(),
        "instanceConfig": {"endpoint": org.url},
        "streamingCapabilities": {"chunkTypes": ["Text"]},
        "bypassUser": False,
        "tz": "UTC",
        "variables": [{"name": "A", "type": "Boolean", "value": True}],
    }
    assert request.headers["content-type"] == "application/json"
    assert session.external_session_key == key.lower()


def test_a_custom_connection_is_asked_for_at_the_start(org, client):
    with client.conversation(surface_type="Custom"):
        pass
    (start,) = [record for record in org.requests if record.operation == "start"]
    assert start.body["surfaceConfig"] == {"surfaceType": "Custom"}


@pytest.mark.parametrize("stream", [False, True])
def test_send_sends_what_the_reference_asks_for_and_no_more(org, client, session, stream):
    client.send_message(session, "hello", variables={"N": 1.5}, in_reply_to="m-1", stream=stream)
    request = org.requests[-1]
    tail = "messages/stream" if stream else "messages"
    assert request.path == f"/einstein/ai-agent/v1/sessions/{session.session_id}/{tail}"
    assert request.headers["accept"] == ("text/event-stream" if stream else "application/json")
    assert request.body == {
        "message": {"sequenceId": 1, "type": "Text", "text": "hello", "inReplyToMessageId": "m-1"},
        "variables": [{"name": "N", "type": "Number", "value": 1.5}],
    }


def test_long_message_of_any_script_arrives_whole(org, client, session):
    text = "Grüße \x00\u2028🙂\n" * 80_000
    client.send_message(session, text)
    assert org.applied(text) == 1


@pytest.mark.parametrize("status", [201, 202])
def test_feedback_is_taken_with_either_status(make_org, make_client, status):
    org = make_org(feedback_status=status)
    client = make_client(org)
    session = client.start_session()
    turn = client.send_message(session, "hello")
    client.submit_feedback(turn, turn.feedback_id, "BAD", "Too short.")
    assert org.sessions[session.session_id].feedback == [
        {"feedbackId": turn.feedback_id, "feedback": "BAD", "text": "Too short."}
    ]


def test_ending_twice_is_no_error(org, client, session):
    assert [client.end_session(session), client.end_session(session)] == [True, False]
    assert org.sessions[session.session_id].end_reason == "UserRequest"
    assert client.end_quietly(session) is True


@pytest.mark.parametrize("reason", ["UserRequest", "Transfer", "Expiration", "Error", "Other"])
def test_end_reason_arrives(org, client, session, reason):
    client.end_session(session, reason)
    assert org.sessions[session.session_id].end_reason == reason


def test_session_that_is_gone_says_to_start_a_new_one(org, client, session):
    client.end_session(session)
    error = failing(client, "send", session)
    assert type(error) is SessionNotFoundError
    assert "Start a new one" in error.hint
    assert org.applied() == 0


@pytest.mark.parametrize("status", [404, 412, 422, 500])
def test_agent_that_is_not_active_says_so_whatever_the_status(make_org, make_client, status):
    org = make_org(inactive_status=status)
    client = make_client(org)
    with pytest.raises(AgentforceError) as caught:
        client.start_session(org.agents[1].id)
    assert "not active" in caught.value.hint
    assert caught.value.retryable is False
    assert org.count("start") == 1


def test_employee_agent_says_what_it_needs(org, client):
    with pytest.raises(AgentforceError, match="bypass_user=False"):
        client.start_session(org.agents[2].id)
    assert client.start_session(org.agents[2].id, bypass_user=False).session_id in org.sessions


# Connections


def test_conversation_uses_one_connection(org, make_client):
    with wire.Relay(urlsplit(org.url).port) as relay:
        client = make_client(org, api_url=relay.url)
        with client.conversation() as chat:
            for _ in range(3):
                chat.send("hello")
        client.close()
        assert relay.accepted == 1
    assert org.count("send") == 3


def test_clients_with_a_time_of_their_own_share_the_connections(org, make_client):
    with wire.Relay(urlsplit(org.url).port) as relay:
        client = make_client(org, api_url=relay.url)
        turn = client.start_session()
        for _ in range(5):
            turn = client.within(5).send_message(turn, "hello")
        client.within(5).end_session(turn)
        client.close()
        assert relay.accepted == 1
    assert org.count("send") == 5


def test_client_goes_on_after_close(org, client, session):
    client.close()
    assert client.send_message(session, "hello").sequence_id == 1


def test_threads_share_a_client(org, client):
    texts = [f"message {number}" for number in range(24)]
    answers = {}

    def talk(text):
        with client.conversation() as chat:
            answers[text] = chat.send(text).text

    threads = [threading.Thread(target=talk, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert all(text in answers[text] for text in texts)
    assert all(org.applied(text) == 1 for text in texts)
    assert (org.count("token"), org.open_sessions) == (1, [])


# Limits


def test_message_over_the_limit_is_refused_before_it_is_sent(org, make_client):
    client = make_client(org, max_messages_per_session=2)
    with client.conversation() as chat:
        chat.send("one")
        chat.send("two")
        with pytest.raises(AgentforceInputError, match="connection allows 2") as caught:
            chat.send("three")
    look_over(caught.value, client)
    assert (org.count("send"), org.open_sessions) == (2, [])


def test_sessions_over_the_limit_wait_for_one_that_ends(org, make_client):
    client = make_client(org, max_concurrent_sessions=1)
    first = client.start_session()
    ending = threading.Timer(0.2, client.end_session, [first])
    ending.start()
    second = client.start_session()
    ending.join()
    assert [request.operation for request in org.requests] == ["token", "start", "end", "start"]
    assert org.open_sessions == [second.session_id]


def test_sessions_over_the_limit_fail_when_the_patience_ends(org, make_client):
    hurried = replace(QUICK, longest_wait=0.1)
    client, other = (make_client(org, max_concurrent_sessions=1, timing=hurried) for _ in range(2))
    first = client.start_session()
    for one in (client, other):
        error = failing(one, "start")
        assert (type(error), error.applied) == (RateLimitedError, False)
        assert "1 sessions are open (extra max_concurrent_sessions)" in str(error)
    assert org.count("start") == 1
    client.end_session(first)
    other.start_session()


def test_each_client_of_an_org_keeps_its_own_limit(org, make_client):
    hurried = replace(QUICK, longest_wait=0.1)
    strict, lax = (make_client(org, max_concurrent_sessions=most, timing=hurried) for most in (1, 2))
    strict.start_session()
    assert type(failing(strict, "start")) is RateLimitedError
    lax.start_session()
    assert "2 sessions are open" in str(failing(lax, "start"))
    assert org.count("start") == 2


def test_failed_start_and_a_session_the_agent_ended_leave_their_places(org, make_client):
    client = make_client(org, max_concurrent_sessions=1, timing=replace(QUICK, longest_wait=0.1))
    org.fail("start", status=403)
    failing(client, "start")
    session = client.start_session()
    assert client.send_message(session, "goodbye").outcome == "ended"
    client.start_session()
    assert org.count("start") == 3


def test_starts_over_the_hourly_limit_fail_with_the_time_to_wait(org, make_client):
    client, other = (make_client(org, max_sessions_per_hour=2) for _ in range(2))
    for one in (client, other):
        one.end_session(one.start_session())
    for one in (client, other):
        error = failing(one, "start")
        assert type(error) is RateLimitedError
        assert 3500 < error.retry_after <= 3600
    assert org.count("start") == 2


@pytest.mark.parametrize("limit", ["max_concurrent_sessions", "max_sessions_per_hour"])
def test_limit_of_the_org_is_a_rate_limit(make_org, make_client, limit):
    org = make_org(**{limit: 1}, retry_after=70)
    client = make_client(org)
    client.start_session()
    error = failing(client, "start")
    assert (type(error), error.retry_after, error.applied) == (RateLimitedError, 70, False)
    assert org.count("start") == 2


# Waits


def test_retry_after_is_waited_for(org, client, session):
    org.fail("send", status=429, headers={"Retry-After": "1"})
    began = time.monotonic()
    client.send_message(session, "hello")
    assert time.monotonic() - began >= 1
    assert (org.count("send"), org.applied("hello")) == (2, 1)


@pytest.mark.parametrize("asked", ["61", "3600", "9999999999"])
def test_retry_after_beyond_the_patience_is_handed_on_without_waiting(org, client, session, asked):
    org.fail("send", status=429, headers={"Retry-After": asked})
    error = failing(client, "send", session)
    assert (type(error), error.retry_after) == (RateLimitedError, float(asked))
    assert org.count("send") == 1


def test_retry_after_beyond_the_callers_time_is_handed_on_without_waiting(org, client, session):
    client.time_left(40)
    org.fail("send", status=429, headers={"Retry-After": "50"})
    error = failing(client, "send", session)
    assert (type(error), error.retry_after, org.count("send")) == (RateLimitedError, 50.0, 1)
    client.time_left(None)
    client.send_message(session, "hello")


@pytest.mark.parametrize("asked", ["soon", "1.5", "inf", "nan", "-1", "12345678901"])
def test_retry_after_that_is_garbage_counts_as_none(org, client, session, asked):
    org.fail("send", status=429, times=3, headers={"Retry-After": asked})
    error = failing(client, "send", session)
    assert (type(error), error.retry_after, org.count("send")) == (RateLimitedError, None, 3)


def test_real_back_off_grows_and_has_jitter():
    attempt = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    for attempt.attempt_number, most in ((1, 1), (2, 2), (3, 4), (10, 20)):
        drawn = [Timing().back_off(attempt) for _ in range(50)]
        assert 0 <= min(drawn) < max(drawn) <= most
        assert max(drawn) > most / 2


# Kills


@contextlib.contextmanager
def on_sigterm(act):
    """Install *act* as the handler of SIGTERM, as a task runner does."""
    before = signal.signal(signal.SIGTERM, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(params=["thread", "signal"])
def killer(request):
    """Stop a client, from another thread or in a signal handler of the main thread."""

    @contextlib.contextmanager
    def kill(client, when):
        """Kill a moment after *when* returns. What is killed would go on for 20 seconds or more."""

        def act():
            when()
            time.sleep(0.05)
            if request.param == "thread":
                client.stop()
            else:
                os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=act)
        with on_sigterm(client.stop):
            thread.start()
            try:
                yield
            finally:
                thread.join(5)

    return kill


def test_kill_of_a_message_under_way_is_unknown_and_the_session_is_ended(org, make_client, killer):
    client = make_client(org, timeout=20)
    session = client.start_session()
    hold = org.hold("send")
    with killer(client, hold.wait_until_held):
        error = failing(client, "send", session)
    assert (type(error), error.applied, error.turn) == (DeliveryUnknownError, None, None)
    assert "task stopped while waiting" in str(error)
    hold.release()
    assert client.end_quietly(session) is True
    assert (org.count("send"), org.open_sessions) == (1, [])


def test_killed_conversation_ends_its_session(make_org, make_client, killer):
    org = make_org(script={"answers": [{"match": "", "text": "Late.", "latency": 0.5}]})
    client = make_client(org, timeout=20)

    def arrived():
        until("the message is there", lambda: org.count("send"))

    def talk():
        with client.conversation() as chat:
            chat.send("hello")

    with killer(client, arrived), pytest.raises(DeliveryUnknownError, match="task stopped"):
        talk()
    assert (org.count("send"), org.open_sessions) == (1, [])


def test_stop_while_a_clean_up_waits_for_the_lock_ends_the_session_still(org, make_client):
    client = make_client(org, timing=replace(QUICK, back_off=lambda _: client.stop() or 1.0))
    session = client.start_session()
    org.fail("end", status=423, times=2)
    assert client.end_quietly(session) is True
    assert org.open_sessions == []


def test_clean_up_waits_a_moment_for_the_lock_of_the_message_it_cut(org, client, session):
    client.stop()
    org.fail("end", status=423, times=2)
    assert client.end_quietly(session) is True
    assert (org.open_sessions, org.count("end")) == ([], 3)


def test_clean_up_of_a_session_that_stays_busy_gives_up(org, make_client, caplog):
    # A clock by which every look at it comes a quarter of a second later.
    client = make_client(org, timing=replace(QUICK, clock=itertools.count(0, 0.25).__next__))
    session = client.start_session()
    client.stop()
    fault = org.fail("end", status=423, times=100)
    assert client.end_quietly(session) is False
    assert "may still be open" in caplog.text
    assert 1 < fault.used < 100
    org.reset()


def test_clean_up_after_a_kill_takes_a_few_seconds_only(org, make_client, caplog):
    client = make_client(org, timeout=3600)
    session = client.start_session()
    client.stop()
    with org.hold("end"):
        assert client.end_quietly(session) is False
    assert "no reply in time" in caplog.text
    assert org.count("end") == 1


def test_kill_in_a_back_off_sends_nothing_more(org, make_client, killer):
    waiting = threading.Event()
    client = make_client(org, timing=replace(QUICK, back_off=lambda _: waiting.set() or 30.0))
    session = client.start_session()
    org.fail("send", status=429)
    with killer(client, waiting.wait):
        error = failing(client, "send", session)
    assert (type(error), error.applied, error.retryable) == (TaskStoppedError, False, True)
    assert (org.count("send"), org.applied()) == (1, 0)


def test_kill_in_a_stream_is_unknown(make_org, make_client, killer):
    org = make_org(script=SLOW)
    client = make_client(org, timeout=20)
    session = client.start_session()
    first = threading.Event()
    with pytest.raises(DeliveryUnknownError) as caught, killer(client, first.wait):
        client.send_message(session, "slow", stream=True, on_chunk=lambda _: first.set())
    look_over(caught.value, client)
    assert caught.value.applied is None
    assert "task stopped while waiting" in str(caught.value)
    # Only a sign of life had come, and no part of the answer.
    assert caught.value.turn is None
    assert org.count("send") == 1


def test_kill_while_the_token_is_fetched_is_transient(org, make_client, killer):
    client = make_client(org, timeout=20)
    hold = org.hold("token")
    with killer(client, hold.wait_until_held):
        error = failing(client, "start")
    assert type(error) is TaskStoppedError
    assert org.count("start") == 0
    hold.release()


@pytest.mark.parametrize("operation", ["token", "start", "end", "feedback", "query"])
def test_kill_of_a_call_that_is_no_message_is_transient(org, make_client, some_session, caplog, operation):
    def stop_it(peer):
        if peer.read_request() is not None:
            client.stop()
            peer.hang()

    with wire.Server(stop_it) as server:
        client = aim(make_client, org, operation, server.url, timeout=20)
        error = failing(client, operation, some_session)
    assert (type(error), error.applied, len(server.requests)) == (TaskStoppedError, None, 1)
    if operation == "start":
        assert server.requests[0].json["externalSessionKey"] == error.external_session_key
        assert error.external_session_key in caplog.text


@pytest.mark.parametrize("operation", ["token", "start", "end", "feedback", "query"])
def test_kill_in_the_handshake_of_any_call_is_transient(org, make_client, some_session, operation):
    def stop_it(peer):
        peer.sock.recv(1)
        client.stop()
        peer.hang()

    with wire.Server(stop_it, scheme="https") as server:
        client = aim(make_client, org, operation, server.url, timeout=20)
        error = failing(client, operation, some_session)
    assert (type(error), error.applied, server.accepted) == (TaskStoppedError, False, 1)


@contextlib.contextmanager
def stalled_handshake():
    """Serve a host that stops answering during the TLS handshake; yield it, and the event of a handshake."""
    begun = threading.Event()

    def stall(peer):
        peer.sock.recv(1)
        begun.set()
        peer.hang()

    with wire.Server(stall, scheme="https") as server:
        yield server, begun


def test_kill_in_the_handshake_is_transient_and_nothing_was_sent(org, make_client, some_session, killer):
    with stalled_handshake() as (server, begun):
        client = make_client(org, api_url=server.url, timeout=20)
        with killer(client, begun.wait):
            error = failing(client, "send", some_session)
    assert (type(error), error.applied, server.accepted) == (TaskStoppedError, False, 1)


def test_kill_while_waiting_for_a_place_is_transient(org, make_client, killer):
    client = make_client(org, max_concurrent_sessions=1)
    client.start_session()
    with killer(client, lambda: None):
        error = failing(client, "start")
    assert (type(error), org.count("start")) == (TaskStoppedError, 1)


def test_nothing_is_sent_after_a_stop(org, client, session):
    client.stop()
    before = len(org.requests)
    for operation in ("start", "send", "stream", "end", "feedback"):
        error = failing(client, operation, session)
        assert (type(error), error.applied) == (TaskStoppedError, False)
    assert len(org.requests) == before


class Overrun(BaseException):
    """What a task runner raises from its alarm handler when the time for a task is over."""


def overrun(*_):
    raise Overrun


@contextlib.contextmanager
def overrunning(ring=overrun):
    """Have *ring* called in the main thread when the alarm rings."""
    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def alarm(when):
    thread = threading.Thread(target=lambda: (when(), time.sleep(0.05), os.kill(os.getpid(), signal.SIGALRM)))
    with overrunning():
        thread.start()
        try:
            yield
        finally:
            thread.join(5)


def test_alarm_during_a_message_under_way_is_unknown(org, make_client):
    client = make_client(org, timeout=20)
    session = client.start_session()
    hold = org.hold("send")
    with alarm(hold.wait_until_held):
        error = failing(client, "send", session)
    hold.release()
    assert (type(error), error.applied, error.retryable) == (DeliveryUnknownError, None, False)
    assert isinstance(error.__cause__, Overrun)
    assert org.count("send") == 1


def test_alarm_right_after_the_answer_loses_neither_it_nor_a_lock(org, make_client):
    def alarming(call):
        if call.operation == "send" and armed:
            armed.clear()
            return lambda _ended: os.kill(os.getpid(), signal.SIGALRM)
        return lambda _ended: None

    armed = [True]
    client = make_client(org, observers=[alarming])
    session = client.start_session()
    with overrunning(), pytest.raises(DeliveryUnknownError) as caught:
        client.send_message(session, "hello")
    assert (caught.value.applied, bool(caught.value.turn.text)) == (True, True)
    assert isinstance(caught.value.__cause__, Overrun)
    assert client.send_message(caught.value.turn, "again").sequence_id == 2
    assert (org.count("send"), org.applied("hello")) == (2, 1)


STALLED = b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"


@pytest.mark.parametrize("status", [b"429 Slow", b"401 No", b"423 Busy", b"408 Late"])
@pytest.mark.parametrize("operation", ["start", "send", "end"])
def test_alarm_in_a_refusal_is_raised_and_nothing_more_is_sent(
    org, make_client, some_session, operation, status
):
    stalled = threading.Event()

    def behave(peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 " + status + b"\r\n" + STALLED)
        stalled.set()
        peer.hang()

    with wire.Server(behave) as server:
        client = make_client(org, api_url=server.url, timeout=20)
        client.authenticate()
        with alarm(stalled.wait), pytest.raises(Overrun):
            call(client, operation, some_session)
        client.close()
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", [TimeoutError, RuntimeError])
@pytest.mark.parametrize("where", ["reply", "connect"])
def test_ordinary_exception_of_a_signal_handler_is_not_a_fault_of_the_network(
    org, make_client, some_session, kind, where
):
    def ring(*_):
        raise kind("the time is over")

    waiting = threading.Event()

    def behave(peer):
        peer.read_request()
        waiting.set()
        peer.hang()

    def hang(peer):
        peer.sock.recv(1)
        waiting.set()
        peer.hang()

    how = {"behaviour": behave} if where == "reply" else {"behaviour": hang, "scheme": "https"}
    with overrunning(ring), wire.Server(**how) as server:
        client = make_client(org, api_url=server.url, timeout=20)
        client.authenticate()
        threading.Thread(
            target=lambda: (waiting.wait(), time.sleep(0.05), os.kill(os.getpid(), signal.SIGALRM))
        ).start()
        with pytest.raises((DeliveryUnknownError, kind)) as caught:
            client.send_message(some_session, "hello")
        client.close()
    if where == "connect":
        assert type(caught.value) is kind
    else:
        assert isinstance(caught.value.__cause__, kind)
    assert server.accepted == 1


def test_token_that_cannot_be_renewed_leaves_a_conversation_open(org, client):
    with client.conversation() as chat:
        org.revoke_tokens()
        org.fail("token", status=503, times=3)
        with pytest.raises(AgentforceTransientError) as caught:
            chat.send("hello")
        assert (caught.value.operation, org.applied()) == ("token", 0)
        assert chat.send("hello").sequence_id == 1


def test_secret_in_an_error_in_the_place_of_an_answer_is_not_shown(org, client, session):
    token = client.authenticate()[0].access_token
    org.fail("send", status=200, body=[{"errorCode": "AUTH", "message": f"bad token {token}"}])
    turn = client.send_message(session, "hello")
    assert turn.outcome == "failed"
    assert token[:8] not in repr(turn)


def test_alarm_in_a_back_off_stays_an_alarm(org, make_client):
    waiting = threading.Event()
    client = make_client(org, timing=replace(QUICK, back_off=lambda _: waiting.set() or 30.0))
    session = client.start_session()
    org.fail("send", status=429)
    with alarm(waiting.wait), pytest.raises(Overrun):
        client.send_message(session, "hello")
    assert (org.count("send"), org.applied()) == (1, 0)


# CPython does not close the socket of a handshake that a signal handler leaves with an exception.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_alarm_before_anything_is_sent_stays_an_alarm(org, make_client, some_session):
    with stalled_handshake() as (server, begun):
        client = make_client(org, api_url=server.url, timeout=20)
        client.authenticate()
        with alarm(begun.wait), pytest.raises(Overrun):
            client.send_message(some_session, "hello")
    gc.collect()


def test_alarm_in_a_stream_is_unknown_and_keeps_what_came(make_org, make_client):
    org = make_org(script=SLOW)
    client = make_client(org, timeout=20)
    session = client.start_session()
    first = threading.Event()
    with alarm(first.wait), pytest.raises(DeliveryUnknownError) as caught:
        client.send_message(session, "slow", stream=True, on_chunk=lambda _: first.set())
    assert (caught.value.retryable, org.count("send")) == (False, 1)


# The end of a conversation


def test_session_is_ended_when_the_caller_fails(org, client):
    def talk():
        with client.conversation(end_reason="Error") as chat:
            chat.send("hello")
            1 / 0  # noqa: B018

    with pytest.raises(ZeroDivisionError):
        talk()
    assert [session.end_reason for session in org.sessions.values()] == ["Error"]


def test_session_is_ended_after_an_unknown_message_and_no_other_is_sent(org, client):
    org.fail("send", status=503)
    with client.conversation() as chat:
        with pytest.raises(DeliveryUnknownError):
            chat.send("one")
        with pytest.raises(AgentforceInputError, match="unknown; start a new session"):
            chat.send("two")
    assert (org.count("send"), org.open_sessions, org.count("end")) == (1, [], 1)


def test_session_that_the_agent_ended_is_not_ended_again(org, client):
    with client.conversation() as chat:
        assert chat.send("goodbye").session_ended
        with pytest.raises(SessionNotFoundError, match="The agent has ended the session"):
            chat.send("hello?")
    assert (org.count("send"), org.count("end")) == (1, 0)


def test_failing_clean_up_does_not_mask_the_first_error(org, client, caplog):
    org.fail("end", status=500, times=2)
    with pytest.raises(ZeroDivisionError), client.conversation():
        1 / 0  # noqa: B018
    assert "may still be open" in caplog.text
    org.fail("end", drop=True, times=3)
    with client.conversation() as chat:
        assert chat.send("hello").outcome == "answered"


def test_refused_message_keeps_its_number_and_a_failed_one_uses_it_up(make_org, make_client):
    org = make_org(script=SLOW, strict_sequence=True)
    client = make_client(org)
    with client.conversation() as chat:
        org.fail("send", status=403)
        with pytest.raises(AgentforceError):
            chat.send("one")
        assert chat.send("one").sequence_id == 1
        assert chat.send("error", stream=True).outcome == "failed"
        assert chat.send("three").sequence_id == 3
    assert [turn.sequence_id for turn in next(iter(org.sessions.values())).turns] == [1, 2, 3]


def test_conversation_outside_of_its_block_is_refused(org, client):
    chat = client.conversation()
    with pytest.raises(AgentforceInputError, match="with statement"):
        chat.send("hello")
    with chat:
        pass
    with pytest.raises(AgentforceInputError, match="with statement"):
        _ = chat.session


# Listeners


def test_listener_hears_every_message_as_it_comes(org, client, session):
    heard = []
    turn = client.send_message(session, "hello to all of you", stream=True, on_chunk=heard.append)
    kinds = [message["type"] for message in heard]
    assert kinds[0] == "ProgressIndicator"
    assert kinds[-2:] == ["Inform", "EndOfTurn"]
    assert "".join(m["message"] for m in heard if m["type"] == "TextChunk") == turn.text


def test_listener_that_fails_changes_nothing(org, client, session, caplog):
    turn = client.send_message(session, "hello", stream=True, on_chunk=lambda _: 1 / 0)
    assert (turn.outcome, org.applied("hello")) == ("answered", 1)
    assert "on_chunk failed" in caplog.text


# The word before the first byte


def test_each_key_of_a_start_is_named_before_it_is_sent(org, client):
    named = []
    org.fail("start", drop=True)
    session = client.start_session(before_send=lambda key: named.append((key, org.count("start"))))
    (first, _), (second, sent_before) = named
    assert first != second == session.external_session_key
    assert (sent_before, org.count("start")) == (1, 2)


@pytest.mark.parametrize("operation", ["start", "send"])
def test_word_before_sending_is_given_once_however_often_is_sent(org, client, session, operation):
    told = []
    before = org.count(operation)
    org.fail(operation, status=429, times=2)

    def note():
        told.append(org.count(operation))

    if operation == "start":
        client.start_session(before_send=lambda _key: note())
    else:
        client.send_message(session, "hello", before_send=lambda _key: note())
    assert (told, org.count(operation)) == ([before], before + 3)


def test_word_before_sending_that_fails_sends_nothing(org, client, session):
    before = len(org.requests)
    with pytest.raises(ZeroDivisionError):
        client.send_message(session, "hello", before_send=lambda _key: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        client.start_session(before_send=lambda _key: 1 / 0)
    assert len(org.requests) == before


def test_word_before_sending_is_not_given_when_nothing_can_be_sent(org, make_client, some_session):
    told = []
    client = make_client(org)
    org.fail("token", status=400)
    with pytest.raises(AgentforceError):
        client.send_message(some_session, "hello", before_send=lambda _key: told.append("no token"))
    reply = {"access_token": "t", "api_instance_url": "https://evil.example"}
    with wire.Server(wire.answering(wire.response(reply))) as server:
        other = make_client(host=server.url, api_url=None)
        with pytest.raises(AgentforceInputError):
            other.send_message(some_session, "hello", before_send=lambda _key: told.append("no host"))
        other.close()
    client.stop()
    with pytest.raises(TaskStoppedError):
        client.send_message(some_session, "hello", before_send=lambda _key: told.append("stopped"))
    assert told == []


# Errors travel


@pytest.mark.parametrize("name", [name for name in dir(exceptions) if name.endswith("Error")])
def test_every_error_survives_pickling(name):
    error = getattr(exceptions, name)(
        "It failed.",
        hint="Mend it.",
        operation="send",
        status=500,
        applied=None,
        retry_after=1.5,
        request_id="r",
        session_id="s",
        external_session_key="k",
        body="b",
    )
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
    assert isinstance(error, AgentforceError)
    assert str(error).startswith("It failed. Whether the agent acted cannot be known.")
    assert "Mend it." in str(error)


def test_error_with_a_partial_answer_survives_pickling(org, client, session):
    body = 'data: {"message":{"type":"TextChunk","message":"Half"}}\n\n'
    org.fail("send", body=body, content_type="text/event-stream")
    error = failing(client, "stream", session)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert copy.turn == error.turn
    assert copy.turn.text == "Half"


@pytest.mark.parametrize(
    "sent", [b"a\r\n  b", b"\x1b[31mred\x1b[0m", b"::group::\x08x", b"x" * 60_000, "é\u2028".encode()]
)
def test_request_id_of_a_server_cannot_break_the_line(org, make_client, some_session, sent):
    def behave(peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 403 Forbidden\r\nX-Request-ID: " + sent + b"\r\nContent-Length: 0\r\n\r\n")

    with wire.Server(behave) as server:
        error = failing(make_client(org, api_url=server.url), "send", some_session)
    assert str(error).isprintable()


# Secrets

SECRET = 'ca+na/ry "s3cr3t" =&%'
TOKEN = "eyJ0b2tlbg.Y2FuYXJ5/+=.c2ln"
NEW_TOKEN = "eyJ0b2tlbg.bmV3LWNhbmFyeQ.c2ln"


def leaky_org(status, headers, *, token_reply=None):
    """Build the behaviour of an org that repeats every secret it is told in everything it answers."""
    from airflow_provider_agentforce.redaction import forms  # noqa: PLC0415

    tokens = [TOKEN, NEW_TOKEN]

    def behave(peer):
        while (request := peer.read_request()) is not None:
            bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
            words = " ".join(sorted(forms(SECRET) | (forms(bearer) if bearer else set())))
            if request.target.endswith("/token") and token_reply is None:
                peer.send(wire.response({"access_token": tokens.pop(0), "token_type": "Bearer"}))
                continue
            echo = {name: value.format(bearer or SECRET) for name, value in headers.items()}
            body = {"error": f"Oops{words}", "message": words, "access_token": bearer}
            peer.send(wire.response(token_reply or body, status=status, headers=echo))

    return behave


def secret_forms(*secrets):
    from airflow_provider_agentforce.redaction import forms  # noqa: PLC0415

    return {form for secret in secrets for form in forms(secret)}


def leaks(text):
    # Base64 and URL forms cover each other's beginnings, so a plain search is enough.
    return sorted(form for form in secret_forms(SECRET, TOKEN, NEW_TOKEN) if form in text)


def everything_shown(error, caplog):
    logged = [
        f"{record.getMessage()} {record.args} {record.exc_text} {vars(record)}" for record in caplog.records
    ]
    chain = "".join(traceback.format_exception(error))
    return "\n".join([str(error), repr(error), repr(vars(error)), chain, *logged])


STATUSES = [302, 400, 401, 403, 404, 408, 409, 412, 415, 422, 423, 429, 500, 502, 503, 520]


# Each operation has its own way to an error; what the org says with which status is read in one place.
REFUSALS = sorted(
    {
        (operation, status)
        for operation in ("start", "send", "stream", "end", "feedback", "token")
        for status in (401, 500)
    }
    | {("send", status) for status in STATUSES}
)


@pytest.mark.parametrize(("operation", "status"), REFUSALS)
def test_no_secret_leaves_through_an_error_or_a_log(make_client, some_session, caplog, status, operation):
    caplog.set_level(logging.DEBUG)
    headers = {"X-Request-ID": "r-{0}", "Location": "https://{0}/", "Content-Type": "application/json"}
    behaviour = leaky_org(status, headers, token_reply=b"{}" if operation == "token" else None)
    if operation == "token":
        words = " ".join(secret_forms(SECRET, TOKEN))
        reply = {"error": words, "error_description": words}
        behaviour = wire.answering(wire.response(reply, status=status), last_again=True)
    with wire.Server(behaviour) as server:
        hurried = replace(QUICK, longest_wait=0.05)
        client = make_client(
            host=server.url, api_url=server.url, consumer_secret=SECRET, timeout=3, timing=hurried
        )
        try:
            error = failing(client, operation, some_session)
        finally:
            client.close()
    shown = everything_shown(error, caplog)
    if operation == "token":
        # A token that only the reply knows is no secret of ours; the one of the exchange is the key's.
        assert [form for form in secret_forms(SECRET) if form in shown] == []
    else:
        assert leaks(shown) == []


TOKEN_REPLIES = {
    "type that is no bearer": wire.response({"access_token": TOKEN, "token_type": "mac"}),
    "characters that no header takes": wire.response({"access_token": TOKEN + "\n"}),
    "cut": wire.response(b'{"access_token":"' + TOKEN.encode() + b'"', length=500),
    "half a JSON": wire.response(b'{"access_token":"' + TOKEN.encode() + b'",'),
    "list": wire.response([{"access_token": TOKEN}]),
}


@pytest.mark.parametrize("name", TOKEN_REPLIES)
def test_token_in_a_reply_that_is_no_use_is_not_shown(make_client, caplog, name):
    caplog.set_level(logging.DEBUG)

    def behave(peer):
        peer.read_request()
        peer.send(TOKEN_REPLIES[name])

    with wire.Server(behave) as server:
        error = failing(make_client(host=server.url, consumer_secret=SECRET), "token")
    assert isinstance(error, AgentforceTransientError)
    assert leaks(everything_shown(error, caplog)) == []


def test_token_that_was_replaced_meanwhile_is_not_shown(make_client, some_session, caplog):
    tokens, sends = [TOKEN, NEW_TOKEN], []
    renewed = threading.Event()

    def behave(peer):
        while (request := peer.read_request()) is not None:
            if request.target.endswith("/token"):
                peer.send(wire.response({"access_token": tokens.pop(0)}))
                continue
            sends.append(request)
            if len(sends) == 1:
                # Another thread renews the token before this refusal arrives.
                renewed.wait(10)
                words = {"message": f"{request.headers['authorization']} is not allowed"}
                peer.send(wire.response(words, status=403))
            elif len(sends) == 2:
                peer.send(wire.response({}, status=401))
            else:
                peer.send(wire.response({"messages": []}))
                renewed.set()

    with wire.Server(behave) as server:
        client = make_client(host=server.url, api_url=server.url, consumer_secret=SECRET)
        client.authenticate()
        errors = []
        thread = threading.Thread(target=lambda: errors.append(failing(client, "send", some_session)))
        thread.start()
        until("the first message is there", lambda: sends)
        client.send_message(replace(some_session, session_id="another"), "hello")
        thread.join(10)
        client.close()
    assert leaks(everything_shown(errors[0], caplog)) == []
    assert "is not allowed" in str(errors[0])


def test_on_secret_is_told_every_form_of_every_token(org, make_client):
    told = []
    client = make_client(org, on_secret=told.append)
    first = client.authenticate()[0].access_token
    session = client.start_session()
    org.revoke_tokens()
    client.send_message(session, "hello")
    second = client.authenticate()[0].access_token
    assert first != second
    assert set(told) == secret_forms(first, second)


def test_nothing_shows_a_secret_when_it_is_printed(make_client):
    events = []
    with wire.Server(wire.answering(wire.response({"access_token": TOKEN}), last_again=True)) as server:
        client = make_client(
            host=server.url,
            consumer_secret=SECRET,
            observers=[lambda begun: events.append(begun) or events.append],
        )
        reply, _ = client.authenticate()
        client.close()
    printed = " ".join(map(repr, [client.settings, reply, *events, vars(client)]))
    assert leaks(printed) == []
    assert re.search(r"Settings\(host=", printed)


def test_busy_session_is_named_in_the_error(org, make_client):
    client = make_client(org, timing=replace(QUICK, longest_wait=0.0))
    session = client.start_session()
    org.fail("send", status=423)
    error = failing(client, "send", session)
    assert type(error) is SessionBusyError
    assert session.session_id in str(error)
