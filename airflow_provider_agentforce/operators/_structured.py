"""The answer as data: reads it, and asks the one question that may mend it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.client.models import Turn
from airflow_provider_agentforce.exceptions import AgentforceInputError, InvalidOutputError
from airflow_provider_agentforce.operators._ledger import fingerprint

if TYPE_CHECKING:
    from airflow_provider_agentforce.structured import OutputType

log = logging.getLogger(__name__)


def check_output_retries(value: Any) -> int:
    """Return how many corrective questions may be asked: 0 or 1."""
    if value not in (0, 1) or not isinstance(value, int) or isinstance(value, bool):
        raise AgentforceInputError(f"output_retries must be 0 or 1, but is {value!r:.80}.")
    return value


def output_of(output_type: Any) -> OutputType | None:
    """Return the form that an operator's ``output_type`` asks for, or ``None`` if it asks for none.

    :raises AgentforceInputError: if it is none that can be used.
    """
    if output_type is None:
        return None
    from airflow_provider_agentforce.structured import OutputType  # noqa: PLC0415 - not at parse time

    return OutputType(output_type)


def name_of_question(output: OutputType) -> str:
    """Return what stands for the corrective question in the record of a try.

    Its words come from the answer and from libraries, so a later try may word it another way.
    """
    return fingerprint("corrective question", output.schema)


def read_or_ask(
    output: OutputType, turn: Turn, ask: Callable[[str], Turn], *, retries: int, most_messages: int
) -> Any:
    """Return the value in *turn*, or in the answer to one corrective question.

    :param ask: sends the question and returns its answer, once the outcome of that is accepted.
    :param most_messages: how many messages the session may have.
    :raises InvalidOutputError: if nothing fits; the hint says why no other question was asked.
    """
    try:
        return output.result_of(turn)
    except InvalidOutputError as error:
        reason = _no_question(turn, retries, most_messages)
        if reason:
            error.hint = reason
            raise
        log.info("%s Asking the agent to correct it.", error.what)
        question = output.question(error)
    try:
        return output.result_of(ask(question))
    except InvalidOutputError as error:
        error.hint = "It is what the agent answered to the corrective question. See the XCom turns."
        raise


def _no_question(turn: Turn, retries: int, most_messages: int) -> str:
    if not retries:
        return "See the XCom turns. output_retries=1 would have asked the agent to correct it."
    if turn.sequence_id >= most_messages:
        return (
            f"See the XCom turns. The session has {most_messages} messages, so no corrective question was "
            "asked (extra max_messages_per_session)."
        )
    return ""
