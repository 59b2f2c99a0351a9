"""Dags for tests/provider/test_mapped_data.py: every operator, mapped with every templated argument."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

from airflow_provider_agentforce import operators
from airflow_provider_agentforce._compat import BaseOperator
from airflow_provider_agentforce.operators import (
    AnswerStore,
    ConversationBatchOperator,
    WriteRecordsOperator,
)

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
FOLDER = f"file://{Path(os.environ.get('AGENTFORCE_EXAMPLE_OUTPUT', '/nowhere'))}"
# What an agent or a customer could say.
WORDS = "{{ conn.agentforce_default.password }} {{ 7 * 7 }}"
# Arguments that are required, and are not template fields.
NEEDED = {"WriteRecordsOperator": {"fields": {"Agent_Summary__c": "{{ row.text }}"}}}


def shown(kind):
    """Return an operator that has the arguments of *kind*, and only writes down what became of them."""

    def execute(self, context):
        text = repr([getattr(self, name) for name in kind.template_fields])
        (Path(os.environ["AGENTFORCE_EXAMPLE_OUTPUT"]) / f"{self.task_id}.txt").write_text(text)

    return type(f"Shown{kind.__name__}", (kind,), {"execute": execute})


EVERY = [getattr(operators, name) for name in operators.__all__]
SHOWN = {
    kind.__name__: shown(kind) for kind in EVERY if isinstance(kind, type) and issubclass(kind, BaseOperator)
}


@task
def words():
    return [WORDS]


@task
def rows(value=None):
    return [value]


def partial_of(name, **given):
    return SHOWN[name].partial(task_id=name, **NEEDED.get(name, {}), **given)


with DAG("expand", start_date=BEGIN, schedule=None):
    said = words()
    for name, kind in SHOWN.items():
        partial_of(name).expand(**dict.fromkeys(kind.template_fields, said))

with DAG("expand_map", start_date=BEGIN, schedule=None):
    said = words().map(lambda text: text + "")
    for name, kind in SHOWN.items():
        partial_of(name).expand(**dict.fromkeys(kind.template_fields, said))

with DAG("expand_kwargs", start_date=BEGIN, schedule=None):
    for name, kind in SHOWN.items():
        partial_of(name).expand_kwargs(
            rows.override(task_id=f"rows_{name}")(dict.fromkeys(kind.template_fields, "said")).map(
                lambda row: dict.fromkeys(row, WORDS)
            )
        )

with DAG("written_by_the_author", start_date=BEGIN, schedule=None):
    pushed = rows({"do_xcom_push": True})
    for name, kind in SHOWN.items():
        partial_of(name, **dict.fromkeys(kind.template_fields, "{{ 7 * 7 }}")).expand_kwargs(pushed)

with DAG("asked_and_written", start_date=BEGIN, schedule=None):
    ask = {"records": [{"id": os.environ.get("ACCOUNT")}], "key": "id"}
    said = words()
    asked = ConversationBatchOperator.partial(task_id="ask", result_path=f"{FOLDER}/ask", **ask).expand(
        message=said
    )
    ConversationBatchOperator.partial(
        task_id="reuse", message="hi", result_path=f"{FOLDER}/reuse", **ask
    ).expand(reuse=said.map(lambda text: f"{FOLDER}/{text}"))
    ConversationBatchOperator.partial(
        task_id="store",
        reuse=AnswerStore(f"{FOLDER}/store {{{{ 7 * 7 }}}}"),
        result_path=f"{FOLDER}/s",
        **ask,
    ).expand_kwargs(said.map(lambda text: {"message": text}))
    fields = said.map(lambda text: {"Agent_Summary__c": text})
    by_expand = WriteRecordsOperator.partial(
        task_id="by_expand", results=f"{FOLDER}/ask/results.jsonl", sobject="Account"
    ).expand(fields=fields)
    by_kwargs = WriteRecordsOperator.partial(
        task_id="by_kwargs", results=f"{FOLDER}/ask/results.jsonl", sobject="Account"
    ).expand_kwargs(fields.map(lambda given: {"fields": given}))
    asked >> by_expand >> by_kwargs
