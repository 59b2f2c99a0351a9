"""Dags for the tests in this folder: each stops where a test wants to kill it."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

from airflow.sdk import DAG, BaseOperator

from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    SessionTraceOperator,
    StartSessionOperator,
)
from airflow_provider_agentforce.triggers.session_trace import SessionTraceTrigger

SETTINGS = {
    "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc),
    "default_args": {"retries": 1, "retry_delay": timedelta(seconds=1)},
}
LONGEST_S = 60


def gate(name):
    """Tell the test that the task is here, and go on when the test lets it."""
    folder = Path(os.environ["AGENTFORCE_GATES"])
    (folder / f"{name}.reached").touch()
    end = time.monotonic() + LONGEST_S
    while not (folder / f"{name}.open").exists():
        if time.monotonic() > end:
            raise TimeoutError(f"Nobody opened the gate {name}.")
        time.sleep(0.05)


class RecordedConversation(ConversationOperator):
    """Stops after the conversation, before Airflow hears of its end."""

    def execute(self, context):
        """Talk, then wait."""
        value = super().execute(context)
        gate("recorded")
        return value


class RecordedSend(SendMessageOperator):
    """Stops after the answer, before Airflow hears of its end."""

    def execute(self, context):
        """Send, then wait."""
        value = super().execute(context)
        gate("recorded")
        return value


class RecordedStart(StartSessionOperator):
    """Stops after the start, before Airflow hears of its end."""

    def execute(self, context):
        """Start, then wait."""
        value = super().execute(context)
        gate("recorded")
        return value


class LooksForAMessage(BaseOperator):
    """Waits for a message in the trace of its session."""

    template_fields = ("session_id",)

    def __init__(self, *, session_id, **kwargs):
        super().__init__(**kwargs)
        self.session_id = session_id

    def execute(self, context):
        """Wait in the triggerer."""
        trigger = SessionTraceTrigger(
            agentforce_conn_id="agentforce_default",
            session_id=self.session_id,
            text="first",
            position=1,
            sent_at=None,
            same_before=0,
            end_time=time.time() + LONGEST_S,
            poll_interval=1.0,
        )
        self.defer(trigger=trigger, method_name="found")

    def found(self, context, event):
        """Return what came back."""
        return event


class StoppingStore:
    """A task state store that stops the task at one record: one ``intended`` or one ``answered``.

    ``intended``: it is written, and nothing has left yet; ``answered``: the org has answered, and it is not.
    """

    def __init__(self, store, record, at):
        self._store, self._record, self._at = store, record, at

    def __getattr__(self, name):
        return getattr(self._store, name)

    def set(self, key, value, **options):
        """Write, and stop before or after it."""
        point = "answered" if value["done"] else "intended"
        stops = point == self._at and key.startswith(f"agentforce_{self._record}")
        if stops and point == "answered":
            gate(point)
        self._store.set(key, value, **options)
        if stops and point == "intended":
            gate(point)


class StopsAtARecord:
    """Stops at the record that the run's configuration names."""

    def execute(self, context):
        """Execute with such a store."""
        store = StoppingStore(context["task_state_store"], **context["dag_run"].conf)
        return super().execute({**context, "task_state_store": store})


class StoppingConversation(StopsAtARecord, ConversationOperator):
    """A conversation."""


class StoppingStart(StopsAtARecord, StartSessionOperator):
    """A start."""


class StoppingSend(StopsAtARecord, SendMessageOperator):
    """A message."""


def step_by_step(turns):
    """Give three messages and stop before the second."""
    if len(turns) == 1:
        gate("between")
    return f"step {len(turns) + 1}" if len(turns) < 3 else None


with DAG("talk", schedule=None, **SETTINGS):
    ConversationOperator(task_id="talk", messages=["first", "second"])

with DAG("talk_exported", schedule=None, **SETTINGS):
    told = ConversationOperator(task_id="talk", messages=["first", "second"])
    SessionTraceOperator(task_id="traces", results=told.output, timeout=timedelta(0), export_spans=True)

with DAG("talk_stopping", schedule=None, **SETTINGS):
    StoppingConversation(task_id="talk", messages=["first", "second"])

with DAG("talk_in_steps", schedule=None, **SETTINGS):
    ConversationOperator(task_id="talk", messages=step_by_step)

with DAG("talk_recorded", schedule=None, **SETTINGS):
    RecordedConversation(task_id="talk", messages=["first", "second"])

with DAG("talk_in_time", schedule=None, **SETTINGS):
    ConversationOperator(task_id="talk", messages=["first"], execution_timeout=timedelta(seconds=4))


with DAG("talk_traced", schedule=None, **SETTINGS):
    talked = RecordedConversation(task_id="talk", messages=["first", "second"])
    SessionTraceOperator(
        task_id="traces", results=talked.output, timeout=timedelta(seconds=LONGEST_S), deferrable=True
    )
    talked >> LooksForAMessage(
        task_id="look", session_id="{{ ti.xcom_pull(task_ids='talk', key='session_id') }}"
    )


def shared(dag_id, starting=StartSessionOperator, sending=SendMessageOperator, **options):
    """Make a Dag whose session is shared by three tasks."""
    with DAG(dag_id, schedule=None, **SETTINGS):
        start = starting(task_id="start")
        send = sending(task_id="send", session=start.output, text="first", **options)
        end = EndSessionOperator(task_id="end", session=start.output)
        start >> send >> end.as_teardown(setups=start)


shared("shared")
shared("shared_recorded", sending=RecordedSend)
shared("shared_started", starting=RecordedStart)
shared("shared_stopping", starting=StoppingStart, sending=StoppingSend)
shared("shared_resend", on_unknown_delivery="resend")


def batch(dag_id, **options):
    """Make a Dag that asks about thirty records."""
    with DAG(dag_id, schedule=None, **SETTINGS):
        ConversationBatchOperator(
            task_id="batch",
            records=[{"id": f"A{number}"} for number in range(30)],
            key="id",
            message="record {{ record.id }}",
            result_path=f"file://{os.environ['AIRFLOW_HOME']}/results/{dag_id}/{{{{ ti.run_id }}}}",
            max_concurrency=4,
            **options,
        )


batch("batch")
batch("batch_deferred", deferrable=True)
