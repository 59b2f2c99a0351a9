"""Dags for tests/provider/test_borders.py: data between tasks, and sessions that are found again."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG, task, task_group

from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
)

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
AGAIN = {"retries": 2, "retry_delay": timedelta(0)}
# What an agent or a customer could say.
WORDS = "{{ conn.agentforce_default.password }} {{ 7 * 7 }}"
FOLDER = f"file://{os.environ.get('AGENTFORCE_EXAMPLE_OUTPUT', '/tmp')}"  # noqa: S108 - a test sets it


@task
def words():
    return WORDS


@task
def listed(name):
    """Return a list with one mapping for expand_kwargs, or one value for expand."""
    return [
        {
            "text": {"text": f"send {WORDS}"},
            "messages": {"messages": [f"talk {WORDS}"], "variables": {"$Context.A": WORDS}},
            "words": {"said": f"say {WORDS}"},
            "message": {"message": f"batch {WORDS}"},
            "value": f"value {WORDS}",
            "list": [f"list {WORDS}"],
        }[name]
    ]


@task
def mapping():
    return {"messages": [f"one of two {WORDS}"]}


@task.agentforce
def say(said, also=""):
    return f"{said}{also}"


@task_group
def group(said):
    ConversationOperator(task_id="in_group", messages=["group {{ 7 * 7 }}", said])


with DAG("data_is_data", start_date=BEGIN, schedule=None, default_args={"tz": "{{ 'Europe/Berlin' }}"}):
    start = StartSessionOperator(task_id="start")
    SendMessageOperator.partial(task_id="send", session=start.output).expand_kwargs(listed("text"))
    ConversationOperator.partial(task_id="talk").expand_kwargs(listed("messages"))
    ConversationOperator.partial(task_id="lists").expand(messages=listed("list"))
    ConversationOperator.partial(task_id="rendered", variables={"$Context.A": "{{ 7 * 7 }}"}).expand_kwargs(
        [{"messages": ["literal {{ 7 * 7 }}"]}, mapping()]
    )
    ConversationOperator.partial(task_id="partly", messages=["partly {{ 7 * 7 }}", words()]).expand(
        bypass_user=[True]
    )
    group.expand(said=listed("value"))
    say.override(task_id="said").expand_kwargs(listed("words"))
    say.override(task_id="both").partial(also=" and {{ 7 * 7 }}").expand_kwargs(listed("words"))
    say.override(task_id="plain")(words())
    ConversationBatchOperator.partial(
        task_id="batch", records=[{"q": 1}], result_path=f"{FOLDER}/mapped"
    ).expand_kwargs(listed("message"))

with DAG("references", start_date=BEGIN, schedule=None) as references:
    up, down = words.override(task_id="up")(), words.override(task_id="other")()
    ConversationOperator(task_id="talk", messages=[{"text": up, "variables": {"$Context.A": down}}, down])
    ConversationOperator.partial(task_id="mapped", messages=[{"text": up, "variables": {"x": down}}]).expand(
        bypass_user=[True]
    )
    ConversationBatchOperator(
        task_id="batch",
        records=[{"q": up}, {"q": "b", "deep": [{"r": (down,)}]}],
        message=["q {{ record.q }} {{ run_id[:6] }}", up],
        variables={"$Context.A": down},
        result_path=f"{FOLDER}/records",
    )
    ConversationBatchOperator.partial(
        task_id="mapped_batch", records=[{"q": up}], message="q {{ record.q }}"
    ).expand(result_path=[f"{FOLDER}/0"])


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
    shared(
        lambda start: SendMessageOperator(
            task_id="ask",
            session_id="{{ ti.xcom_pull('start')['session_id'] }}",
            sequence_id=0,
            text="please fail",
        )
    )

with DAG("end_in_a_mapped_group", start_date=BEGIN, schedule=None):

    @task_group
    def conversation(tz):
        start = StartSessionOperator(task_id="start", tz=tz)
        ask = failing(start.output)
        end = EndSessionOperator(task_id="end", session=ask.output)
        start >> ask >> end.as_teardown(setups=start)

    conversation.expand(tz=["UTC", "Europe/Berlin"])


@task
def nothing():
    return None


with DAG("nothing_to_send_in", start_date=BEGIN, schedule=None, default_args=AGAIN):
    SendMessageOperator(task_id="ask", session=nothing(), text="hello")

with DAG("nothing_to_end", start_date=BEGIN, schedule=None, default_args=AGAIN):
    EndSessionOperator(task_id="end", session=nothing())

with DAG("nothing_by_template", start_date=BEGIN, schedule=None, default_args=AGAIN):
    nothing() >> EndSessionOperator(task_id="end", session_id="{{ ti.xcom_pull('nothing') }}")

with DAG("no_connection", start_date=BEGIN, schedule=None, default_args=AGAIN):
    StartSessionOperator(task_id="ask", agentforce_conn_id="typo")
