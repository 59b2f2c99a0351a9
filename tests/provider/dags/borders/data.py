"""Data of other tasks, and references to it."""

from __future__ import annotations

import os
from datetime import datetime, timezone

from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    SendMessageOperator,
    StartSessionOperator,
)

try:
    from airflow.sdk import DAG, task, task_group
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task, task_group

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
# What an agent or a customer could say.
WORDS = "{{ conn.agentforce_default.password }} {{ 7 * 7 }}"
FOLDER = f"file://{os.environ.get('AGENTFORCE_EXAMPLE_OUTPUT', '/nowhere')}"


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
