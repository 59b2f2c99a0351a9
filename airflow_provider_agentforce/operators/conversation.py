"""A whole conversation in one task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from airflow_provider_agentforce._compat import AirflowFailException, AirflowSkipException, Context
from airflow_provider_agentforce.client import checks
from airflow_provider_agentforce.client.limits import check_message_count
from airflow_provider_agentforce.client.models import FAILED, Turn
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceInputError,
    DeliveryUnknownError,
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
from airflow_provider_agentforce.operators._recorded import RecordedConversation

Message = str | Mapping[str, Any]
NextMessage = Callable[[list[Turn]], Message | None]

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
    fails, the XCom ``turns`` keeps the answers that it got.

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
    :param agent_id: BotDefinition id (``0Xx…``). Default: the connection's extra ``agent_id``.
    :param variables: context variables for the start.
    :param tz: time zone name, such as ``Europe/Berlin``.
    :param bypass_user: ``True`` for service agents, ``False`` for employee agents.
    :param stream: have answers sent in pieces and log what the agent is doing; the result is the same.
    :param fail_on: outcomes of any answer that fail the task.
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
        stream: bool = False,
        fail_on: Collection[str] = (FAILED,),
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
        self.stream = stream
        self.fail_on = check_fail_on(fail_on)
        self.end_reason = checks.end_reason(end_reason, "end_reason")
        self.on_unknown_delivery = check_choice("on_unknown_delivery", on_unknown_delivery, "fail", "resend")
        self.on_session_lost = check_choice("on_session_lost", on_session_lost, "fail", "restart")

    def execute(self, context: Context) -> dict[str, Any]:
        """Hold the conversation, or the rest of one that an earlier try began."""
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415

        resend = self.on_unknown_delivery == "resend"
        with airflow_errors(resend_unknown=resend):
            following = self.next_message or _in_order(self.messages)
            client = self.open_client()
            if self.messages is not None:
                check_message_count(len(self.messages), client.settings.max_messages_per_session)
            agent_id = client.settings.agent(self.agent_id)
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
                    "external_session_key": key_of(context["ti"]),
                },
            )
            with chat:
                try:
                    self._talk(chat, following, context)
                    return self._result(chat, context)
                except BaseException as error:
                    try:
                        self._say_what_a_retry_does(chat, error, can_resume=ledger.keeps, context=context)
                    finally:
                        # Last, since an orphan of a dead supervisor cannot even log.
                        self._keep(chat.turns, error, context)
                    raise

    def _talk(self, chat: RecordedConversation, following: NextMessage, context: Context) -> None:
        session = chat.session
        self.push(context, {"session_id": session.session_id, "agent_id": session.agent_id})
        self.log.info(
            "Session %s with agent %s; external session key %s.",
            session.session_id,
            session.agent_id,
            session.external_session_key,
        )
        try:
            self._exchange(chat, following)
        except SessionNotFoundError:
            # With nothing answered yet, another session loses nothing.
            if not chat.resumed or (chat.turns and self.on_session_lost == "fail"):
                raise
            self.log.warning("The session of the earlier try is gone; the conversation begins anew.")
            chat.restart()
            self.push(context, {"session_id": chat.session.session_id})
            self._exchange(chat, following)

    def _exchange(self, chat: RecordedConversation, following: NextMessage) -> None:
        for text, variables in _messages(following, chat.turns):
            turn = chat.send(text, variables, stream=self.stream, on_chunk=self.log_progress)
            self.log.info("The agent replied to message %d; outcome: %s.", turn.sequence_id, turn.outcome)
            check_outcome(turn, self.fail_on)
            if turn.session_ended:
                self.log.info("The agent has ended the session.")
                break
        if not chat.turns:
            raise AgentforceInputError("messages: the function returned no message at all.")

    def _result(self, chat: RecordedConversation, context: Context) -> dict[str, Any]:
        last = chat.turns[-1].to_dict()
        values = {key: last[key] for key in ("session_id", "sequence_id", "agent_id", "text", "outcome")}
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
        if not isinstance(error, DeliveryUnknownError):
            error.hint = f"{error.hint} {_NOT_AGAIN.format(len(chat.turns))}".strip()

    def _keep(self, turns: list[Turn], error: BaseException, context: Context) -> None:
        if turns:
            self.push_in_failure(context, "turns", [turn.to_dict() for turn in turns])
        if isinstance(error, DeliveryUnknownError):
            self.keep_partial(context, error)


def _in_order(messages: Any) -> NextMessage:
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


def _messages(following: NextMessage, turns: list[Turn]) -> Iterator[tuple[str, Any]]:
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


def _interrupted(error: BaseException, turns: list[Turn]) -> DeliveryUnknownError:
    lost = DeliveryUnknownError(
        f"{type(error).__name__} after {len(turns)} answered messages.",
        hint=_NOT_AGAIN.format(len(turns)),
        applied=True,
        session_id=turns[-1].session_id,
    )
    lost.turn = turns[-1]
    return lost
