"""Lose two replies on purpose: the agent acts on one message and not on the other; both tasks succeed."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from airflow_provider_agentforce.delivery import Check, Trace, UnknownDelivery
from airflow_provider_agentforce.operators import ConversationOperator

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

with DAG(
    dag_id="example_agentforce_unknown_delivery",
    description=__doc__,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    catchup=False,
    tags=["agentforce", "example"],
):

    def org() -> str:
        """Return the address of the org."""
        from airflow_provider_agentforce.hooks.agentforce import AgentforceHook  # noqa: PLC0415

        return AgentforceHook().settings.host

    @task
    def lose_a_reply(*, acted: bool) -> bool:
        """Have the emulator lose the next message or its reply; return whether this org is the emulator."""
        fault = {"operation": "send", "drop": True, "after": acted}
        try:
            with urlopen(Request(f"{org()}/emulator/faults", json.dumps(fault).encode()), timeout=10):  # noqa: S310
                return True
        except HTTPError:
            return False

    def was_noted(delivery: UnknownDelivery) -> bool:
        """Look at the emulator's page. With your own org, query the record that the message was to change."""
        with urlopen(f"{org()}/emulator/sessions", timeout=10) as answer:  # noqa: S310 - of our own connection
            sessions = json.load(answer)["sessions"]
        turns = [
            turn for one in sessions for turn in one["turns"] if one["session_id"] == delivery.session_id
        ]
        return any(turn["text"] == delivery.text for turn in turns)

    # [START steps]
    # The reply is lost, and the answer comes back from the org's own trace.
    status = ConversationOperator(
        task_id="status",
        messages=["What is the status of order 4711?"],
        on_unknown_delivery=Trace(timeout=timedelta(hours=1)),
    )

    # The message is lost. A function finds that out, and it is sent again, once.
    note = ConversationOperator(
        task_id="note",
        messages=["Please note that order 4712 is urgent."],
        on_unknown_delivery=[Check(was_noted, after=timedelta(seconds=1)), "trace"],
    )
    # [END steps]

    @task
    def report(*answers: dict) -> list:
        """Return how each delivery was resolved."""
        return [answer["turns"][0]["resolution"] for answer in answers]

    first, second = lose_a_reply(acted=True), lose_a_reply(acted=False)
    first >> status >> second >> note
    report(status.output, note.output)
