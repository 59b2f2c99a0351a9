"""Sending one message."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.client.models import FAILED, Turn
from airflow_provider_agentforce.exceptions import DeliveryUnknownError
from airflow_provider_agentforce.operators._base import (
    AgentforceBaseOperator,
    check_choice,
    check_fail_on,
    check_outcome,
    session_of,
)
from airflow_provider_agentforce.operators._ledger import Ledger, fingerprint, send_once


class SendMessageOperator(AgentforceBaseOperator):
    """Send one message of a session and return the agent's answer.

    **Sends** ``POST /sessions/{id}/messages`` with the next sequence id. **Returns** a dict with
    ``session_id``, ``sequence_id``, ``agent_id``, ``text``, ``outcome``, ``messages``, ``citations``,
    ``results``, ``feedback_id``, ``plan_id`` and ``is_content_safe``; the first five are XComs of their own,
    too. It is what the next send takes as ``session``.

    **A retry** happens only when the agent did not act; it sends the same message with the same number. When
    the agent may have acted, the task fails at once, whatever its ``retries``, unless
    ``on_unknown_delivery="resend"``. What could be read of an answer that was cut is in the XCom
    ``partial_answer``. On Airflow 3.3 and later that holds for a try that was killed, too: the next one
    returns the answer that was recorded, or fails if there is none. A person's clear sends the message anew.

    **Templated:** ``text``, ``session``, ``session_id``, ``sequence_id``, ``variables``, ``in_reply_to``,
    ``agentforce_conn_id``. An answer that comes in through XCom is not rendered again.

    The session is not ended here, also not on failure: that is the job of the
    :class:`~airflow_provider_agentforce.operators.EndSessionOperator` at its end.

    :param text: the message.
    :param session: the output of the start or of the last send.
    :param session_id: instead of ``session``, together with ``sequence_id``.
    :param sequence_id: number of the last message, 0 after the start; text with digits is fine.
    :param variables: context variables to set with this message.
    :param in_reply_to: id of the message that this one answers.
    :param stream: have the answer sent in pieces and log what the agent is doing; the result is the same.
    :param fail_on: outcomes that fail the task: ``failed``, ``escalated``, ``needs_input``,
        ``needs_confirmation``, ``ended``, ``answered``.
    :param on_unknown_delivery: ``"fail"``: never send a message twice; ``"resend"``: let Airflow retry, for a
        message that does no harm twice.
    :param agentforce_conn_id: connection of type ``agentforce``.
    """

    template_fields: Sequence[str] = (
        "text",
        "session",
        "session_id",
        "sequence_id",
        "variables",
        "in_reply_to",
        "agentforce_conn_id",
    )
    template_fields_renderers = {"session": "json", "variables": "json"}  # noqa: RUF012 - Airflow's own form

    def __init__(
        self,
        *,
        text: str,
        session: Any = None,
        session_id: str | None = None,
        sequence_id: int | str | None = None,
        variables: Any = None,
        in_reply_to: str | None = None,
        stream: bool = False,
        fail_on: Collection[str] = (FAILED,),
        on_unknown_delivery: Literal["fail", "resend"] = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.text = text
        self.session = session
        self.session_id = session_id
        self.sequence_id = sequence_id
        self.variables = variables
        self.in_reply_to = in_reply_to
        self.stream = stream
        self.fail_on = check_fail_on(fail_on)
        self.on_unknown_delivery = check_choice("on_unknown_delivery", on_unknown_delivery, "fail", "resend")

    def execute(self, context: Context) -> dict[str, Any]:
        """Send the message."""
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415

        resend = self.on_unknown_delivery == "resend"
        with airflow_errors(resend_unknown=resend):
            session = session_of(self.session, self.session_id, self.sequence_id)
            client = self.open_client()
            ledger = Ledger.of(context)
            # Without records, a second try has to suppose that the first one is still being worked on.
            repeated = resend and not ledger.keeps and context["ti"].try_number > 1
            asked = (self.text, self.variables, self.in_reply_to)
            mark = fingerprint(self.agentforce_conn_id, session.session_id, session.sequence_id, *asked)

            def deliver(on_sending: Callable[[], None], after_unknown: bool) -> Turn:
                return client.send_message(
                    session,
                    self.text,
                    variables=self.variables,
                    in_reply_to=self.in_reply_to,
                    stream=self.stream,
                    on_chunk=self.log_progress,
                    after_unknown=after_unknown or repeated,
                    on_sending=on_sending,
                )

            try:
                turn = send_once(
                    ledger, "turn", mark, deliver, session_id=session.session_id, resend_unknown=resend
                )
            except DeliveryUnknownError as error:
                self.keep_partial(context, error)
                raise
            return self._keep(context, turn, recorded=ledger.keeps)

    def _keep(self, context: Context, turn: Turn, *, recorded: bool) -> dict[str, Any]:
        self.log.info("The agent replied to message %d; outcome: %s.", turn.sequence_id, turn.outcome)
        values = turn.to_dict()
        try:
            self.push(context, values)
        except BaseException as error:
            if recorded:
                raise  # the next try returns the answer from its record
            lost = DeliveryUnknownError(
                f"The agent answered, but its answer could not be stored: {type(error).__name__}.",
                operation="send",
                applied=True,
                session_id=turn.session_id,
            )
            lost.turn = turn
            raise lost from error
        check_outcome(turn, self.fail_on)
        return values
