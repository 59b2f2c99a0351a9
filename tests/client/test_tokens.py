"""Tokens: one exchange for all threads, renewed in time, replaced once when refused, sent to nobody else."""

import base64
import json
import sys
import threading
import time
from dataclasses import replace

import pytest
import wire
from telling import failing

from airflow_provider_agentforce.client import responses, tokens
from airflow_provider_agentforce.client.tokens import TokenCache
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


def test_rounds_of_refusals_never_ask_twice(restless):
    made = []

    def fetch():
        time.sleep(0.0005)
        made.append(None)
        return responses.TokenReply(f"t{len(made)}", 1000.0, None, None, None, is_jwt=False)

    cache = TokenCache(fetch)
    for number in range(1, 101):
        refused = cache.get()
        got = together(8, lambda refused=refused: cache.replace(refused).value)
        assert set(got) == {f"t{number + 1}"}


# Times


def test_token_is_renewed_ahead_of_its_end(make_org, make_client):
    org = make_org(token_lifetime=2, latency=0.1)
    client = make_client(org)
    with client.conversation() as chat:
        end = time.monotonic() + 4.2
        while time.monotonic() < end:
            chat.send("hello")
    assert 3 <= org.count("token") <= 5
    assert {request.status for request in org.requests} == {200}
    used = {r.headers["authorization"] for r in org.requests if r.operation == "send"}
    assert len(used) in {org.count("token"), org.count("token") - 1}  # the last may serve the end alone


@pytest.mark.parametrize(
    ("lifetime", "earliest", "latest"),
    [
        (1800.0, 1800 - 90, 1800 - 60),
        (None, 28 * 60 - 90, 28 * 60 - 60),
        (60.0, 60 - 22.5, 45),
        (2.0, 2 - 0.75, 1.5),
        (0.0, 0, 0),
    ],
)
def test_renewal_leaves_room_and_most_of_the_life(lifetime, earliest, latest):
    cache = TokenCache(lambda: responses.TokenReply("t", lifetime, None, None, None, is_jwt=True))
    for _ in range(20):
        before = time.monotonic()
        token = cache.replace(cache.get())
        assert earliest <= token.renew_at - before <= latest + 0.1
        assert token.ends_at - before >= (28 * 60 if lifetime is None else lifetime)


def test_wall_clock_that_jumps_neither_ends_nor_revives_a_token(org, client, monkeypatch):
    real = time.time
    client.authenticate()
    for jump in (-10_000_000.0, 10_000_000.0):
        now = real() + jump
        monkeypatch.setattr(time, "time", lambda now=now: now)
        client.authenticate()
    assert org.count("token") == 1
    client._caller.tokens.replace(client._caller.tokens.current)
    token = client._caller.tokens.current
    assert 1700 < token.ends_at - time.monotonic() <= 1800


def short_lived(seconds_to_renewal, seconds_to_end):
    """Return a cache with one token, and the switch that makes its next exchange fail."""
    answers = []

    def fetch():
        if answers:
            raise answers[0]
        return responses.TokenReply("old", 1000.0, None, None, None, is_jwt=True)

    cache = TokenCache(fetch)
    now = time.monotonic()
    reply = cache.get().reply
    cache._held.token = tokens.Token(reply, now + seconds_to_renewal, now + seconds_to_end)
    return cache, answers


def test_failed_early_renewal_keeps_a_token_that_lives(caplog):
    cache, answers = short_lived(-1, 100)
    answers.append(AgentforceTransientError("Down."))
    assert cache.get().value == "old"
    assert "could not be renewed early" in caplog.text
    caplog.clear()
    assert cache.get().value == "old"
    assert caplog.text == "", "a service that is down is not asked again at once"
    answers.clear()
    cache._held.token = replace(cache.current, renew_at=time.monotonic())
    cache.get()
    assert cache.current.renew_at > time.monotonic() + 800


def test_failed_renewal_of_a_token_that_ended_is_an_error():
    cache, answers = short_lived(-2, -1)
    answers.append(AgentforceTransientError("Down."))
    with pytest.raises(AgentforceTransientError, match="Down"):
        cache.get()


def test_refused_early_renewal_is_an_error():
    cache, answers = short_lived(-1, 100)
    answers.append(AgentforceAuthError("The app is gone."))
    with pytest.raises(AgentforceAuthError, match="gone"):
        cache.get()


def test_failed_early_renewal_still_sends_the_message(make_org, make_client):
    org = make_org(token_lifetime=4)
    client = make_client(org)
    session = client.start_session()
    cache = client._caller.tokens
    cache._held.token = replace(cache.current, renew_at=time.monotonic())
    org.fail("token", status=503, times=3)
    assert client.send_message(session, "hello").outcome == "answered"
    assert (org.count("token"), org.unused_faults()) == (4, [])


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
