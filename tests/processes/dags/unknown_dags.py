"""Dags whose messages lose their replies, and that find out what became of them."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone

import requests
from airflow.sdk import DAG
from process_dags import gate

from airflow_provider_agentforce.delivery import Ask, Check, Trace
from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
)

SETTINGS = {
    "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc),
    "default_args": {"retries": 1, "retry_delay": timedelta(seconds=1)},
}
# Each time it is rendered, it is another text.
CHANGE = "change {{ macros.uuid.uuid4() }}"


def acted(delivery):
    """Look into the org as one looks into a CRM."""
    url = json.loads(os.environ["AIRFLOW_CONN_AGENTFORCE_DEFAULT"])["host"]
    sessions = requests.get(f"{url}/emulator/sessions", timeout=5).json()["sessions"]
    texts = [turn["text"] for session in sessions for turn in session["turns"]]
    return delivery.text in texts


def stop(_context):
    """Stop where a notifier is called: the question is asked, and the task does not wait yet."""
    gate("asking")


def talking(steps, messages=(CHANGE,), **more):
    """Make a task that holds a conversation."""
    return ConversationOperator(task_id="talk", messages=list(messages), on_unknown_delivery=steps, **more)


def talk(dag_id, steps, messages=(CHANGE,)):
    """Make a Dag that holds a conversation."""
    with DAG(dag_id, schedule=None, **SETTINGS):
        talking(steps, messages)


def batch(steps, name, **more):
    """Make a task that asks about four records."""
    return ConversationBatchOperator(
        task_id="batch",
        records=[{"id": f"A{number}"} for number in range(4)],
        key="id",
        message="record {{ record.id }}",
        result_path=f"file://{os.environ['AIRFLOW_HOME']}/results/{name}/{{{{ ti.run_id }}}}",
        max_concurrency=1,
        on_unknown_delivery=steps,
        **more,
    )


talk("talk_asks", "ask")
talk("talk_asks_in_time", Ask(timeout=timedelta(seconds=3)))
talk("talk_asks_twice", "ask", ["one", "two"])
talk("talk_asks_stopping", Ask(notifiers=[stop]))
# Its first pause is longer than what a task waits in its slot.
LOOKS = Trace(timeout=timedelta(minutes=4))
talk("talk_looks", LOOKS, ["change it"])
talk("talk_checks_later", Check(acted, after=timedelta(seconds=12)))

with DAG("shared_asks", schedule=None, **SETTINGS):
    start = StartSessionOperator(task_id="start")
    send = SendMessageOperator(task_id="send", session=start.output, text=CHANGE, on_unknown_delivery="ask")
    after = SendMessageOperator(task_id="after", session=send.output, text="after it")
    end = EndSessionOperator(task_id="end", session=start.output)
    start >> send >> after >> end.as_teardown(setups=start)

with DAG("batch_asks", schedule=None, **SETTINGS):
    batch("ask", "batch_asks")

# Two tasks that have one slot for both, of which the first one waits.
FIRST = {"pool": "one_slot", "priority_weight": 2}
WAITING = {
    "one_slot_asks": lambda: talking("ask", **FIRST),
    "one_slot_looks": lambda: talking(LOOKS, **FIRST),
    "one_slot_batch": lambda: batch(LOOKS, "one_slot_batch", **FIRST),
}
for dag_id, first in WAITING.items():
    with DAG(dag_id, schedule=None, **SETTINGS) as dag:
        first()
        ConversationOperator(task_id="other", messages=["meanwhile"], pool="one_slot")
    globals()[dag_id] = dag
