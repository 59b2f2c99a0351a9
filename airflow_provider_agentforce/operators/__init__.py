"""The operators. Importing them loads neither an HTTP library nor the client's I/O."""

from airflow_provider_agentforce.operators._identity import external_session_key
from airflow_provider_agentforce.operators.batch import ConversationBatchOperator
from airflow_provider_agentforce.operators.conversation import ConversationOperator
from airflow_provider_agentforce.operators.feedback import SubmitFeedbackOperator
from airflow_provider_agentforce.operators.message import SendMessageOperator
from airflow_provider_agentforce.operators.session import EndSessionOperator, StartSessionOperator

__all__ = [
    "ConversationBatchOperator",
    "ConversationOperator",
    "EndSessionOperator",
    "SendMessageOperator",
    "StartSessionOperator",
    "SubmitFeedbackOperator",
    "external_session_key",
]
