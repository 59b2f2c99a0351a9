"""A signal handler may raise at any line of the client. What the agent did is never hidden."""

import itertools
import sys
from contextlib import contextmanager

import pytest

from airflow_provider_agentforce.client import client, executor
from airflow_provider_agentforce.emulator import Emulator
from airflow_provider_agentforce.exceptions import AgentforceError, DeliveryUnknownError, TaskStoppedError

FILES = {client.__file__, executor.__file__}


class Interrupted(BaseException):
    """Raised by a signal handler, as Airflow's timeouts are."""


@contextmanager
def interrupted_at(number):
    """Raise before the line with this *number*, counted from 1, of those that the client runs."""
    ran = 0

    def trace(frame, event, _):
        nonlocal ran
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            ran += 1
            if ran == number:
                raise Interrupted
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def interruptions_of(call):
    """Interrupt each line of *call* in turn, and yield the errors."""
    for number in itertools.count(1):
        try:
            with interrupted_at(number):
                call()
        except (Interrupted, AgentforceError) as error:  # noqa: PERF203
            yield error
        else:
            return


@pytest.fixture(scope="module")
def patient_org():
    with Emulator(max_messages_per_session=1000) as org:
        yield org


@pytest.fixture
def agentforce(patient_org, make_client):
    # With a single slot, one that is not freed makes the next start fail.
    return make_client(patient_org, max_concurrent_sessions=1)


def test_a_message_that_the_agent_received_is_not_called_unsent(patient_org, agentforce):
    session, kinds = agentforce.start_session(), set()
    agentforce.send_message(session, "hello")
    received = 1
    for error in interruptions_of(lambda: agentforce.send_message(session, "hello")):
        arrived = patient_org.count("send") - received
        received += arrived
        kinds.add((arrived, type(error), getattr(error, "applied", None)))
    assert kinds == {(0, Interrupted, None), (1, DeliveryUnknownError, True)}
    agentforce.end_session(session)


def test_a_session_that_has_started_is_ended_and_frees_its_slot(patient_org, agentforce):
    agentforce.end_session(agentforce.start_session())
    kinds = set()
    for error in interruptions_of(agentforce.start_session):
        kinds.add(type(error))
        assert patient_org.open_sessions == []
    assert kinds == {Interrupted, TaskStoppedError}
