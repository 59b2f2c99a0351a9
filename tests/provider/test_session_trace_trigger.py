"""The trigger that waits for the org's own trace: in an event loop, against an org."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from airflow.triggers.base import BaseTrigger
from unknown_deliveries import trace

from airflow_provider_agentforce.client.trace_lookup import NO_KIND, first_pause, next_pause
from airflow_provider_agentforce.hooks import agentforce
from airflow_provider_agentforce.triggers.session_trace import SessionTraceTrigger

TEXT = "Where's order 123?"


@pytest.fixture
def make_trigger(make_org, make_client, monkeypatch):
    """Lose a reply in an org, and return the org and a trigger that looks for the message."""

    def make(text=TEXT, *, seconds=60.0, conn_id="agentforce_default", **settings):
        org = make_org(**settings)
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection())
        client = make_client(org)
        session = client.start_session()
        sent = time.time()
        client.send_message(session, TEXT)
        trigger = SessionTraceTrigger(
            agentforce_conn_id=conn_id,
            session_id=session.session_id,
            text=text,
            position=1,
            sent_at=sent,
            end_time=time.time() + seconds,
            poll_interval=0.05,
        )
        return org, trigger

    return make


async def events(trigger):
    return [event.payload async for event in trigger.run()]


def only_event(trigger):
    [event] = asyncio.run(events(trigger))
    assert json.loads(json.dumps(event)) == event
    return event


def test_a_message_that_arrived_is_found_with_its_answer(make_trigger):
    org, trigger = make_trigger()
    event = only_event(trigger)
    [turn] = org.sessions[trigger.session_id].turns
    assert event == {
        "status": "found",
        "answer": turn.messages[0]["message"],
        "complete": True,
        "note": f"The message and its answer are in the trace of its session. {NO_KIND}",
        "session_id": trigger.session_id,
        "position": 1,
    }


def test_it_looks_until_the_answer_is_complete(make_trigger):
    org, trigger = make_trigger(trace_delay=1.0)
    assert only_event(trigger)["complete"] is True
    answers = [one.status for one in org.requests if one.operation == "session_trace"]
    assert answers[0] == 404
    assert answers[-1] == 200
    assert len(answers) > 2


def test_it_may_run_twice_and_comes_back_from_its_arguments(make_trigger):
    _, trigger = make_trigger()
    path, arguments = trigger.serialize()
    assert path == "airflow_provider_agentforce.triggers.session_trace.SessionTraceTrigger"
    assert json.loads(json.dumps(arguments)) == arguments
    again = SessionTraceTrigger(**arguments)
    assert isinstance(again, BaseTrigger)
    assert again.serialize() == trigger.serialize()
    assert only_event(again) == only_event(trigger)


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"trace_without": TEXT}, "not among the 0 messages"),
        ({"trace_delay": 3600}, "HTTP 404"),
        ({"session_tracing": "missing"}, "Agentforce Session Tracing"),
    ],
)
def test_at_the_end_of_the_time_it_says_what_it_saw(make_trigger, settings, note):
    org, trigger = make_trigger(seconds=0.3, **settings)
    event = only_event(trigger)
    assert (event["status"], event["answer"]) == ("not_found", None)
    assert note in event["note"]
    assert time.time() >= trigger.end_time
    assert org.requests[-1].at >= trigger.end_time


def test_a_message_whose_answer_is_not_there_was_delivered(make_trigger):
    org, trigger = make_trigger(seconds=0.3, trace_delay=3600)
    session = org.sessions[trigger.session_id]
    session.started_at -= 4000
    session.turns[0].at -= 4000
    trigger.sent_at -= 4000
    session.turns[0].received_at -= 4000
    event = only_event(trigger)
    assert (event["status"], event["answer"], event["complete"]) == ("found", None, False)


@pytest.mark.parametrize("then", [{"trace_delay": 3600}, {"session_tracing": "forbidden"}])
def test_a_message_stays_delivered_when_its_trace_is_gone(make_trigger, then):
    org, trigger = make_trigger(seconds=0.3, **then)
    org.fail("session_trace", status=200, body=trace(TEXT), content_type="application/json")
    event = only_event(trigger)
    assert (event["status"], event["answer"], event["complete"]) == ("found", None, False)
    assert org.count("session_trace") > 1


@pytest.mark.parametrize(
    ("tracing", "note"),
    [("no_dataspace", "No data space"), ("no_feedback", "Audit and Feedback"), ("forbidden", "Setup >")],
)
def test_an_org_that_keeps_no_traces_is_asked_once(make_trigger, tracing, note):
    org, trigger = make_trigger(session_tracing=tracing)
    event = only_event(trigger)
    assert event["status"] == "not_found"
    assert note in event["note"]
    assert org.count("session_trace") == 1


def test_a_session_that_is_too_old_is_looked_up_once(make_trigger):
    org, trigger = make_trigger("another text")
    trigger.sent_at -= 72 * 3600 + 1
    assert "older than 72 hours" in only_event(trigger)["note"]
    assert org.count("session_trace") == 1


def test_an_org_that_is_away_for_a_while_is_asked_again(make_trigger):
    org, trigger = make_trigger()
    org.fail("session_trace", status=503, times=5)
    org.fail("token", status=500, times=3)
    assert only_event(trigger)["status"] == "found"


@pytest.mark.parametrize(
    ("conn_id", "problem"),
    [("no_such_connection", "it does not exist"), ("not_ours", "its type is http, not agentforce")],
)
def test_a_connection_that_cannot_be_used_is_named(make_trigger, monkeypatch, conn_id, problem):
    monkeypatch.setenv("AIRFLOW_CONN_NOT_OURS", "http://localhost")
    _, trigger = make_trigger(conn_id=conn_id)
    event = only_event(trigger)
    assert event["status"] == "not_found"
    why = f"Connection {conn_id}: {problem}"
    assert event["note"].startswith(f"The trace could not be looked up: {why}")


def test_its_secrets_are_masked(make_trigger, monkeypatch):
    masked = set()
    monkeypatch.setattr(agentforce, "mask_secret", masked.add)
    org, trigger = make_trigger()
    only_event(trigger)
    token = org.requests[-1].headers["authorization"].removeprefix("Bearer ")
    assert {org.consumer_secret, token} <= masked


def test_others_of_its_event_loop_go_on(make_trigger):
    org, trigger = make_trigger()

    async def beside():
        with org.hold("session_trace") as hold:
            looking = asyncio.create_task(events(trigger))
            await asyncio.to_thread(hold.wait_until_held, 30)
            # The call waits for the org, and this runs all the same.
            assert not looking.done()
        return await looking

    assert asyncio.run(beside())[0]["status"] == "found"


def test_a_call_under_way_ends_with_its_trigger(make_trigger):
    org, trigger = make_trigger()

    async def cancelled():
        looking = asyncio.create_task(events(trigger))
        await asyncio.to_thread(hold.wait_until_held, 30)
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking

    with org.hold("session_trace") as hold:
        # Comes back only when the thread of the call has ended, although the org still holds it.
        asyncio.run(cancelled())


def test_pauses_grow_up_to_five_minutes_and_are_short_when_the_time_is():
    assert first_pause(1800) == 30
    assert first_pause(10) == 0.5
    assert first_pause(-1) == 0
    pauses = [30.0]
    while pauses[-1] < 300:
        pauses.append(next_pause(pauses[-1]))
    assert pauses == [30, 60, 120, 240, 300]
