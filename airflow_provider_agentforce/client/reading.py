"""Reads what an exchange with a session brought, whole or in pieces."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from airflow_provider_agentforce.client import replies
from airflow_provider_agentforce.client.models import Session, Turn
from airflow_provider_agentforce.client.sse import StreamedTurn
from airflow_provider_agentforce.client.transport import Exchange

log = logging.getLogger(__name__)


def read_start(exchange: Exchange) -> tuple[str, str]:
    """Return the session's id and its greeting."""
    reply = replies.decode_object(exchange.body)
    messages = reply.get("messages")
    return replies.session_id(reply), replies.answer_text(messages if isinstance(messages, list) else [])


def read_turn(exchange: Exchange, streamed: StreamedTurn, session: Session, sequence_id: int) -> Turn:
    """Return the answer to a message: what was streamed, else the reply as a whole."""
    if streamed.begun:
        streamed.check()
        return streamed.turn(session=session, sequence_id=sequence_id)
    reply = replies.decode_object(exchange.body)
    return replies.turn(reply.get("messages"), session=session, sequence_id=sequence_id)


def pass_on(messages: list[dict[str, Any]], listener: Callable[[dict[str, Any]], None] | None) -> None:
    """Give streamed messages to a listener, whose failure changes nothing."""
    if listener is None:
        return
    try:
        for message in messages:
            listener(message)
    except Exception:
        log.exception("on_chunk failed; the answer is not affected.")
