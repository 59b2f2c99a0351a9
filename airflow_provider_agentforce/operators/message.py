"""Sending one message."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.client.models import FAILED, Session, Turn, session_from
from airflow_provider_agentforce.exceptions import AgentforceError, DeliveryUnknownError
from airflow_provider_agentforce.operators._base import (
    AgentforceBaseOperator,
    check_choice,
    check_fail_on,
    check_outcome,
    session_of,
)
from airflow_provider_agentforce.operators._ledger import CORRECTION, Ledger, fingerprint, send_once
from airflow_provider_agentforce.operators._structured import (
    check_output_retries,
    name_of_question,
    output_of,
    read_or_ask,
)

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient

_ANSWERED = "This is about the corrective question; the message is answered, see the XCom turns."
_NOT_AGAIN = "A retry would send the message again, so the task ends here."


class SendMessageOperator(AgentforceBaseOperator):
    """Send one message of a session and return the agent's answer.

    **Sends** ``POST /sessions/{id}/messages`` with the next sequence id. **Returns** a dict with
    ``session_id``, ``sequence_id``, ``agent_id``, ``text``, ``outcome``, ``messages``, ``citations``,
    ``results``, ``feedback_id``, ``plan_id`` and ``is_content_safe``; the first five are XComs of their own,
    too. It is what the next send takes as ``session``. With ``output_type`` there is also ``result``, the
    answer as plain JSON (an XCom of its own, too); it is ``None`` if the outcome is not ``answered``. When a
    corrective question was asked, the dict is that of its answer.

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
    :param output_type: what the answer has to be: a pydantic model, a ``TypedDict``, another type, or a JSON
        schema, see :class:`~airflow_provider_agentforce.structured.OutputType`. An answer that does
        not fit fails the task with ``InvalidOutputError``, without a retry; the XCom ``turns`` keeps it.
    :param output_retries: 1: ask the agent once to correct an answer that does not fit, as the next message
        of the session; 0: do not.
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
        output_type: Any = None,
        output_retries: int = 1,
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
        self.output_type = output_type
        self.output_retries = check_output_retries(output_retries)
        self.on_unknown_delivery = check_choice("on_unknown_delivery", on_unknown_delivery, "fail", "resend")

    def execute(self, context: Context) -> dict[str, Any]:
        """Send the message, and make data of the answer."""
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415

        with airflow_errors(resend_unknown=self._resend):
            session = session_of(self.session, self.session_id, self.sequence_id)
            output = output_of(self.output_type)
            client = self.open_client()
            self.link_to(session.agent_id, context)
            ledger = Ledger.of(context)
            send = partial(self._send, context, client, ledger)
            asked = {"text": self.text, "variables": self.variables, "in_reply_to": self.in_reply_to}
            place = (self.agentforce_conn_id, session.session_id, session.sequence_id)
            mark = fingerprint(*place, *asked.values())
            turn = send(key="turn", mark=mark, session=session, **asked)
            check_outcome(turn, self.fail_on)
            if output is None:
                return turn.to_dict()
            turns = [turn]

            def ask(question: str) -> Turn:
                known_as = fingerprint(mark, name_of_question(output))
                turns.append(send(key=CORRECTION, mark=known_as, session=session_from(turn), text=question))
                check_outcome(turns[-1], self.fail_on)
                return turns[-1]

            most = client.settings.max_messages_per_session
            try:
                result = read_or_ask(output, turn, ask, retries=self.output_retries, most_messages=most)
                self._push(context, turns[-1], {"result": result}, recorded=ledger.keeps)
            except BaseException as error:
                self.push_in_failure(context, "turns", [one.to_dict() for one in turns])
                self._tell_of_the_answer(turn, error, recorded=ledger.keeps)
                raise
            return {**turns[-1].to_dict(), "result": result}

    @property
    def _resend(self) -> bool:
        return self.on_unknown_delivery == "resend"

    def _send(
        self,
        context: Context,
        client: AgentforceClient,
        ledger: Ledger,
        *,
        key: str,
        mark: str,
        session: Session,
        text: str,
        variables: Any = None,
        in_reply_to: str | None = None,
    ) -> Turn:
        """Send a message once and keep its answer in XCom."""
        # Without records, a second try has to suppose that the first one is still being worked on.
        repeated = self._resend and not ledger.keeps and context["ti"].try_number > 1

        def deliver(on_sending: Callable[[], None], after_unknown: bool) -> Turn:
            return client.send_message(
                session,
                text,
                variables=variables,
                in_reply_to=in_reply_to,
                stream=self.stream,
                on_chunk=self.log_progress,
                repeated=after_unknown or repeated,
                before_send=lambda _key: on_sending(),
            )

        try:
            turn = send_once(
                ledger, key, mark, deliver, session_id=session.session_id, resend_unknown=self._resend
            )
        except DeliveryUnknownError as error:
            self.keep_partial(context, error)
            raise
        self.log.info("The agent replied to message %d; outcome: %s.", turn.sequence_id, turn.outcome)
        self._push(context, turn, turn.to_dict(), recorded=ledger.keeps)
        return turn

    def _push(self, context: Context, turn: Turn, values: dict[str, Any], *, recorded: bool) -> None:
        try:
            self.push(context, values)
        except BaseException as error:
            if recorded:
                raise  # the next try returns the answer from its record
            raise _lost(turn, f"its answer could not be stored: {type(error).__name__}.") from error

    def _tell_of_the_answer(self, turn: Turn, error: BaseException, *, recorded: bool) -> None:
        """Say that the first message is answered, and let no try follow that knows nothing of it."""
        again = recorded or self._resend
        if not isinstance(error, AgentforceError):
            if again:
                return
            raise _lost(turn, f"asking for a correction failed: {type(error).__name__}.") from error
        if error.applied is False:
            error.applied = True
            error.hint = f"{error.hint} {_ANSWERED}".strip()
        if error.retryable and not again:
            error.retryable = False
            error.hint = f"{error.hint} {_NOT_AGAIN}"


def _lost(turn: Turn, what: str) -> DeliveryUnknownError:
    lost = DeliveryUnknownError(
        f"The agent answered, but {what}", operation="send", applied=True, session_id=turn.session_id
    )
    lost.turn = turn
    return lost
