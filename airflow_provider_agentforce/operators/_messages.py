"""The messages of a conversation: a list that is checked as a whole, or a function of the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from airflow_provider_agentforce.client import checks
from airflow_provider_agentforce.client.models import Turn
from airflow_provider_agentforce.exceptions import AgentforceInputError

Message = str | Mapping[str, Any]
NextMessage = Callable[[list[Turn]], Message | None]


def in_order(messages: Any) -> NextMessage:
    """Return the function that gives the messages of a list one after the other.

    :raises AgentforceInputError: if one of them cannot be sent, before any is.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise AgentforceInputError(
            f"messages must be a list of texts or of dicts with text and variables, or a function, "
            f"but is {type(messages).__name__}."
        )
    if not messages:
        raise AgentforceInputError("messages is empty. Give at least one message.")
    for index, message in enumerate(messages):
        _read(message, f"messages[{index}]")
    return lambda turns: messages[len(turns)] if len(turns) < len(messages) else None


def texts_of(following: NextMessage, turns: list[Turn]) -> Iterator[tuple[str, Any]]:
    """Yield text and variables of each message, asking for the next when its time has come.

    :param turns: the answers so far; grows with the conversation.
    """
    while (message := following(turns)) is not None:
        yield _read(message, f"messages[{len(turns)}]")


def _read(message: Any, field: str) -> tuple[str, Any]:
    if not isinstance(message, Mapping):
        return checks.message_text(message, field), None
    unknown = sorted(set(message) - {"text", "variables"})
    if unknown or "text" not in message:
        raise AgentforceInputError(f"{field} must have text, may have variables, and has nothing else.")
    variables = checks.variables(message.get("variables"), f"{field}.variables")
    return checks.message_text(message["text"], f"{field}.text"), variables
