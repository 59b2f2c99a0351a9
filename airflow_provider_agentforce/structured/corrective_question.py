"""The one question that asks the agent to correct an answer that does not fit ``output_type``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.client.models import Turn
from airflow_provider_agentforce.exceptions import InvalidOutputError

if TYPE_CHECKING:
    from airflow_provider_agentforce.structured import OutputType

log = logging.getLogger(__name__)


def read_or_ask(
    output: OutputType, turn: Turn, ask: Callable[[str], Turn], *, retries: int, most_messages: int
) -> Any:
    """Return the value in *turn*, or in the answer to one corrective question.

    :param ask: sends the question and returns its answer.
    :param retries: how many questions may be asked, 0 or 1.
    :param most_messages: how many messages the session may have.
    :raises InvalidOutputError: if nothing fits; the hint says why no other question was asked.
    """
    try:
        return output.result_of(turn)
    except InvalidOutputError as error:
        reason = _no_question(turn, retries, most_messages)
        if reason:
            raise error.replaced(hint=reason) from None
        log.info("%s Asking the agent to correct it.", error.what)
        question = output.question(error)
    answer = ask(question)
    try:
        return output.result_of(answer)
    except InvalidOutputError as error:
        hint = "The answer to the corrective question does not fit, either. See the XCom turns."
        raise error.replaced(hint=hint) from None


def _no_question(turn: Turn, retries: int, most_messages: int) -> str:
    resolution = turn.resolution or {}
    if resolution.get("answer") == "given":
        who = resolution.get("user") or "a person"
        return (
            f"The answer is what {who} typed in after the agent's was lost, so the agent is not asked to "
            "correct it. The agent acted on the message: clearing the task sends it again."
        )
    if not retries:
        return "See the XCom turns. output_retries=1 would have asked the agent to correct it."
    if turn.sequence_id >= most_messages:
        return (
            f"See the XCom turns. The session has {most_messages} messages, so no corrective question was "
            "asked (extra max_messages_per_session)."
        )
    return ""
