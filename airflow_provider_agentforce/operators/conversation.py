"""The operator that holds a whole conversation in one task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_agentforce._compat import Context, waits
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.models import FAILED, NEEDS_CONFIRMATION, NEEDS_INPUT, Turn
from airflow_provider_agentforce.delivery import FAIL, Ask, Trace
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    DeliveryUnknownError,
    SessionNotFoundError,
)
from airflow_provider_agentforce.operators import _arguments as arguments
from airflow_provider_agentforce.operators._base import check_outcome
from airflow_provider_agentforce.operators._identity import key_of
from airflow_provider_agentforce.operators._ledger import (
    Ledger,
    fingerprint_of,
    name_of_question,
    turn_key,
    without_requests,
)
from airflow_provider_agentforce.operators._resolving import ResolvesDeliveries
from airflow_provider_agentforce.operators._shared import StartsSessions, StoresPlans

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.messages import MessageLike
    from airflow_provider_agentforce.operators._asking import Decide, Decisions
    from airflow_provider_agentforce.operators._resumable import ResumableConversation
    from airflow_provider_agentforce.structured import OutputType

    NextMessage = Callable[[list[Turn]], MessageLike | Mapping[str, Any] | None]


_RESTART_ALLOWS_IT = 'on_session_lost="restart" allows it.'


class ConversationOperator(StartsSessions, StoresPlans, ResolvesDeliveries):
    """Hold one conversation: start a session, send the messages in order, and end the session.

    **Sends** the start, one message after another, and the end. It stops early if the agent ends the session.
    The session is ended on success, failure and kill. **Returns** a dict with ``session_id``,
    ``sequence_id``, ``agent_id``, ``text`` and ``outcome`` (of the last answer), ``agent_version``,
    ``external_session_key`` and ``turns`` (one dict per answer, as returned by a send); the first five are
    also separate XComs. If the task fails, the XCom ``turns`` has the answers that it received. With
    ``output_type`` there is also ``result``, the last answer as plain JSON (also a separate XCom), or
    ``None`` if the outcome is not ``answered``.

    **A retry** on Airflow 3.3 and later continues in the same session with the first message that was not
    answered, even if the previous try was killed. If the agent may have acted on a message, the steps of
    ``on_unknown_delivery`` find out. If they cannot, the task fails at once, whatever its ``retries``,
    unless the last step is ``"resend"``. If the session has ended by then, the task fails and says which
    messages are answered, unless ``on_session_lost="restart"``. On older Airflow a retry could only repeat
    the conversation, so the task fails at once if a message was already answered. Clearing the task repeats
    the conversation.

    **Templated:** ``messages`` (a list), ``agent_id``, ``variables``, ``tz``, ``agentforce_conn_id``.

    :param messages: a list of strings, of dicts with ``text`` and ``variables``, or of
        :class:`~airflow_provider_agentforce.client.messages.Reply`, ``Cancel`` or ``Transfer``; or a function
        that receives the answers so far (a list of :class:`~airflow_provider_agentforce.client.Turn`) and
        returns the next message, or ``None`` to end.
    :param on_needs_confirmation: decides when the agent wants an approval: a function that receives the turn
        and returns a ``Reply()``, a ``Cancel()``, a string, or ``None`` to continue with the next message; or
        a person: ``"ask"`` or an :class:`~airflow_provider_agentforce.delivery.Ask`, on Airflow 3.3 and
        later. The task waits without a worker slot, in the same session. If no one decides in time, it
        cancels and ends. On Airflow 3.3 a second question fails the task.
    :param on_needs_input: the same for the agent's questions; a person fills in the value. The next try calls
        functions again, so they must make the same decision about the same turn.
    :param agent_id: id (``0Xx…``) or API name of the agent. Default: the connection's extra ``agent_id``.
        A name is looked up in the org when a session is started; results contain the id.
    :param variables: context variables for the start.
    :param tz: time zone name, such as ``Europe/Berlin``.
    :param bypass_user: ``True`` for service agents, ``False`` for employee agents. Default: the value that
        fits the connection's ``auth``.
    :param surface_type: ``Custom`` for an agent that has a custom connection, to get answers in that
        connection's response formats, which ``output_type`` reads.
    :param stream: receive answers in pieces and log the agent's progress; the result is the same.
    :param fail_on: outcomes of any answer that fail the task.
    :param output_type: the type of the last answer: a pydantic model, a ``TypedDict``, another type, or a
        JSON schema, see :class:`~airflow_provider_agentforce.structured.OutputType`. An answer that
        does not fit fails the task with ``InvalidOutputError``, without a retry.
    :param output_retries: 1: ask the agent once to correct an answer that does not fit, as one more message
        of the session; 0: do not.
    :param end_reason: why the session ends: ``UserRequest``, ``Transfer``, ``Expiration``, ``Error``
        or ``Other``.
    :param on_unknown_delivery: the reaction if it is not known whether the agent acted: ``"fail"``; a
        function that takes an :class:`~airflow_provider_agentforce.delivery.UnknownDelivery` and returns
        ``True``, ``False`` or ``None``; ``"trace"``; ``"ask"``; ``"resend"``, for messages that do no harm
        if they arrive twice; a :class:`~airflow_provider_agentforce.delivery.Check`, ``Trace`` or ``Ask``;
        or a list of these, which run in order.
    :param on_session_lost: ``"fail"``, or ``"restart"``: if a retry finds that the session has ended, repeat
        the conversation in another session, which sends messages again that were already answered.
    :param store_requests: keep each message in the ``request`` of its turn.
    :param store_plans: keep in the ``plan`` of every turn which subagent and actions the planner chose. This
        needs one more call for each turn, which is not documented; if it fails, the log says so and the task
        continues.
    :param budget: limit on the use per day, over all runs:
        :class:`Budget("messages", per_day=5000) <airflow_provider_agentforce.client.budget.Budget>`.
    :param deferrable: free the worker slot during a wait of a minute or more for a limit or a
        ``Retry-After``. Default: ``[operators] default_deferrable``.
    :param agentforce_conn_id: connection of type ``agentforce``.
    """

    page_kind = "conversation"
    template_fields: Sequence[str] = ("messages", *StartsSessions.template_fields)
    template_fields_renderers = {"messages": "json", "variables": "json"}  # noqa: RUF012 - Airflow's own form

    def __init__(
        self,
        *,
        messages: Any,
        on_needs_confirmation: Decide | Literal["ask"] | Ask | None = None,
        on_needs_input: Decide | Literal["ask"] | Ask | None = None,
        stream: bool = False,
        fail_on: Collection[str] = (FAILED,),
        end_reason: str = "UserRequest",
        on_session_lost: Literal["fail", "restart"] = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Airflow calls a template field that is a function itself, with other arguments.
        self.next_message: NextMessage | None = messages if callable(messages) else None
        self.messages = None if callable(messages) else messages
        self.deciders = {
            NEEDS_CONFIRMATION: arguments.check_decider("on_needs_confirmation", on_needs_confirmation),
            NEEDS_INPUT: arguments.check_decider("on_needs_input", on_needs_input),
        }
        self.stream = arguments.check_choice("stream", stream, True, False)
        self.fail_on = arguments.check_fail_on(fail_on)
        self.end_reason = validation.end_reason(end_reason, "end_reason")
        self.on_session_lost = arguments.check_choice("on_session_lost", on_session_lost, "fail", "restart")
        self._turns: list[Turn] = []
        self.check_literals()

    def check_arguments(self) -> None:
        """Refuse literals that cannot be messages. A template may still render to messages."""
        super().check_arguments()
        if self.messages is not None and not arguments.may_change(self.messages):
            arguments.check_messages(self.messages)
            for index, message in enumerate(self.messages):
                arguments.check_message(message, f"messages[{index}]")

    def execute(self, context: Context) -> dict[str, Any]:
        """Hold the conversation, or the rest of a conversation that an earlier try began."""
        return self.until_known(context)

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Continue after a wait."""
        return self.until_known(context, event)

    @property
    def may_wait(self) -> bool:
        """Whether the task may free its slot and continue later."""
        return self.resolves or any(isinstance(one, Ask) for one in self.deciders.values())

    def entry_key(self, number: int) -> str:
        """Return the key of a message's entry in the ledger."""
        return turn_key(number)

    def attempt(self, context: Context, ledger: Ledger) -> dict[str, Any]:
        """Hold the conversation, or the rest of a recorded conversation."""
        following = self.next_message or in_order(self.messages)
        output = arguments.output_of(self.output_type)
        with self._conversation(ledger, context) as conversation:
            try:
                results = self._hold(conversation, following, output, context, ledger)
                self.page.add_plans(conversation.turns)
                return self.update_outlet_events(context, self._values(conversation, results, context))
            except waits():
                conversation.leave_open()
                raise
            except BaseException as error:
                if self._waits_for_limit(conversation, error, ledger):
                    raise
                if self.resolvable(error, ledger):
                    self._turns = conversation.turns
                    if self._may_send_more(len(conversation.turns)):
                        conversation.leave_open()
                    raise
                try:
                    self._decide_on_a_retry(conversation, error, recorded=ledger.keeps, context=context)
                finally:
                    # Last, because a process whose supervisor is dead cannot push an XCom, or even log.
                    self._keep(conversation.turns, error, context)
                raise

    def _waits_for_limit(
        self, conversation: ResumableConversation, error: BaseException, ledger: Ledger
    ) -> bool:
        """Return whether the conversation continues after a wait for a limit; then its session stays open."""
        if self.pause_for(error) is None or (conversation.turns and not ledger.keeps):
            return False
        if conversation.turns:
            conversation.leave_open()
        return True

    def answers_before(self) -> Sequence[Turn]:
        """Return the answers so far: no other task uses the session."""
        return self._turns

    def unresolved(self, context: Context, ledger: Ledger, *, retried: bool) -> None:
        """Keep the answers; end the session, unless the next try continues in it."""
        if not retried:
            from airflow_provider_agentforce.operators._resumable import end_session  # noqa: PLC0415

            end_session(self.open_client(), ledger)
        if self._turns:
            self.push_in_failure(context, "turns", [turn.to_dict() for turn in self._turns])

    def _may_send_more(self, answered: int) -> bool:
        """Return whether the session is still needed once the delivery of its last message is known.

        A message that was not acted on is sent again in its session, if that had earlier messages.
        """
        decides = any(self.deciders.values()) or self.output_type is not None
        last = self.messages is not None and answered + 1 == len(self.messages) and not decides
        may_resend = any(step != FAIL and not isinstance(step, Trace) for step in self.steps)
        return not last or (answered > 0 and may_resend)

    def _conversation(self, ledger: Ledger, context: Context) -> ResumableConversation:
        from airflow_provider_agentforce.operators._resumable import ResumableConversation  # noqa: PLC0415

        client = self.open_client()
        if self.messages is not None:
            validation.message_count(len(self.messages), client.settings.max_messages_per_session)
        agent_id = client.settings.agent(self.agent_id)
        self.link_to(agent_id, context)
        return ResumableConversation(
            client,
            ledger,
            self.session_options(agent_id, key_of(context["ti"])),
            fingerprint=fingerprint_of(self.agentforce_conn_id, agent_id),
            resend_unknown=self.resends,
            end_reason=self.end_reason,
            store_requests=self.store_requests,
            explain=self.explain(client),
            page=self.page,
        )

    def _hold(
        self,
        conversation: ResumableConversation,
        following: NextMessage,
        output: OutputType | None,
        context: Context,
        ledger: Ledger,
    ) -> dict[str, Any]:
        session = conversation.open_session.session
        self.push(context, {"session_id": session.session_id, "agent_id": session.agent_id})
        self.link_to(session.agent_id, context)
        self.log.info(
            "Session %s with agent %s; external session key %s.",
            session.session_id,
            session.agent_id,
            session.external_session_key,
        )
        from airflow_provider_agentforce.operators._asking import Decisions  # noqa: PLC0415 - not at parse time

        send = partial(self._send, conversation, context, ledger)
        ask = partial(self.ask, context=context, ledger=ledger)
        decisions = Decisions(self.deciders, ledger=ledger, ask=ask)
        try:
            return self._exchange(conversation, following, output, send, decisions)
        except SessionNotFoundError:
            # If nothing was answered yet, another session loses nothing.
            if not conversation.resumed or (conversation.turns and self.on_session_lost == "fail"):
                raise
            self.log.warning("The session of the earlier try has ended; the conversation starts again.")
            decisions.begin_again(len(conversation.turns))
            conversation.restart()
            self.push(context, {"session_id": conversation.open_session.session.session_id})
            return self._exchange(conversation, following, output, send, decisions)

    def _exchange(
        self,
        conversation: ResumableConversation,
        following: NextMessage,
        output: OutputType | None,
        send: Callable[..., Turn],
        decisions: Decisions,
    ) -> dict[str, Any]:
        """Send the messages, then convert the last answer to data; return the keys that it adds."""
        for said in iter_messages(following, conversation.turns, decisions.on):
            if send(said).session_ended:
                self.log.info("The agent has ended the session.")
                break
            if decisions.ends_with(said):
                self.log.warning("No person decided in time, so no further message is sent.")
                break
        if not conversation.turns:
            raise AgentforceInputError("messages: the function returned no message at all.")
        if output is None:
            return {}
        from airflow_provider_agentforce.structured.corrective_question import read_or_ask  # noqa: PLC0415

        result = read_or_ask(
            output,
            conversation.turns[-1],
            lambda question: send(question, known_as=name_of_question(output)),
            retries=self.output_retries,
            most_messages=self.hook.settings.max_messages_per_session,
        )
        return {"result": result}

    def _send(
        self,
        conversation: ResumableConversation,
        context: Context,
        ledger: Ledger,
        said: MessageLike,
        known_as: str = "",
    ) -> Turn:
        try:
            turn = conversation.open_session.send(
                said, known_as=known_as, stream=self.stream, on_chunk=self.log_progress
            )
        except DeliveryUnknownError as error:
            raise self.for_next_try(error, context, ledger) from error.__cause__
        self.log.info("The agent replied to message %d; outcome: %s.", turn.sequence_id, turn.outcome)
        check_outcome(turn, self.fail_on)
        return turn

    def _values(
        self, conversation: ResumableConversation, results: dict[str, Any], context: Context
    ) -> dict[str, Any]:
        last = conversation.turns[-1].to_dict()
        keys = ("session_id", "sequence_id", "agent_id", "text", "outcome")
        values = {**{key: last[key] for key in keys}, **results}
        self.push(context, values)
        key = conversation.open_session.session.external_session_key
        turns = [turn.to_dict() for turn in conversation.turns]
        more = {"agent_version": last["agent_version"], "external_session_key": key, "turns": turns}
        return without_requests({**values, **more})

    def _decide_on_a_retry(
        self, conversation: ResumableConversation, error: BaseException, *, recorded: bool, context: Context
    ) -> None:
        """Leave the session open for a retry that continues in it; prevent one that could only repeat."""
        from airflow_provider_agentforce.operators._retries import (  # noqa: PLC0415 - not at parse time
            Resume,
            Stop,
            next_try,
            stopped,
        )

        follows = next_try(
            error,
            answered=len(conversation.turns),
            recorded=recorded,
            resend=self.resends,
            restart=self.on_session_lost == "restart",
            tries_left=not self._killed and self.tries_left(context),
        )
        if isinstance(follows, Resume):
            conversation.leave_open()
        elif isinstance(follows, Stop):
            hint = f"{follows.hint} {_RESTART_ALLOWS_IT}" if follows.hint else ""
            made = stopped(error, hint, conversation.turns[-1])
            raise made from made.__cause__

    def _keep(self, turns: list[Turn], error: BaseException, context: Context) -> None:
        if turns:
            self.push_in_failure(context, "turns", [turn.to_dict() for turn in turns])
        if isinstance(error, DeliveryUnknownError):
            self.keep_partial(context, error)


def in_order(messages: Any) -> NextMessage:
    """Return the function that gives the messages of a list one after the other.

    :raises AgentforceInputError: if one of them cannot be sent, before any is.
    """
    arguments.check_messages(messages)
    checked = [_read(message, f"messages[{index}]") for index, message in enumerate(messages)]
    return lambda turns: checked[len(turns)] if len(turns) < len(checked) else None


def iter_messages(
    following: NextMessage, turns: list[Turn], decision_on: Callable[[Turn], MessageLike | None]
) -> Iterator[MessageLike]:
    """Yield each message, and ask for the next one after the answer.

    :param turns: the answers so far; it grows with the conversation.
    :param decision_on: answers a question of the agent, or returns ``None``.
    """
    asked: list[Turn] = []
    while (message := following(asked)) is not None:
        yield _read(message, f"messages[{len(asked)}]")
        asked.append(turns[-1])
        while (decision := decision_on(turns[-1])) is not None:
            yield _read(decision, f"on_{turns[-1].outcome}")
            asked[-1] = turns[-1]


def _read(message: Any, field: str) -> MessageLike:
    from airflow_provider_agentforce.client.messages import (  # noqa: PLC0415 - not at parse time
        Cancel,
        Message,
        Reply,
        Transfer,
        text_message,
    )

    if isinstance(message, Reply | Cancel | Transfer | Message):
        return message
    if not isinstance(message, Mapping):
        return text_message(message, field=field)
    arguments.check_message(message, field)
    variables = validation.variables(message.get("variables"), f"{field}.variables")
    return text_message(message["text"], variables, field=f"{field}.text")
