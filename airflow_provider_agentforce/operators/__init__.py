"""The operators. A Dag file loads those that it uses, and neither an HTTP library nor the client's I/O.

An operator checks its arguments (``_arguments``) when the Dag is parsed, and its rendered values when the
task runs. It sends through a session that the task's ledger records (``_resumable``, ``_ledger``), pushes the
answer to XCom as a dict, and shows it on the task's page (``_page``). ``_unknown_delivery`` runs the steps
for a message whose delivery is unknown; ``_resolving`` connects them to the task. After a failure
``_retries`` decides whether another try of the task may follow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.sample import Sample
    from airflow_provider_agentforce.client.budget import Budget
    from airflow_provider_agentforce.operators._answer_store import AnswerStore
    from airflow_provider_agentforce.operators._identity import external_session_key
    from airflow_provider_agentforce.operators._sharding import merge_shards, shards
    from airflow_provider_agentforce.operators.agent_tests import RunAgentTestOperator
    from airflow_provider_agentforce.operators.batch import ConversationBatchOperator
    from airflow_provider_agentforce.operators.conversation import ConversationOperator
    from airflow_provider_agentforce.operators.conversation_tests import ConversationTestOperator
    from airflow_provider_agentforce.operators.feedback import SubmitFeedbackOperator
    from airflow_provider_agentforce.operators.message import SendMessageOperator
    from airflow_provider_agentforce.operators.session import EndSessionOperator, StartSessionOperator
    from airflow_provider_agentforce.operators.session_trace import SessionTraceOperator
    from airflow_provider_agentforce.operators.write_records import WriteRecordsOperator

__all__ = [
    "AnswerStore",
    "Budget",
    "ConversationBatchOperator",
    "ConversationOperator",
    "ConversationTestOperator",
    "EndSessionOperator",
    "RunAgentTestOperator",
    "Sample",
    "SendMessageOperator",
    "SessionTraceOperator",
    "StartSessionOperator",
    "SubmitFeedbackOperator",
    "WriteRecordsOperator",
    "external_session_key",
    "merge_shards",
    "shards",
]

_MODULES = {
    "AnswerStore": "operators._answer_store",
    "Budget": "client.budget",
    "ConversationBatchOperator": "operators.batch",
    "ConversationOperator": "operators.conversation",
    "ConversationTestOperator": "operators.conversation_tests",
    "EndSessionOperator": "operators.session",
    "RunAgentTestOperator": "operators.agent_tests",
    "Sample": "batch.sample",
    "SendMessageOperator": "operators.message",
    "SessionTraceOperator": "operators.session_trace",
    "StartSessionOperator": "operators.session",
    "SubmitFeedbackOperator": "operators.feedback",
    "WriteRecordsOperator": "operators.write_records",
    "external_session_key": "operators._identity",
    "merge_shards": "operators._sharding",
    "shards": "operators._sharding",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"airflow_provider_agentforce.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
