"""A whole conversation in one task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_agentforce._compat import AirflowFailException, AirflowSkipException, Context
from airflow_provider_agentforce.client import checks
from airflow_provider_agentforce.client.checks import message_count
from airflow_provider_agentforce.client.models import FAILED, Turn
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceInputError,
    DeliveryUnknownError,
    InvalidOutputError,
    SessionNotFoundError,
)
from airflow_provider_agentforce.operators._base import (
    AgentforceBaseOperator,
    check_choice,
    check_fail_on,
    check_outcome,
    key_of,
)
from airflow_provider_agentforce.operators._ledger import Ledger, fingerprint
from airflow_provider_agentforce.operators._messages import NextMessage, in_order, texts_of
from airflow_provider_agentforce.operators._recorded import RecordedConversation
from airflow_provider_agentforce.operators._structured import (
    check_output_retries,
    name_of_question,
    output_of,
    read_or_ask,
)

if TYPE_CHECKING:
    from airflow_provider_agentforce.structured import OutputType

_NOT_AGAIN = (
    "Messages 1 to {} are answered, see the XCom turns; to hold the conversation anew would send them again, "
    'so the task ends here. on_session_lost="restart" allows it.'
)


class ConversationOperator(AgentforceBaseOperator):
    """Hold one conversation: start a session, send the messages in order, end the session.

    **Sends** the start, one message after the other, and the end. Stops early when the agent ends the
    session. The session is ended on success, failure and kill. **Returns** a dict with ``session_id``,
    ``sequence_id``, ``agent_id``, ``text`` and ``outcome`` (of the last answer), ``external_session_key`` and
    ``turns`` (one dict per answer, as of a send); the first five are XComs of their own, too. When the task
    fails, the XCom ``turns`` keeps the answers that it got. With ``output_type`` there is also ``result``,
    the last answer as plain JSON (an XCom of its own, too), ``None`` if the outcome is not ``answered``.

    **A retry** on Airflow 3.3 and later goes on in the same session with the first message that was not
    answered, also when the try before was killed; a message that may have been acted on fails the task at
    once, whatever its ``retries``, unless ``on_unknown_delivery="resend"``. When the session is gone by then,
    the task fails and says which messages are answered, unless ``on_session_lost="restart"``. On older
    Airflow a retry could only hold the conversation anew, so the task fails at once when a message was
    answered before. A person's clear holds the conversation anew.

    **Templated:** ``messages`` (a list), ``agent_id``, ``variables``, ``tz``, ``agentforce_conn_id``.

    :param messages: a list of texts, or of dicts with ``text`` and ``variables``; or a function that is given
        the answers so far (a list of :class:`~airflow_provider_agentforce.client.Turn`) and returns the next
        message, or ``None`` to end.
    :param agent_id: id (``0Xx…``) or API name of the agent. Default: the connection's extra ``agent_id``.
        A name is looked up in the org when a session is started; results hold the id.
    :param variables: context variables for the start.
    :param tz: time zone name, such as ``Europe/Berlin``.
    :param bypass_user: ``True`` for service agents, ``False`` for employee agents.
    :param surface_type: ``Custom`` for an agent that has a custom connection: have it answer in that one's
        response formats, which ``output_type`` reads.
    :param stream: have answers sent in pieces and log what the agent is doing; the result is the same.
    :param fail_on: outcomes of any answer that fail the task.
    :param output_type: what the last answer has to be: a pydantic model, a ``TypedDict``, another type, or a
        JSON schema, see :class:`~airflow_provider_agentforce.structured.OutputType`. An answer that
        does not fit fails the task with ``InvalidOutputError``, without a retry.
    :param output_retries: 1: ask the agent once to correct an answer that does not fit, as one more message
        of the session; 0: do not.
    :param end_reason: why the session ends: ``UserRequest``, ``Transfer``, ``Expiration``, ``Error``
        or ``Other``.
    :param on_unknown_delivery: ``"fail"``: never send a message twice; ``"resend"``: let Airflow retry, for
        messages that do no harm twice.
    :param on_session_lost: ``"fail"``, or ``"restart"``: when a retry finds the session ended, hold the
        conversation anew in another one, sending again what was answered.
    :param agentforce_conn_id: connection of type ``agentforce``.
    """

    template_fields: Sequence[str] = ("messages", "agent_id", "variables", "tz", "agentforce_conn_id")
    template_fields_renderers = {"messages": "json", "variables": "json"}  # noqa: RUF012 - Airflow's own form

    def __init__(
        self,
        *,
        messages: Any,
        agent_id: str | None = None,
        variables: Any = None,
        tz: str | None = None,
        bypass_user: bool = True,
        surface_type: str | None = None,
        stream: bool = False,
        fail_on: Collection[str] = (FAILED,),
        output_type: Any = None,
        output_retries: int = 1,
        end_reason: str = "UserRequest",
        on_unknown_delivery: Literal["fail", "resend"] = "fail",
        on_session_lost: Literal["fail", "restart"] = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Airflow calls a template field that is a function itself, with other arguments.
        self.next_message: NextMessage | None = messages if callable(messages) else None
        self.messages = None if callable(messages) else messages
        self.agent_id = agent_id
        self.variables = variables
        self.tz = tz
        self.bypass_user = bypass_user
        self.surface_type = surface_type
        self.stream = stream
        self.fail_on = check_fail_on(fail_on)
        self.output_type = output_type
        self.output_retries = check_output_retries(output_retries)
        self.end_reason = checks.end_reason(end_reason, "end_reason")
        self.on_unknown_delivery = check_choice("on_unknown_delivery", on_unknown_delivery, "fail", "resend")
        self.on_session_lost = check_choice("on_session_lost", on_session_lost, "fail", "restart")

    def execute(self, context: Context) -> dict[str, Any]:
        """Hold the conversation, or the rest of one that an earlier try began."""
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415

        resend = self.on_unknown_delivery == "resend"
        with airflow_errors(resend_unknown=resend):
            following = self.next_message or in_order(self.messages)
            output = output_of(self.output_type)
            client = self.open_client()
            most = client.settings.max_messages_per_session
            if self.messages is not None:
                message_count(len(self.messages), most)
            agent_id = client.settings.agent(self.agent_id)
            self.link_to(agent_id, context)
            ledger = Ledger.of(context)
            chat = RecordedConversation(
                client,
                ledger,
                mark=fingerprint(self.agentforce_conn_id, agent_id),
                resend_unknown=resend,
                end_reason=self.end_reason,
                options={
                    "agent_id": agent_id,
                    "variables": self.variables,
                    "tz": self.tz,
                    "bypass_user": self.bypass_user,
                    "surface_type": self.surface_type,
                    "external_session_key": key_of(context["ti"]),
                },
            )
            with chat:
                try:
                    exchange = partial(self._exchange, chat, following, output, most)
                    results = self._talk(chat, exchange, context)
                    return self._values(chat, results, context)
                except BaseException as error:
                    try:
                        self._say_what_a_retry_does(chat, error, can_resume=ledger.keeps, context=context)
                    finally:
                        # Last, since an orphan of a dead supervisor cannot even log.
                        self._keep(chat.turns, error, context)
                    raise

    def _talk(
        self, chat: RecordedConversation, exchange: Callable[[], dict[str, Any]], context: Context
    ) -> dict[str, Any]:
        session = chat.session
        self.push(context, {"session_id": session.session_id, "agent_id": session.agent_id})
        self.link_to(session.agent_id, context)
        self.log.info(
            "Session %s with agent %s; external session key %s.",
            session.session_id,
            session.agent_id,
            session.external_session_key,
        )
        try:
            return exchange()
        except SessionNotFoundError:
            # With nothing answered yet, another session loses nothing.
            if not chat.resumed or (chat.turns and self.on_session_lost == "fail"):
                raise
            self.log.warning("The session of the earlier try is gone; the conversation begins anew.")
            chat.restart()
            self.push(context, {"session_id": chat.session.session_id})
            return exchange()

    def _exchange(
        self, chat: RecordedConversation, following: NextMessage, output: OutputType | None, most: int
    ) -> dict[str, Any]:
        """Send the messages, then make data of the last answer; return what that adds to the result."""
        for text, variables in texts_of(following, chat.turns):
            if self._send(chat, text, variables).session_ended:
                self.log.info("The agent has ended the session.")
                break
        if not chat.turns:
            raise AgentforceInputError("messages: the function returned no message at all.")
        if output is None:
            return {}
        ask = partial(self._send, chat, variables=None, known_as=name_of_question(output))
        retries = self.output_retries
        return {"result": read_or_ask(output, chat.turns[-1], ask, retries=retries, most_messages=most)}

    def _send(
        self, chat: RecordedConversation, text: str, variables: Any, known_as: str | None = None
    ) -> Turn:
        turn = chat.send(text, variables, known_as=known_as, stream=self.stream, on_chunk=self.log_progress)
        self.log.info("The agent replied to message %d; outcome: %s.", turn.sequence_id, turn.outcome)
        check_outcome(turn, self.fail_on)
        return turn

    def _values(
        self, chat: RecordedConversation, results: dict[str, Any], context: Context
    ) -> dict[str, Any]:
        last = chat.turns[-1].to_dict()
        keys = ("session_id", "sequence_id", "agent_id", "text", "outcome")
        values = {**{key: last[key] for key in keys}, **results}
        self.push(context, values)
        return {
            **values,
            "external_session_key": chat.session.external_session_key,
            "turns": [turn.to_dict() for turn in chat.turns],
        }

    def _say_what_a_retry_does(
        self, chat: RecordedConversation, error: BaseException, *, can_resume: bool, context: Context
    ) -> None:
        """Leave the session to a retry that can go on in it, and forbid one that could only repeat."""
        if isinstance(error, AirflowFailException | AirflowSkipException):
            return  # the Dag's own word that no try follows
        ti, resend = context["ti"], self.on_unknown_delivery == "resend"
        unknown = isinstance(error, DeliveryUnknownError) and resend
        # Whatever else failed, a function of the Dag or XCom, the records know what is answered.
        passing = bool(chat.turns) and (
            error.retryable if isinstance(error, AgentforceError) else isinstance(error, Exception)
        )
        if can_resume and (passing or unknown) and not self._killed and ti.try_number <= ti.max_tries:
            chat.leave_open()
            return
        if not chat.turns or (resend and not can_resume):
            return
        if self.on_session_lost == "restart":
            return
        if not isinstance(error, AgentforceError):
            raise _interrupted(error, chat.turns) from error
        error.retryable = False
        if not isinstance(error, DeliveryUnknownError | InvalidOutputError):
            error.hint = f"{error.hint} {_NOT_AGAIN.format(len(chat.turns))}".strip()

    def _keep(self, turns: list[Turn], error: BaseException, context: Context) -> None:
        if turns:
            self.push_in_failure(context, "turns", [turn.to_dict() for turn in turns])
        if isinstance(error, DeliveryUnknownError):
            self.keep_partial(context, error)


def _interrupted(error: BaseException, turns: list[Turn]) -> DeliveryUnknownError:
    lost = DeliveryUnknownError(
        f"{type(error).__name__} after {len(turns)} answered messages.",
        hint=_NOT_AGAIN.format(len(turns)),
        applied=True,
        session_id=turns[-1].session_id,
    )
    lost.turn = turns[-1]
    return lost
