"""Dags for tests/provider/test_borders.py, which runs on every Airflow: so do they."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

from stand_ins import ask_with_a_hook

from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
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
AGAIN = {"retries": 2, "retry_delay": timedelta(0)}
# What an agent or a customer could say.
WORDS = "{{ conn.agentforce_default.password }} {{ 7 * 7 }}"
OUT = Path(os.environ.get("AGENTFORCE_EXAMPLE_OUTPUT", "/nowhere"))
FOLDER = f"file://{OUT}"


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


@task
def nothing():
    return None


with DAG("nothing_to_send_in", start_date=BEGIN, schedule=None, default_args=AGAIN):
    SendMessageOperator(task_id="ask", session=nothing(), text="hello")

with DAG("nothing_to_end", start_date=BEGIN, schedule=None, default_args=AGAIN):
    EndSessionOperator(task_id="end", session=nothing())

with DAG("nothing_by_template", start_date=BEGIN, schedule=None, default_args=AGAIN):
    nothing() >> EndSessionOperator(task_id="end", session_id="{{ ti.xcom_pull('nothing') }}")

with DAG("send_by_a_broken_template", start_date=BEGIN, schedule=None, default_args=AGAIN):
    broken = "{{{{ ti.xcom_pull('nothing')['{}'] }}}}"
    nothing() >> SendMessageOperator(
        task_id="ask",
        text="hello",
        session_id=broken.format("session_id"),
        sequence_id=broken.format("sequence_id"),
    )

with DAG("no_connection", start_date=BEGIN, schedule=None, default_args=AGAIN):
    StartSessionOperator(task_id="ask", agentforce_conn_id="typo")


with DAG("in_a_process_pool", start_date=BEGIN, schedule=None, default_args=AGAIN):

    @task
    def pooled():
        """Ask in another process, whose errors come back as copies."""
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            return pool.submit(ask_with_a_hook, "pooled").result()

    pooled()


class Fails(Exception):  # noqa: N818 - what a Dag's author calls it
    """The first try fails with it."""


def once(what):
    """Raise an error, the first time that it is called in a run."""
    try:
        (OUT / what).touch(exist_ok=False)
    except FileExistsError:
        return
    raise Fails(what)


def afterwards(context, _result):
    """Fail a first try that has all it wants: Airflow may, as soon as the operator is done."""
    once(context["ti"].task_id)


def in_steps(turns):
    """Give two messages, and fail once between them."""
    if turns:
        once("between")
    return ["first", "second", None][len(turns)]


def changing(turns):
    """Give a message that is another in each try, as a partial of a function could."""
    return None if len(turns) > 1 else f"{in_steps(turns)} in try {1 + (OUT / 'between').exists()}"


with DAG("message_that_changes", start_date=BEGIN, schedule=None, default_args=AGAIN):
    ConversationOperator(task_id="talk", messages=changing)

with DAG("fails_between", start_date=BEGIN, schedule=None, default_args=AGAIN):
    ConversationOperator(task_id="talk", messages=in_steps)

with DAG("talk_then_fail", start_date=BEGIN, schedule=None, default_args=AGAIN):
    ConversationOperator(task_id="talk", messages=["first", "second"], post_execute=afterwards)

with DAG("send_then_fail", start_date=BEGIN, schedule=None, default_args=AGAIN):
    start = StartSessionOperator(task_id="start")
    ask_once = SendMessageOperator(task_id="ask", session=start.output, text="first", post_execute=afterwards)
    end = EndSessionOperator(task_id="end", session=ask_once.output)
    start >> ask_once >> end.as_teardown(setups=start)

with DAG("start_then_fail", start_date=BEGIN, schedule=None, default_args=AGAIN):
    start = StartSessionOperator(task_id="start", post_execute=afterwards)
    EndSessionOperator(task_id="end", session=start.output).as_teardown(setups=start)

for how in ("fail", "resend"):
    with DAG(f"answer_that_is_lost_{how}", start_date=BEGIN, schedule=None, default_args=AGAIN):
        ConversationOperator(task_id="talk", messages=["first", "second"], on_unknown_delivery=how)

with DAG("failure_without_words", start_date=BEGIN, schedule=None, default_args=AGAIN):
    ConversationOperator(task_id="talk", messages=["first"])


class NAType:
    """As pandas' ``NA``."""

    __module__ = "pandas._libs.missing"


with DAG("records_with_na", start_date=BEGIN, schedule=None):
    ConversationBatchOperator(
        task_id="batch",
        records=[{"q": "a", "na": NAType()}],
        message="q {{ record.q }}",
        result_path=f"{FOLDER}/na",
    )
