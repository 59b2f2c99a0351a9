"""Observers are shown every call, and cannot change what becomes of it."""

import contextlib
import gc
import threading
import weakref

import pytest

from airflow_provider_agentforce.exceptions import AgentforceRequestError, DeliveryUnknownError


class Notebook:
    """Notes every call, as it is when it begins and when it has ended."""

    def __init__(self):
        self.begun, self.ended, self.errors = [], [], []

    def __call__(self, call):
        self.begun.append((call.operation, call.agent_id, call.session_id, call.sequence_id, call.text))
        return lambda ended: (self.ended.append(ended), self.errors.append(ended.error))


@pytest.fixture
def notebook():
    return Notebook()


@pytest.fixture
def watched(org, make_client, notebook):
    return make_client(org, observers=[notebook])


def raising(error):
    """Make an observer whose end raises."""

    def begin(_call):
        def end(_ended):
            raise error

        return end

    return begin


def only_for(operation, observer):
    return lambda call: observer(call) if call.operation == operation else lambda _ended: None


def test_an_observer_is_shown_every_call_with_what_it_concerns(org, watched, notebook):
    with watched.conversation() as chat:
        turn = chat.send("order 4711?")
        watched.submit_feedback(turn, turn.feedback_id, "GOOD")
    agent, session = org.agent_id, turn.session_id
    assert notebook.begun == [
        ("start", agent, None, None, None),
        ("token", None, None, None, None),
        ("send", agent, session, 1, "order 4711?"),
        ("feedback", None, session, None, None),
        ("end", agent, session, None, None),
    ]
    by_operation = {call.operation: call for call in notebook.ended}
    sent = by_operation["send"]
    assert (sent.outcome, sent.answer, sent.api_url) == (turn.outcome, turn.text, org.url)
    assert (by_operation["start"].session_id, by_operation["end"].outcome) == (session, "ended")
    assert notebook.errors == [None] * 5


def test_an_observer_sees_every_repetition_and_why(org, watched, notebook):
    org.fail("send", status=429, headers={"Retry-After": "0"}, times=2)
    watched.send_message(watched.start_session(), "hello")
    sent = notebook.ended[-1]
    assert sent.repeated_after == ("throttled", "throttled")
    assert sent.attempts == 3


def test_an_observer_sees_the_error_of_the_caller(org, watched, notebook):
    session = watched.start_session()
    org.fail("send", status=500)
    with pytest.raises(DeliveryUnknownError) as caught:
        watched.send_message(session, "hello")
    seen = notebook.errors[-1]
    assert (type(seen), str(seen)) == (type(caught.value), str(caught.value))
    assert notebook.ended[-1].status == 500


@pytest.mark.parametrize("at", ["begin", "end"])
def test_an_observer_that_fails_changes_nothing_and_the_others_still_see(
    org, make_client, notebook, caplog, at
):
    def broken(_call):
        raise RuntimeError("secret words")

    client = make_client(
        org,
        observers=[notebook, broken if at == "begin" else raising(RuntimeError("secret words")), notebook],
    )
    with client.conversation() as chat:
        assert chat.send("hello").text
    assert len(notebook.ended) == 2 * len(org.requests)
    assert "RuntimeError" in caplog.text
    assert "secret words" not in caplog.text


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interruption_of_an_observer_does_not_hide_that_a_message_was_answered(
    org, make_client, interruption
):
    client = make_client(org, observers=[only_for("send", raising(interruption))])
    session = client.start_session()
    with pytest.raises(DeliveryUnknownError) as caught:
        client.send_message(session, "hello")
    assert caught.value.applied is True
    assert caught.value.turn.text
    assert caught.value.session_id == session.session_id
    assert caught.value.__cause__ is interruption


def test_an_interruption_of_an_observer_does_not_hide_an_unknown_delivery(org, make_client):
    client = make_client(org, observers=[only_for("send", raising(KeyboardInterrupt()))])
    session = client.start_session()
    org.fail("send", status=500)
    with pytest.raises(DeliveryUnknownError) as caught:
        client.send_message(session, "hello")
    assert (caught.value.applied, caught.value.status) == (None, 500)


def test_an_interruption_where_nothing_is_lost_is_passed_on(org, make_client):
    client = make_client(org, observers=[only_for("end", raising(KeyboardInterrupt()))])
    session = client.start_session()
    with pytest.raises(KeyboardInterrupt):
        client.end_session(session)


def test_an_interruption_after_a_message_that_was_refused_is_passed_on(org, make_client):
    client = make_client(org, observers=[only_for("send", raising(KeyboardInterrupt()))])
    session = client.start_session()
    org.fail("send", status=400)
    with pytest.raises(KeyboardInterrupt):
        client.send_message(session, "hello")


def test_a_call_that_failed_is_forgotten_with_its_error(org, make_client):
    seen = []
    client = make_client(
        org, observers=[only_for("send", lambda _call: lambda ended: seen.append(weakref.ref(ended)))]
    )
    session = client.start_session()
    org.fail("send", status=400)
    gc.disable()
    try:
        with contextlib.suppress(AgentforceRequestError):
            client.send_message(session, "hello")
        (call,) = seen
        assert call() is None
    finally:
        gc.enable()


def test_calls_of_many_threads_are_seen_apart(org, make_client, notebook):
    client = make_client(org, observers=[notebook])
    client.authenticate()

    def talk(number):
        with client.conversation() as chat:
            chat.send(f"message {number}")

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    sends = [call for call in notebook.ended if call.operation == "send"]
    assert sorted(call.text for call in sends) == sorted(f"message {number}" for number in range(20))
    assert len({call.session_id for call in sends}) == 20
