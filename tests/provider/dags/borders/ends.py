"""Sessions that are ended, whatever became of their messages."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow_provider_agentforce.operators import (
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
)

try:
    from airflow.sdk import DAG, task, task_group
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task, task_group

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)


def shared(send, *, end=None):
    """Add a start, and an end that knows only what *send* makes of it."""
    start = StartSessionOperator(task_id="start")
    ask = send(start)
    EndSessionOperator(task_id="end", session=ask.output, **(end or {})).as_teardown(setups=start)


def failing(session, task_id="ask", **options):
    return SendMessageOperator(task_id=task_id, session=session, text="please fail", **options)


@task.short_circuit
def stop():
    return False


with DAG("end_after_a_failed_send", start_date=BEGIN, schedule=None):
    shared(lambda start: failing(start.output))

with DAG("end_after_two_sends", start_date=BEGIN, schedule=None):
    shared(lambda start: failing(failing(start.output, "first", fail_on=()).output))

with DAG("end_after_a_skipped_send", start_date=BEGIN, schedule=None):

    def skipped(start):
        send = failing(start.output)
        start >> stop() >> send
        return send

    shared(skipped)

with DAG("end_after_a_mapped_send", start_date=BEGIN, schedule=None):
    shared(
        lambda start: SendMessageOperator.partial(task_id="ask", session=start.output).expand(
            text=["please fail"]
        )
    )

with DAG("end_after_a_send_by_template", start_date=BEGIN, schedule=None):

    def by_template(start):
        send = SendMessageOperator(
            task_id="ask",
            session_id="{{ ti.xcom_pull('start')['session_id'] }}",
            sequence_id=0,
            text="please fail",
        )
        start >> send
        return send

    shared(by_template)

with DAG("end_in_a_mapped_group", start_date=BEGIN, schedule=None):

    @task_group
    def conversation(tz):
        start = StartSessionOperator(task_id="start", tz=tz)
        ask = failing(start.output)
        end = EndSessionOperator(task_id="end", session=ask.output)
        start >> ask >> end.as_teardown(setups=start)

    conversation.expand(tz=["UTC", "Europe/Berlin"])


IDS = {
    "by_a_broken_template": {"session_id": "{{ ti.xcom_pull('ask')['session_id'] }}"},
    "by_a_rendered_dict": {"session": "{{ ti.xcom_pull('start') }}"},
}
for way, given in IDS.items():
    with DAG(f"end_{way}", start_date=BEGIN, schedule=None):
        start = StartSessionOperator(task_id="start")
        ask = failing(start.output)
        start >> ask >> EndSessionOperator(task_id="end", **given).as_teardown(setups=start)

for way, given in {
    "by_one_key": lambda answer: {"session_id": answer["session_id"]},
    "by_two_keys": lambda answer: {"session": {key: answer[key] for key in ("session_id", "sequence_id")}},
}.items():
    with DAG(f"end_{way}", start_date=BEGIN, schedule=None):
        start = StartSessionOperator(task_id="start")
        ask = failing(start.output)
        EndSessionOperator(task_id="end", **given(ask.output)).as_teardown(setups=start)


@task
def picked(answer):
    """Return the session to end."""
    return answer


with DAG("end_through_a_task_between", start_date=BEGIN, schedule=None):
    start = StartSessionOperator(task_id="start")
    ask = failing(start.output)
    EndSessionOperator(task_id="end", session=picked(ask.output)).as_teardown(setups=start)

with DAG("references_in_rows", start_date=BEGIN, schedule=None):
    start = StartSessionOperator(task_id="start")
    ask = SendMessageOperator.partial(task_id="ask", text="first").expand_kwargs([{"session": start.output}])
    end = EndSessionOperator.partial(task_id="end").expand_kwargs([{"session": start.output}])
    start >> ask >> end.as_teardown(setups=start)
