"""The operator that sends one message."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.models import FAILED, Turn
from airflow_provider_agentforce.exceptions import AgentforceError, DeliveryUnknownError
from airflow_provider_agentforce.operators import _arguments as arguments
from airflow_provider_agentforce.operators._base import check_outcome
from airflow_provider_agentforce.operators._ledger import (
    CORRECTION,
    TURN,
    Ledger,
    TaskJournal,
    name_of_question,
    without_requests,
)
from airflow_provider_agentforce.operators._resolving import ResolvesDeliveries
from airflow_provider_agentforce.operators._session_source import TakesSession, newest_number, number_of
from airflow_provider_agentforce.operators._shared import StoresPlans

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.messages import MessageLike, Transfer
    from airflow_provider_agentforce.client.open_session import OpenSession
    from airflow_provider_agentforce.structured import OutputType

_ANSWERED = "Only the corrective question failed; the message was answered, see the XCom turns."


class SendMessageOperator(TakesSession, StoresPlans, ResolvesDeliveries):
    """Send one message of a session and return the agent's answer.

    **Sends** ``POST /sessions/{id}/messages`` with the next sequence id. **Returns** a dict with
    ``session_id``, ``sequence_id``, ``agent_id``, ``text``, ``outcome``, ``messages``, ``citations``,
    ``results``, ``feedback_id``, ``plan_id``, ``is_content_safe``, ``request``, ``resolution`` (of an unknown
    delivery), ``agent_version`` and, with ``store_plans``, ``plan``; the first five are also separate XComs.
    The next send takes this dict as ``session``. With ``output_type`` there is also
    ``result``, the answer as plain JSON (also a separate XCom), or ``None`` if the outcome is not
    ``answered``. After a corrective question the dict is that of its answer.

    **A retry** happens only if the agent did not act; it sends the same message with the same number. If the
    agent may have acted, the steps of ``on_unknown_delivery`` find out. If they cannot, the task fails at
    once, whatever its ``retries``, unless the last step is ``"resend"``. The part of a cut answer that could
    be read is in the XCom ``partial_answer``. On Airflow 3.3 and later this also applies after a killed try:
    the next try returns the recorded answer, or resolves the delivery or fails if there is none. Clearing the
    task sends the message again.

    **Templated:** ``text``, ``reply``, ``cancel``, ``session``, ``session_id``, ``sequence_id``,
    ``variables``, ``in_reply_to``, ``agentforce_conn_id``. Values from XCom are not rendered again.

    Give exactly one of ``text``, ``reply``, ``cancel`` and ``transfer``. A reply or a cancel that does not
    fit the question in the agent's last answer is refused before anything is sent. The last answer is the
    newest of those in *session* and the upstream tasks.

    This operator never ends the session, not even on failure; use an
    :class:`~airflow_provider_agentforce.operators.EndSessionOperator` for that.

    :param text: the message.
    :param reply: approves what the agent wants to do, or provides what it asks for: the output of the send
        whose answer was the question, or ``[{"type", "property", "value"}]``.
    :param cancel: declines it: ``True``, or the output of that send.
    :param transfer: a :class:`~airflow_provider_agentforce.client.messages.Transfer` that reports the result
        of an escalation.
    :param session: the output of the start or of the **last** send, which has the number of the last message.
    :param session_id: instead of ``session``, together with ``sequence_id``.
    :param sequence_id: number of the last message, 0 after the start; a string of digits is also accepted.
    :param variables: context variables to set with this message.
    :param in_reply_to: id of the agent's message that the text answers.
    :param stream: receive the answer in pieces and log the agent's progress; the result is the same.
    :param fail_on: outcomes that fail the task: ``failed``, ``escalated``, ``needs_input``,
        ``needs_confirmation``, ``ended``, ``answered``, ``answer_lost``.
    :param output_type: the type of the answer: a pydantic model, a ``TypedDict``, another type, or a JSON
        schema, see :class:`~airflow_provider_agentforce.structured.OutputType`. An answer that does
        not fit fails the task with ``InvalidOutputError``, without a retry; it is in the XCom ``turns``.
    :param output_retries: 1: ask the agent once to correct an answer that does not fit, as the next message
        of the session; 0: do not.
    :param on_unknown_delivery: the reaction if it is not known whether the agent acted: ``"fail"``; a
        function that takes an :class:`~airflow_provider_agentforce.delivery.UnknownDelivery` and returns
        ``True``, ``False`` or ``None``; ``"trace"``; ``"ask"``; ``"resend"``, for a message that does no
        harm if it arrives twice; a :class:`~airflow_provider_agentforce.delivery.Check`, ``Trace`` or
        ``Ask``; or a list of these, which run in order.
    :param store_requests: keep the message in the answer's ``request``.
    :param store_plans: keep in the answer's ``plan`` which subagent and actions the planner chose. This needs
        one more call, which is not documented; if it fails, the log says so and the task continues.
    :param budget: limit on the use per day, over all runs:
        :class:`Budget("messages", per_day=5000) <airflow_provider_agentforce.client.budget.Budget>`.
    :param deferrable: free the worker slot during a wait of a minute or more for a limit or a
        ``Retry-After``. Default: ``[operators] default_deferrable``.
    :param agentforce_conn_id: connection of type ``agentforce``.
    """

    template_fields: Sequence[str] = (
        *("text", "reply", "cancel", "sequence_id", "variables", "in_reply_to"),
        *TakesSession.template_fields,
    )
    template_fields_renderers = {  # noqa: RUF012 - Airflow's own form
        "reply": "json",
        "cancel": "json",
        "session": "json",
        "variables": "json",
    }

    def __init__(
        self,
        *,
        text: str | None = None,
        reply: Any = None,
        cancel: Any = None,
        transfer: Transfer | None = None,
        sequence_id: int | str | None = None,
        variables: Any = None,
        in_reply_to: str | None = None,
        stream: bool = False,
        fail_on: Collection[str] = (FAILED,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.text = text
        self.reply = reply
        self.cancel = cancel
        self.transfer = transfer
        self.sequence_id = sequence_id
        self.variables = variables
        self.in_reply_to = in_reply_to
        self.stream = arguments.check_choice("stream", stream, True, False)
        self.fail_on = arguments.check_fail_on(fail_on)
        self._number = 0
        self.check_literals()

    def check_arguments(self) -> None:
        """Refuse a missing message, more than one message, and a session without its number."""
        super().check_arguments()
        if self.session_id is not None:
            number_of(self.sequence_id)
        cancel = None if self.cancel is False else self.cancel
        said = {"reply": self.reply, "cancel": cancel, "transfer": self.transfer}
        name = validation.only_one_of(text=self.text, **said)
        if name in said and arguments.is_known(said[name]):
            arguments.check_decision(**{name: said[name]})
        arguments.check_variables(self.variables)
        arguments.check_values(
            self,
            text=validation.message_text,
            in_reply_to=partial(validation.path_id, field="in_reply_to"),
            sequence_id=validation.sequence_id,
        )

    def execute(self, context: Context) -> dict[str, Any]:
        """Send the message, and convert the answer to data."""
        return self.until_known(context)

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Continue after a wait."""
        return self.until_known(context, event)

    def entry_key(self, number: int) -> str:
        """Return the key of a message's entry in the ledger."""
        return TURN if number == self._number else CORRECTION

    def attempt(self, context: Context, ledger: Ledger) -> dict[str, Any]:
        """Send the message, unless its answer is recorded."""
        from airflow_provider_agentforce.client.open_session import OpenSession  # noqa: PLC0415
        from airflow_provider_agentforce.operators._page import ShownJournal  # noqa: PLC0415

        session = self.given_session(self.sequence_id, context)
        output = arguments.output_of(self.output_type)
        client = self.open_client()
        self.link_to(session.agent_id, context)
        self._number = session.sequence_id + 1
        journal = TaskJournal(
            ledger,
            self.agentforce_conn_id,
            session.session_id,
            session=session,
            key_of=self.entry_key,
            resend_unknown=self.resends,
        )
        self.page.began(session)
        # Not used as a context manager, which would end the session.
        open_session = OpenSession(
            client,
            session,
            journal=ShownJournal(journal, self.page),
            store_requests=self.store_requests,
            explain=self.explain(client),
        )
        send = partial(self._send, context, open_session, ledger)
        # A reply answers the last message, even if the Dag passes an older one as its session.
        answers = self.text is None and self.transfer is None
        newest = newest_number(self, session, context) if answers else None
        turn = send(
            self._message(), variables=self.variables, in_reply_to=self.in_reply_to, sequence_id=newest
        )
        self.page.add_plans(open_session.turns)
        check_outcome(turn, self.fail_on)
        if output is None:
            return without_requests(turn.to_dict())
        most = client.settings.max_messages_per_session
        return self._read(context, open_session, ledger, output, send, most=most)

    def _message(self) -> MessageLike:
        """Return the message, with the turn that it answers."""
        from airflow_provider_agentforce.client.messages import given_message  # noqa: PLC0415

        return given_message(
            text=self.text,
            reply=self.reply,
            cancel=self.cancel,
            transfer=self.transfer,
            last=self.session,
        )

    def _send(
        self, context: Context, open_session: OpenSession, ledger: Ledger, text: MessageLike, **options: Any
    ) -> Turn:
        """Send a message once and keep its answer in XCom."""
        # Without a ledger, a second try must assume that the agent is still working on the first one's
        # message.
        repeated = self.resends and not ledger.keeps and context["ti"].try_number > 1
        try:
            turn = open_session.send(
                text, stream=self.stream, on_chunk=self.log_progress, repeated=repeated, **options
            )
        except DeliveryUnknownError as error:
            self.keep_partial(context, error)
            raise self.for_next_try(error, context, ledger) from error.__cause__
        self.log.info("The agent replied to message %d; outcome: %s.", turn.sequence_id, turn.outcome)
        self._push(context, turn, turn.to_dict(), recorded=ledger.keeps)
        return turn

    def _read(
        self,
        context: Context,
        open_session: OpenSession,
        ledger: Ledger,
        output: OutputType,
        send: Callable[..., Turn],
        *,
        most: int,
    ) -> dict[str, Any]:
        """Convert the answer, or the answer to a corrective question, to data."""
        from airflow_provider_agentforce.structured.corrective_question import read_or_ask  # noqa: PLC0415

        def ask(question: str) -> Turn:
            turn = send(question, known_as=name_of_question(output))
            check_outcome(turn, self.fail_on)
            return turn

        (answer,) = open_session.turns
        try:
            result = read_or_ask(output, answer, ask, retries=self.output_retries, most_messages=most)
            self._push(context, open_session.turns[-1], {"result": result}, recorded=ledger.keeps)
        except BaseException as error:  # noqa: BLE001 - raised again, unchanged or as one that says more
            self.push_in_failure(context, "turns", [turn.to_dict() for turn in open_session.turns])
            raise self._correction_error(error, answer, recorded=ledger.keeps) from error.__cause__
        return without_requests({**open_session.turns[-1].to_dict(), "result": result})

    def _push(self, context: Context, turn: Turn, values: dict[str, Any], *, recorded: bool) -> None:
        try:
            self.push(context, values)
        except BaseException as error:  # also a kill
            if recorded:
                raise  # the next try returns the answer from its record
            from airflow_provider_agentforce.operators._retries import stopped  # noqa: PLC0415 - not at parse time

            raise stopped(error, "Its answer could not be stored.", turn) from error

    def _correction_error(self, error: BaseException, answer: Turn, *, recorded: bool) -> BaseException:
        """Return the error of a corrective question: the message itself has been answered."""
        from airflow_provider_agentforce.operators._retries import (  # noqa: PLC0415 - not at parse time
            Stop,
            next_try,
            stopped,
        )

        follows = next_try(
            error, answered=1, recorded=recorded, resend=self.resends, restart=recorded, tries_left=True
        )
        if isinstance(error, AgentforceError) and error.applied is False:
            error = error.replaced(applied=True, hint=f"{error.hint} {_ANSWERED}".strip())
        return stopped(error, follows.hint, answer) if isinstance(follows, Stop) else error
