"""Tries that fail, and what the next ones make of them."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

from stand_ins import ask_with_a_hook

from airflow_provider_agentforce.operators import (
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
)

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
AGAIN = {"retries": 2, "retry_delay": timedelta(0)}
OUT = Path(os.environ.get("AGENTFORCE_EXAMPLE_OUTPUT", "/nowhere"))

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
