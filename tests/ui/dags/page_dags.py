"""Dags whose conversations and batches people look at."""

import datetime as dt

from airflow.sdk import DAG

from airflow_provider_agentforce.delivery import Ask, Check
from airflow_provider_agentforce.operators import ConversationBatchOperator, ConversationOperator


def _the_crm_cannot_say(_delivery):
    return None


def _about(record):
    return f"What do you know of account {record['name']}?" if record["id"] % 7 else ""


def _accounts(params):
    return [{"id": number, "name": f"Account {number}"} for number in range(1, params["records"] + 1)]


with DAG("refund", schedule=None):
    ConversationOperator(
        task_id="refund",
        messages=["What is the status of order 4711?", "Please send the customer a mail about it."],
        on_unknown_delivery=[Check(_the_crm_cannot_say), Ask(timeout=dt.timedelta(hours=1))],
    )

with DAG("careful", schedule=None):
    ConversationOperator(task_id="tell", messages=["Hello.", "Please send the customer a mail about it."])

with DAG("accounts", schedule=None, params={"records": 40}):
    ConversationBatchOperator(
        task_id="accounts",
        records=_accounts,
        message=_about,
        key="id",
        result_path="{{ var.value.get('results', 'file:///tmp') }}/{{ run_id }}",
        max_concurrency=4,
    )

# Its tasks never run: tests give it what others may have left in XCom.
with DAG("foreign", schedule=None, is_paused_upon_creation=True):
    ConversationOperator(task_id="said", messages=["never"])
    ConversationOperator.partial(task_id="mapped").expand(messages=[["never"], ["never"]])
