"""A child that is forked while other threads of its parent are at work hangs on none of their locks."""

import os
import threading

import pytest
import wire

from airflow_provider_agentforce.client import Session
from airflow_provider_agentforce.client.concurrency_limiter import ConcurrencyLimiter
from airflow_provider_agentforce.client.open_session import OpenSession
from airflow_provider_agentforce.exceptions import AgentforceInputError

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


def in_child(function):
    """Run *function* in a forked child that ends itself after 20 s; tell whether it held."""
    child = os.fork()
    if child == 0:
        threading.Timer(20, os._exit, [3]).start()
        code = 1
        try:
            code = 0 if function() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class HoldingClock:
    """Holds up the thread that reads it while it holds the limiter's lock."""

    def __init__(self):
        self.held = threading.Event()
        self.go_on = threading.Event()
        self.thread = None

    def __call__(self):
        if threading.current_thread() is self.thread:
            self.held.set()
            self.go_on.wait(30)
        return 1000.0


def test_child_takes_slots_while_a_thread_of_its_parent_holds_the_limiters_lock():
    clock = HoldingClock()
    limiter = ConcurrencyLimiter(clock)
    limiter.started(limiter.acquire(most_open=1, most_per_hour=10), "of the parent")
    clock.thread = threading.Thread(target=limiter.paused_for, args=[10])
    clock.thread.start()
    assert clock.held.wait(10)

    def takes_and_frees():
        # The parent's session is open for ever, as seen from here.
        limiter.started(limiter.acquire(most_open=1, most_per_hour=10), "of the child")
        limiter.ended("of the child")
        return limiter.open_sessions == 0

    assert in_child(takes_and_frees)
    clock.go_on.set()
    clock.thread.join()
    assert limiter.open_sessions == 1


def test_child_neither_waits_for_its_parents_message_nor_sends_after_it(org, make_client):
    arrived, answer = threading.Event(), threading.Event()

    def behave(peer):
        while (request := peer.read_request()) is not None:
            if request.method == "POST":
                arrived.set()
                answer.wait(30)
            peer.send(wire.response({"messages": [{"type": "Inform", "message": "Done."}]}))

    with wire.Server(behave) as server:
        client = make_client(org, api_url=server.url)
        held = OpenSession(client, Session("019d0aac-dcd0-7368-936c-106bffe75e84"))
        turns = []
        sending = threading.Thread(target=lambda: turns.append(held.send("Book it.")))
        sending.start()
        assert arrived.wait(10)

        def is_in_doubt_and_ends_it_only_when_asked_to():
            with pytest.raises(AgentforceInputError, match="last message is unknown"):
                held.send("And now?")
            return not held.end_quietly() and held.end()

        assert in_child(is_in_doubt_and_ends_it_only_when_asked_to)
        answer.set()
        sending.join()
        assert [turn.text for turn in turns] == ["Done."]
        client.close()
