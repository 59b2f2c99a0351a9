"""Tasks whose messages are lost, what the agent did with them, and a person who decides."""

from __future__ import annotations

import json
import signal
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial

import urllib3
from stand_ins import Task, chosen

from airflow_provider_agentforce._compat import AirflowTaskTimeout, waits
from airflow_provider_agentforce.delivery import Trace
from airflow_provider_agentforce.exceptions import DeliveryUnknownError
from airflow_provider_agentforce.hooks.agentforce import AgentforceHook
from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    SendMessageOperator,
    StartSessionOperator,
)

HEARD = "I am the emulator's agent and heard: change it"
ACTED = {"drop": True, "after": True}
DID_NOT_ACT = {"drop": True}
NOW = Trace(timeout=timedelta(0))
SOON = Trace(timeout=timedelta(seconds=3))
DONE, NOT_DONE = "It was done", "It was not: send it"


class Org:
    """The emulator, and a function that looks into it as a Dag's author looks into a CRM."""

    def __init__(self, org):
        self.org = org
        self.seen = []

    def looks(self, delivery):
        self.seen.append(delivery)
        return self.actions(delivery.text) > 0

    def actions(self, text):
        # Over HTTP, as a process that is to be killed has only a copy of the emulator.
        sessions = urllib3.request("GET", f"{self.org.url}/emulator/sessions").json()["sessions"]
        turns = [turn for one in sessions for turn in one["turns"]]
        return sum(turn["applied"] for turn in turns if turn["text"] == text)

    def looks_and_forgets(self, delivery):
        self.seen.append(delivery)

    def sends(self):
        return self.org.count("send")


def trace(text, answer=None, *, more=""):
    """Return the body of a trace with a message and its answer, as the org writes it a minute from now."""
    said = {"agent.messages.user.0.content": text, "agent.messages.assistant.1.content": answer}
    told = [{"key": key, "value": {"stringValue": one}} for key, one in said.items() if one is not None]
    other = [{"key": "input.value", "value": {"stringValue": more}}]
    at = str(time.time_ns() + 60 * 10**9)
    times = {"startTimeUnixNano": at, "endTimeUnixNano": at}
    spans = [{"spanId": str(n), **times, "attributes": one} for n, one in enumerate((told, other))]
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode()


@contextmanager
def time_is_up():
    """Have SIGUSR1 raise what Airflow raises when the time of a task is up."""

    def interrupt(*_):
        raise AirflowTaskTimeout

    previous = signal.signal(signal.SIGUSR1, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, previous)


def cannot_tell(_delivery):
    return None


def use_up(org):
    """Lose another message, in the place of one that never left."""
    # It may have been on its way after all.
    with AgentforceHook().conversation() as chat, suppress(DeliveryUnknownError):
        chat.send("another")
    assert org.unused_faults() == []


def sending(org, steps, text="change it", **more):
    session = Task(StartSessionOperator).run()
    return Task(SendMessageOperator, session=session, text=text, on_unknown_delivery=steps, **more)


def talking(org, steps, text="change it", **more):
    return Task(ConversationOperator, on_unknown_delivery=steps, **{"messages": [text], **more})


def accounts(number):
    return [{"id": f"A{index}"} for index in range(number)]


def batch_task(folder, steps, **more):
    arguments = {"records": accounts(3), "key": "id", "message": "change {{ record.id }}", **more}
    result_path = f"file://{folder}/results"
    return Task(
        ConversationBatchOperator,
        result_path=result_path,
        on_unknown_delivery=steps,
        max_concurrency=1,
        **arguments,
    )


def until_decided(task, actions, option=lambda: DONE, **answer):
    """Run a task until it ends, as Airflow does; a person chooses *option* when the question is there."""
    go = task.run
    while callable(go):
        go = part_of(go, task, actions, lambda: chosen(option(), **answer))
    return go


def part_of(go, task, actions, decision):
    """Run a part of a try up to its next wait; return how it goes on, or its result."""
    try:
        return go()
    except waits() as error:
        wait = error
    # The trigger fails if there is no question.
    looks = type(wait).__name__ == "TaskDeferred"
    fails = looks and not actions.asked
    assert wait.timeout is not None or not looks
    assert fails or actions.asked, "it waits for an answer to what it did not ask"
    if fails:
        return partial(task.resume, wait, error="Trigger failure")
    return partial(task.resume, wait, decision())
