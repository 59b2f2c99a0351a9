"""What every error has to be, whatever it is about."""

import pickle

import pytest
from quick import secrets_of

from airflow_provider_agentforce.exceptions import AgentforceError

FEEDBACK_ID = "f8308c08-5c63-479f-af71-c1e80ccdb166"
OPERATIONS = ("token", "start", "send", "stream", "end", "feedback", "query", "session_trace")


def call(client, operation, session=None):
    """Carry out one operation."""
    calls = {
        "token": client.authenticate,
        "start": client.start_session,
        "end": lambda: client.end_session(session),
        "feedback": lambda: client.submit_feedback(session, FEEDBACK_ID, "GOOD"),
        "query": lambda: client.agent("Service_Agent"),
        "session_trace": lambda: client.get_session_trace(session),
        "send": lambda: client.send_message(session, "hello"),
        "stream": lambda: client.send_message(session, "hello", stream=True),
    }
    return calls[operation]()


def counted_as(operation):
    return "send" if operation == "stream" else operation


def share_token(client, other):
    """Let *other*, whose host issues no token, use that of *client*."""
    other._tokens._cache = client._tokens._cache


def aim(make_client, org, operation, url, **settings):
    """Return a client whose *operation* goes to *url*, and everything else to the org."""
    if operation in {"query", "session_trace"}:
        # The org's host serves it, and the token too, which is therefore at hand.
        client, other = make_client(org, host=url, **settings), make_client(org)
        other.authenticate()
        share_token(other, client)
        return client
    where = {"host": url} if operation == "token" else {"api_url": url}
    return make_client(org, **where, **settings)


def failing(client, operation, session=None):
    """Carry out one operation that fails, and return its error after looking it over."""
    with pytest.raises(AgentforceError) as caught:
        call(client, operation, session)
    error = caught.value
    look_over(error, client)
    return error


def look_over(error, client):
    """Check what holds for every error: one printable line, no secret, and the same after pickling."""
    told = str(error)
    assert told.isprintable()
    assert 10 < len(told) < 900
    assert error.what.endswith(".")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(copy), str(copy), copy.cause) == (type(error), told, error.cause)
    assert vars(copy) == {**vars(error), "_cause": error.cause}
    settings = client.settings
    hidden = settings.secret_forms() | secrets_of(client)
    shown = f"{told} {error!r} {vars(error)!r}"
    assert [form for form in hidden if form in shown] == []
