"""Steps that find out what became of a message."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow_provider_agentforce._compat import can_ask
from airflow_provider_agentforce.operators import ConversationBatchOperator, ConversationOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)

with DAG("docs_unknown_delivery", start_date=BEGIN, schedule=None):
    # [START check]
    from airflow_provider_agentforce.delivery import Check, UnknownDelivery

    def was_refunded(delivery: UnknownDelivery) -> bool | None:
        """Ask the CRM whether the agent has made the refund: True, False, or None when it cannot tell."""
        from airflow.providers.salesforce.hooks.salesforce import SalesforceHook  # noqa: PLC0415

        # The agent's action writes the key of its session to the refund.
        refunds = SalesforceHook("crm").get_conn().quick_search(delivery.external_session_key)
        return len(refunds["searchRecords"]) > 0

    refund = ConversationOperator(
        task_id="refund",
        messages=["Please refund order 4711."],
        # The agent may still be at work for two minutes after the reply was lost.
        on_unknown_delivery=Check(was_refunded, after=timedelta(minutes=3)),
        retries=2,
    )
    # [END check]

    # [START batch]
    close = ConversationBatchOperator(
        task_id="close",
        records="s3://crm/cases.csv",
        key="id",
        message="Please close case {{ record.id }}.",
        result_path="s3://crm/closed/{{ run_id }}",
        on_unknown_delivery=["trace", "resend"],  # closing a case twice does no harm
    )
    # [END batch]

if can_ask():
    with DAG("docs_unknown_delivery_ask", start_date=BEGIN, schedule=None):
        # [START ask]
        from airflow_provider_agentforce.delivery import Ask, Trace

        cancel = ConversationOperator(
            task_id="cancel",
            messages=["Please cancel order 4711."],
            on_unknown_delivery=[
                Trace(timeout=timedelta(hours=1)),
                Ask(timeout=timedelta(hours=12), assigned_users=[{"id": "1", "name": "support"}]),
            ],
            retries=2,
        )
        # [END ask]
