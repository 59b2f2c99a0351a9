"""The operator that rates an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.models import Turn
from airflow_provider_agentforce.exceptions import AgentforceInputError
from airflow_provider_agentforce.links.agent import AgentLink
from airflow_provider_agentforce.links.page import ConversationLink
from airflow_provider_agentforce.operators._arguments import check_values, may_change
from airflow_provider_agentforce.operators._base import AgentforceBaseOperator

_MOST_SHOWN = 1_000


class SubmitFeedbackOperator(AgentforceBaseOperator):
    """Rate an answer of an agent ``GOOD`` or ``BAD``, for the agent's own reports in Salesforce.

    **Sends** ``POST /sessions/{id}/feedback``. **Returns** ``{"session_id", "feedback_id", "feedback"}``. An
    answer without a ``feedback_id`` (a greeting, some failures) cannot be rated; the task fails before
    anything is sent.

    Rate an answer before its session ends. Salesforce does not document whether an org accepts a rating after
    that, so the rating of a conversation's answer, whose session has ended, may be refused with
    :class:`~airflow_provider_agentforce.exceptions.SessionNotFoundError`.

    **A retry** is harmless: it rates the same answer the same way again. **Templated:** ``turn``,
    ``session_id``, ``feedback_id``, ``feedback``, ``text``, ``agentforce_conn_id``.

    :param turn: the output of a send; or the output of a conversation, to rate its last answer, or one of its
        ``turns``.
    :param session_id: instead of ``turn``, together with ``feedback_id``.
    :param feedback_id: the ``feedback_id`` of the answer.
    :param feedback: ``GOOD`` or ``BAD``.
    :param text: the reason for the rating.
    :param agentforce_conn_id: connection of type ``agentforce``.
    """

    operator_extra_links = (ConversationLink(), AgentLink())
    template_fields: Sequence[str] = (
        *("turn", "session_id", "feedback_id", "feedback", "text"),
        *AgentforceBaseOperator.template_fields,
    )
    template_fields_renderers = {"turn": "json"}  # noqa: RUF012 - Airflow's own form

    def __init__(
        self,
        *,
        feedback: str,
        turn: Any = None,
        session_id: str | None = None,
        feedback_id: str | None = None,
        text: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.feedback = feedback
        self.turn = turn
        self.session_id = session_id
        self.feedback_id = feedback_id
        self.text = text
        self.check_literals()

    def check_arguments(self) -> None:
        """Refuse literals that name no answer or no rating."""
        _check_ways(self.turn, self.session_id, self.feedback_id)
        if not may_change(self.feedback):
            validation.feedback(self.feedback)
        check_values(
            self,
            turn=_last_answer,
            session_id=partial(validation.path_id, field="session_id"),
            feedback_id=partial(validation.path_id, field="feedback_id"),
            text=lambda text: text and validation.message_text(text),
        )

    def execute(self, context: Context) -> dict[str, Any]:
        """Submit the rating."""
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415
        from airflow_provider_agentforce.operators._page import TaskPage  # noqa: PLC0415

        with airflow_errors():
            self.page = TaskPage(self, context, "feedback")
            rated = _rated(self.turn, self.session_id, self.feedback_id)
            feedback = validation.feedback(self.feedback)
            client = self.open_client()
            self.link_to(rated.get("agent_id"), context)
            self.page.write(session_id=rated["session_id"], feedback_id=rated["feedback_id"])
            client.submit_feedback(rated, rated["feedback_id"], feedback, self.text or None)
            self.page.add(feedback=feedback, text=(self.text or "")[:_MOST_SHOWN])
            self.log.info("Rated an answer of session %s: %s.", rated["session_id"], feedback)
            return {
                "session_id": rated["session_id"],
                "feedback_id": rated["feedback_id"],
                "feedback": feedback,
            }


def _check_ways(turn: Any, session_id: Any, feedback_id: Any) -> None:
    if (turn is None) == (session_id is None and feedback_id is None):
        raise AgentforceInputError("Give either turn (the output of a send) or session_id and feedback_id.")


def _rated(turn: Any, session_id: Any, feedback_id: Any) -> Mapping[str, Any]:
    """Return the answer to rate, which can be given in two ways."""
    _check_ways(turn, session_id, feedback_id)
    answer = {"session_id": session_id, "feedback_id": feedback_id} if turn is None else _last_answer(turn)
    for field in ("session_id", "feedback_id"):
        if not answer.get(field):
            raise AgentforceInputError(_lacking(field, of_turn=turn is not None))
    return answer


def _last_answer(turn: Any) -> Mapping[str, Any]:
    value = turn.to_dict() if isinstance(turn, Turn) else turn
    if isinstance(value, Mapping) and isinstance(value.get("turns"), Sequence) and value["turns"]:
        value = value["turns"][-1]
    if not isinstance(value, Mapping):
        raise AgentforceInputError(
            f"turn must be the output of a send or a conversation (a dict with session_id and feedback_id), "
            f"but is {type(turn).__name__}. Pass send.output itself."
        )
    return value


def _lacking(field: str, *, of_turn: bool) -> str:
    if not of_turn:
        return f"{field} is missing: give session_id and feedback_id, or turn."
    if field == "session_id":
        return "turn has no session_id. Pass the output of a send or a conversation."
    return (
        "turn has no feedback_id, so it cannot be rated: the org provides none for a greeting and for some "
        "failures. Rate only turns whose feedback_id is not None."
    )
