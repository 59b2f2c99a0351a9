"""Tokens: one exchange for all threads, renewed in time, replaced once when refused, sent to nobody else."""

import base64
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import wire
from quick import QUICK
from telling import call, failing

from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceError,
    AgentforceInputError,
    AgentforceTransientError,
)


def jwt(**claims):
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'RS256'})}.{part(claims)}.c2ln"


def together(number, work):
    """Run *work* in threads that start at the same moment; return what they gave or raised."""
    barrier = threading.Barrier(number)
    results = [None] * number

    def run(index):
        barrier.wait(10)
        try:
            results[index] = work()
        except AgentforceError as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


@pytest.fixture
def restless():
    """Switch threads as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# Sharing


def test_many_threads_share_one_exchange(org, client, restless):
    sessions = together(25, client.start_session)
    assert len({session.session_id for session in sessions}) == 25
    assert (org.count("token"), org.count("start")) == (1, 25)


def test_many_threads_that_are_refused_together_share_one_renewal(org, client, restless):
    waiting = [client.start_session() for _ in range(25)]
    org.fail("send", status=401, times=25, delay=0.3)
    turns = together(25, lambda: client.send_message(waiting.pop(), "hello"))
    assert [turn.outcome for turn in turns] == ["answered"] * 25
    assert (org.count("token"), org.count("send"), org.applied("hello")) == (2, 50, 25)


def test_many_threads_whose_token_was_revoked_share_one_renewal(org, client, restless):
    waiting = [client.start_session() for _ in range(25)]
    org.revoke_tokens()
    together(25, lambda: client.send_message(waiting.pop(), "hello"))
    assert (org.count("token"), org.applied("hello")) == (2, 25)


def test_a_failure_of_the_one_exchange_is_shared_by_all_who_wait(make_client):
    waiting = threading.Semaphore(0)

    def stay_silent(peer):
        peer.read_request()
        waiting.release()
        peer.hang()

    with wire.Server(stay_silent) as server:
        client = make_client(host=server.url, timeout=1.0)
        errors = together(20, client.authenticate)
        client.close()
    assert {type(error) for error in errors} == {AgentforceTransientError}
    assert len({id(error) for error in errors}) == 20
    # Whoever comes while the exchange is under way takes part in it, so twenty threads wait as long as one.
    assert len(server.requests) == 2


def test_the_end_of_one_callers_time_does_not_fail_the_others(org, make_client):
    client = make_client(org, timeout=20.0)
    hold = org.hold("token")
    with ThreadPoolExecutor(2) as pool:
        hurried = pool.submit(failing, client.within(0.5), "token")
        hold.wait_until_held()
        patient = pool.submit(client.authenticate)
        assert type(hurried.result(10)) is AgentforceTransientError
        hold.wait_until_held(count=2)
        hold.release()
        patient.result(10)


# Times


class Clock:
    """A clock that stands still until a test moves it."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.mark.parametrize(
    ("lifetime", "surely_kept", "surely_renewed"),
    [(1800, 1800 - 91, 1800 - 59), (60, 60 - 23, 60 - 14), (4, 4 - 1.6, 4 - 0.9)],
)
def test_token_is_renewed_ahead_of_its_end(
    make_org, make_client, clock, lifetime, surely_kept, surely_renewed
):
    org = make_org(token_lifetime=lifetime)
    client = make_client(org, timing=replace(QUICK, clock=clock))
    client.authenticate()
    clock.now += surely_kept
    client.authenticate()
    assert org.count("token") == 1
    clock.now += surely_renewed - surely_kept
    client.authenticate()
    assert org.count("token") == 2


def test_token_that_tells_no_end_is_renewed_after_27_minutes(make_client, clock):
    server, client = token_client(
        make_client, {"access_token": "t", "token_type": "Bearer"}, timing=replace(QUICK, clock=clock)
    )
    with server:
        for now, requests in ((0, 1), (28 * 60 - 91, 1), (28 * 60 - 59, 2)):
            clock.now = 1000.0 + now
            client.authenticate()
            assert len(server.requests) == requests
        client.close()


def test_wall_clock_that_jumps_neither_ends_nor_revives_a_token(org, client, monkeypatch):
    real = time.time
    client.authenticate()
    for jump in (-10_000_000.0, 10_000_000.0):
        now = real() + jump
        monkeypatch.setattr(time, "time", lambda now=now: now)
        client.authenticate()
    assert org.count("token") == 1


def test_failed_early_renewal_keeps_a_token_that_lives(make_org, make_client, clock, caplog):
    org = make_org(token_lifetime=1800)
    client = make_client(org, timing=replace(QUICK, clock=clock))
    session = client.start_session()
    clock.now += 1750
    org.fail("token", status=503, times=3)
    assert client.send_message(session, "hello").outcome == "answered"
    assert "could not be renewed early" in caplog.text
    client.authenticate()
    assert (org.count("token"), org.unused_faults()) == (4, []), (
        "a service that is down is not asked again at once"
    )
    clock.now += 11
    client.authenticate()
    assert org.count("token") == 5


@pytest.mark.parametrize(
    ("later", "fault", "kind"),
    [
        (1801, {"status": 503, "times": 3}, AgentforceTransientError),
        (1750, {"error": "wrong_secret"}, AgentforceAuthError),
    ],
)
def test_failed_renewal_of_a_token_that_ended_and_a_refused_one_are_errors(
    make_org, make_client, clock, later, fault, kind
):
    org = make_org(token_lifetime=1800)
    client = make_client(org, timing=replace(QUICK, clock=clock))
    client.authenticate()
    clock.now += later
    org.fail("token", **fault)
    assert type(failing(client, "token")) is kind


# Refusals


def test_token_that_is_refused_twice_ends_after_two_sends_and_two_exchanges(org, client, session):
    org.fail("send", status=401, times=2)
    error = failing(client, "send", session)
    assert (type(error), error.applied, error.status) == (AgentforceAuthError, False, 401)
    assert "scopes" in error.hint
    assert (org.count("send"), org.count("token")) == (2, 2)
    sends = [record for record in org.requests if record.operation == "send"]
    assert sends[0].headers["authorization"] != sends[1].headers["authorization"]
    assert sends[0].body == sends[1].body


FORMAT = {"status": 401, "body": [{"errorCode": "INVALID_JWT_FORMAT", "message": "Invalid JWT format"}]}


def test_token_call_that_is_refused_as_without_a_token_is_final(org, make_client):
    org.fail("token", **FORMAT)
    error = failing(make_client(org), "token")
    assert type(error) is AgentforceAuthError
    assert org.count("token") == 1


@pytest.mark.parametrize("operation", ["start", "send", "end", "query"])
def test_renewed_token_that_is_refused_for_its_format_is_renewed_once_more(org, make_client, operation):
    pauses = []
    timing = replace(QUICK, renewal_pause=lambda state: pauses.append(state.attempt_number) or 0.01)
    client = make_client(org, timing=timing)
    session = client.start_session()
    before = org.count(operation)
    org.fail(operation, times=2, **FORMAT)
    call(client, operation, session)
    assert (org.count(operation) - before, org.count("token"), pauses) == (3, 3, [2])


def test_rating_with_a_renewed_token_that_is_refused_for_its_format_arrives(org, client, session):
    answer = client.send_message(session, "hello")
    org.fail("feedback", times=2, **FORMAT)
    client.submit_feedback(answer, answer.feedback_id, "GOOD")
    assert (org.count("feedback"), org.count("token")) == (3, 3)


def test_token_that_stays_refused_for_its_format_is_left_to_a_later_try(org, client, session):
    org.fail("send", times=3, **FORMAT)
    error = failing(client, "send", session)
    assert (type(error), error.applied, error.retryable) == (AgentforceTransientError, False, True)
    assert (org.count("send"), org.count("token")) == (3, 3)


def test_revoked_token_is_replaced_and_the_message_delivered_once(org, client, session):
    org.revoke_tokens()
    assert client.send_message(session, "hello").sequence_id == 1
    assert (org.count("send"), org.count("token"), org.applied("hello")) == (2, 2, 1)


def test_app_that_is_not_attached_gets_no_new_token(org, client, session):
    org.fail("send", error="app_not_attached")
    error = failing(client, "send", session)
    assert "Connections tab" in error.hint
    assert (org.count("send"), org.count("token")) == (1, 1)


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        ("wrong_secret", "consumer secret"),
        ("wrong_key", "consumer key"),
        ("no_run_as_user", "Run As user"),
        ("wrong_domain", "My Domain"),
        ("wrong_grant_type", "Client Credentials Flow"),
        ("max_logins", "integration user"),
    ],
)
def test_refused_credentials_are_never_tried_again(org, client, fault, remedy):
    org.fail("token", error=fault)
    error = failing(client, "start")
    assert (type(error), error.operation, error.status) == (AgentforceAuthError, "token", 400)
    assert remedy in error.hint
    assert (org.count("token"), org.count("start")) == (1, 0)


def test_exchange_that_fails_for_a_while_is_tried_again(org, client):
    org.fail("token", status=500, times=2)
    client.start_session()
    assert (org.count("token"), org.count("start")) == (3, 1)


def test_message_whose_token_cannot_be_renewed_was_not_acted_on(org, client, session):
    org.revoke_tokens()
    org.fail("token", error="wrong_secret")
    error = failing(client, "send", session)
    assert (type(error), error.operation, error.applied) == (AgentforceAuthError, "token", False)
    assert org.applied() == 0


def test_exchange_sends_the_secret_in_a_form_and_nowhere_else(org, make_client):
    secret = "a+b/c d&e=%é"[:-1] + '"'
    client = make_client(org, consumer_secret=secret)
    error = failing(client, "token")
    assert type(error) is AgentforceAuthError
    request = org.requests[0]
    assert (request.method, request.path) == ("POST", "/services/oauth2/token")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert "authorization" not in request.headers
    assert "client_secret=a%2Bb%2Fc+d%26e%3D%25%22" in request.body
    assert secret not in request.body


# Replies


def token_client(make_client, reply, **settings):
    """Return a running server that gives one token reply to all, and a client of it."""
    server = wire.Server(wire.answering(wire.response(reply), last_again=True))
    return server, make_client(host=server.url, **settings)


def test_opaque_token_is_used_and_warned_of_once(make_client, caplog):
    server, client = token_client(make_client, {"access_token": "00D!opaque", "token_type": "Bearer"})
    with server:
        together(10, client.authenticate)
        client.close()
    assert len(server.requests) == 1
    assert caplog.text.count("The token is opaque") == 1


def test_opaque_token_that_the_gateway_answers_with_404_is_explained(make_org, make_client):
    org = make_org(opaque_tokens=True)
    error = failing(make_client(org), "start")
    assert (error.status, error.applied) == (404, False)
    assert "Issue JSON Web Token" in error.hint


BAD_HOSTS = [
    "https://evil.example",
    "https://api.salesforce.com.evil.example",
    "https://api.salesforce.com@evil.example",
    "https://evil.example/api.salesforce.com",
    "https://evilsalesforce.com",
    "https://api.salesforce.com:8443",
    "https://api.salesforce.com.",
    "https://xn--slesforce-v4a.com",
    "https://ąpi.salesforce.com",
    "http://api.salesforce.com",
    "http://127.0.0.1:9",
    "https://127.0.0.1",
    "https://api.salesforce.com\\@evil.example",
    "https://api.salesforce.com\r\nX: 1",
    "file:///etc/passwd",
    "//evil.example",
]


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_api_host_that_is_not_salesforce_is_refused_and_the_token_goes_nowhere(make_client, host):
    reply = {"access_token": jwt(exp=10), "api_instance_url": host}
    server, client = token_client(make_client, reply, api_url=None)
    with server:
        error = failing(client, "start")
        client.close()
    assert type(error) is AgentforceInputError
    assert "api_instance_url" in str(error) or "api_url" in str(error)
    assert [request.target for request in server.requests] == ["/services/oauth2/token"]


@pytest.mark.parametrize(
    "host", ["https://api.salesforce.com", "https://api.gov.salesforce.com/", "API.Salesforce.com"]
)
def test_api_host_of_salesforce_is_taken_from_the_reply(make_client, host):
    reply = {"access_token": jwt(exp=10), "api_instance_url": host}
    server, client = token_client(make_client, reply, api_url=None)
    with server:
        assert client.authenticate()[1] in {"https://api.salesforce.com", "https://api.gov.salesforce.com"}
        client.close()


@pytest.mark.parametrize("named", [None, "", 7])
def test_api_host_that_the_reply_does_not_tell_is_the_default(make_client, named):
    server, client = token_client(make_client, {"access_token": "t", "api_instance_url": named}, api_url=None)
    with server:
        assert client.authenticate()[1] == "https://api.salesforce.com"
        client.close()


def test_api_host_of_the_settings_wins(make_client):
    reply = {"access_token": "t", "api_instance_url": "https://evil.example"}
    server, client = token_client(make_client, reply, api_url="https://gateway.acme.example:8443")
    with server:
        assert client.authenticate()[1] == "https://gateway.acme.example:8443"
        client.close()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>login</html>",
        {"access_token": ""},
        {"access_token": None},
        {"access_token": "a b"},
        {"access_token": "a\r\nX: 1"},
        {"access_token": "é"},
        {"access_token": "t", "token_type": "mac"},
    ],
)
def test_token_reply_that_is_no_use_is_asked_for_twice(make_client, body):
    server, client = token_client(make_client, body)
    with server:
        error = failing(client, "token")
        client.close()
    assert (type(error), error.status) == (AgentforceTransientError, 200)
    assert len(server.requests) == 2
