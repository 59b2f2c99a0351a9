"""Connects the steps of ``on_unknown_delivery`` to a task: its ledger, its waits, and its sends."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce import _compat
from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.client.models import ANSWER_LOST, ANSWERED, Turn
from airflow_provider_agentforce.delivery import RESEND, Ask, UnknownDelivery, Verdict
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceTransientError,
    DeliveryUnknownError,
)
from airflow_provider_agentforce.links.agent import AgentLink
from airflow_provider_agentforce.links.page import ConversationLink
from airflow_provider_agentforce.operators._ledger import RENDERED, UNKNOWN, Ledger
from airflow_provider_agentforce.operators._shared import SendsMessages

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.trace_lookup import SoughtMessage
    from airflow_provider_agentforce.operators._base import AgentforceBaseOperator
    from airflow_provider_agentforce.operators._page import ConversationPage
    from airflow_provider_agentforce.operators._question import Decision, Question
    from airflow_provider_agentforce.operators._unknown_delivery import TraceLookup

# Seconds: a shorter wait is not worth another start of the task's process.
_SHORT_WAIT = 10.0
_SLICE = 0.1
# Concurrent lookups.
_LOOKERS = 8
_AGAIN = "The message was sent once more in this try{why}; {known}."
_UNKNOWN_AGAIN, _RECEIVED = "the new delivery is also unknown", "the org has it, and its answer is lost"
_CUT_SHORT = "The task was stopped during the steps of on_unknown_delivery."
_NOT_ACTED = ", because the agent had not acted"


class ResolvesDeliveries(SendsMessages):
    """An operator that can resolve an unknown delivery instead of failing."""

    operator_extra_links = (ConversationLink(), AgentLink())
    page_kind = "message"
    page: ConversationPage
    _event: Any = None

    @property
    def may_wait(self) -> bool:
        """Whether the task may free its slot and continue later."""
        return self.resolves

    @abstractmethod
    def attempt(self, context: Context, ledger: Ledger) -> dict[str, Any]:
        """Send the messages that are not recorded, and return the task's result."""

    @abstractmethod
    def entry_key(self, number: int) -> str:
        """Return the key of a message's entry in the ledger."""

    def answers_before(self) -> Sequence[Turn] | None:
        """Return the earlier answers of the session; ``None``: other tasks use it, too."""
        return None

    def unresolved(self, context: Context, ledger: Ledger, *, retried: bool) -> None:
        """Clean up after a message that stays unknown.

        :param retried: a next try continues with it.
        """

    def until_known(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Call :meth:`attempt`, resolve unknown deliveries, and repeat until none is left.

        :param event: the event that resumes the task.
        """
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415 - not at parse time
        from airflow_provider_agentforce.operators._page import ConversationPage  # noqa: PLC0415 - not at parse time

        with airflow_errors(resend_unknown=self.resends):
            ledger = Ledger.of(context, resolves=self.resolves)
            self.page = ConversationPage(self, context, self.page_kind)
            self._event = event
            if self.may_wait or event is not None:
                self._restore(ledger)
            while True:
                try:
                    return self.attempt(context, ledger)
                except DeliveryUnknownError as error:
                    if not self.resolvable(error, ledger):
                        raise
                    unknown = error
                except AgentforceTransientError as error:
                    pause = self.pause_for(error)
                    if pause is None:
                        raise
                    self._remember(ledger)
                    self.wait_without_slot(pause)
                self._resolve(unknown, context, ledger)

    def ask(
        self, step: Ask, question: Question, until: datetime | None, *, context: Context, ledger: Ledger
    ) -> Decision | None:
        """Return a person's decision, ``None`` if none comes in time; defer the task until then."""
        self._remember(ledger)
        self.page.write()
        return self._services(context, ledger).ask(step, question, until)

    def resolvable(self, error: BaseException, ledger: Ledger) -> bool:
        """Return whether the steps can resolve a message."""
        if not self.resolves or not isinstance(error, DeliveryUnknownError) or error.delivery is None:
            return False
        return not self._interrupted(error) and self._sent_again(error.delivery, ledger) is None

    def for_next_try(
        self, error: DeliveryUnknownError, context: Context, ledger: Ledger
    ) -> DeliveryUnknownError:
        """Return the error of a message that was sent in this try.

        A task that is stopped cannot resolve it; its next try, which sends nothing, can.
        """
        if not self.resolves:
            return error
        if self._interrupted(error) and ledger.keeps and self.tries_left(context):
            return error.replaced(retryable=True, hint="The next try runs the steps of on_unknown_delivery.")
        again = None if error.delivery is None else self._sent_again(error.delivery, ledger)
        if again is not None:
            why = "" if again["acted"] is None else _NOT_ACTED
            known = _UNKNOWN_AGAIN if error.applied is None else _RECEIVED
            return error.replaced(hint=f"{_AGAIN.format(why=why, known=known)} {error.hint}")
        return error

    def tries_left(self, context: Context) -> bool:
        """Return whether Airflow makes another try if the error allows it."""
        ti = context["ti"]
        return bool(ti.try_number <= getattr(ti, "max_tries", 0))

    def _interrupted(self, error: DeliveryUnknownError) -> bool:
        # A kill, or a timeout that Airflow raises from a signal handler.
        return self._killed or not isinstance(error.__cause__, Exception | None)

    def _sent_again(self, delivery: UnknownDelivery, ledger: Ledger) -> dict[str, Any] | None:
        """Return the verdict by which a message was sent again in this try, ``None`` if it was not."""
        value = ledger.value_of(self.entry_key(delivery.sequence_id or 0))
        again = value.get("sent_again") and value.get("try") == ledger.try_number
        return value["resolution"] if again else None

    def _services(self, context: Context, ledger: Ledger) -> TaskServices:
        # The event belongs to the message that waited, which comes first.
        event, self._event = self._event, None
        return TaskServices(self, context, can_defer=ledger.keeps_all, event=event)

    def _resolve(self, error: DeliveryUnknownError, context: Context, ledger: Ledger) -> None:
        """Run the steps; return when the message is resolved or may be sent again."""
        where = f" [session {error.session_id}]" if error.session_id else ""
        self.log.warning("%s The steps of on_unknown_delivery try to find out.%s", error.fact, where)
        key = self.entry_key(error.delivery.sequence_id)
        store = RecordedDelivery(ledger, key, error, self.answers_before())
        services = self._services(context, ledger)
        try:
            self._remember(ledger)
            self._take_steps(error, store, services)
        except _compat.waits():
            raise
        except BaseException as failure:
            passes = failure.retryable if isinstance(failure, AgentforceError) else True
            retried = passes and ledger.keeps and not self._killed and self.tries_left(context)
            self.unresolved(context, ledger, retried=retried)
            may_be_sent = self.steps[-1] == RESEND and not store.was_received(store.name)
            if passes and not ledger.keeps and not may_be_sent:
                # Without an entry, another try would send the message again.
                raise error.replaced(hint=f"{_CUT_SHORT} {error.hint}".strip()) from failure
            raise

    def _take_steps(
        self, error: DeliveryUnknownError, store: RecordedDelivery, services: TaskServices
    ) -> None:
        from airflow_provider_agentforce.operators._unknown_delivery import Resolver  # noqa: PLC0415 - not at parse time

        shows = partial(self.page.resolves, store.delivery)
        resolver = Resolver(self.steps, store, services, shows)
        left = resolver.run()
        if left is None:
            return
        if left == RESEND and error.may_be_resent and not store.was_received(store.name):
            store.settle({store.name: Verdict("resend", acted=None)})
            if store.from_earlier_try:
                return
            raise error.replaced(retryable=True)
        raise error.replaced(hint=" ".join([*resolver.findings.get(store.name, []), error.hint]).strip())

    def _remember(self, ledger: Ledger) -> None:
        """Record the rendered arguments: after a wait, Airflow renders the templates again."""
        if not ledger.keeps or not self.store_requests or ledger.read(RENDERED) is not None:
            return
        kept: dict[str, Any] = {}
        for name in self.template_fields:
            with_it = {**kept, name: getattr(self, name, None)}
            if ledger.can_keep(with_it):
                kept = with_it
        ledger.decide(RENDERED, "", kept, done=False)

    def _restore(self, ledger: Ledger) -> None:
        for name, value in ledger.value_of(RENDERED).items():
            setattr(self, name, value)


class RecordedDelivery:
    """One message in a task's ledger, as the :class:`.DeliveryStore` of the steps.

    :param key: key of its entry.
    :param error: says why its delivery is unknown.
    :param before: the earlier answers of its session, ``None`` if they are not known.
    :ivar name: name of the message, for the log.
    :ivar delivery: what is known about it.
    """

    def __init__(
        self, ledger: Ledger, key: str, error: DeliveryUnknownError, before: Sequence[Turn] | None
    ) -> None:
        from airflow_provider_agentforce.client.trace_lookup import same_before  # noqa: PLC0415

        entry = ledger.read(key)
        assert entry is not None  # noqa: S101 - its intent was written before it left
        self._ledger = ledger
        self._key = key
        self._fingerprint = entry.fingerprint
        self._value = entry.value or {}
        seen: UnknownDelivery = error.delivery
        sent = UnknownDelivery.from_dict(self._value)
        self.delivery = replace(
            sent,
            error=seen.error,
            partial_text=seen.partial_text,
            same_before=None
            if before is None
            else same_before(sent.text, sent.sequence_id, [turn.request for turn in before]),
        )
        self.name = str(self.delivery.sequence_id)
        self._received = error.applied is True
        self._settled = False

    @property
    def from_earlier_try(self) -> bool:
        """Whether an earlier try sent the message."""
        return bool(self._value.get("try") != self._ledger.try_number)

    def open(self) -> dict[str, UnknownDelivery]:
        """Return the message, until it is resolved."""
        return {} if self._settled else {self.name: self.delivery}

    def was_received(self, name: str) -> bool:  # noqa: ARG002 - there is one
        """Return whether the org is known to have the message."""
        return self._received

    def received(self, names: Iterable[str]) -> None:  # noqa: ARG002 - there is one
        """Record that the org has received the message."""
        self._received = True
        self._value = {**self._value, "applied": True}
        self._ledger.decide(self._key, self._fingerprint, self._value, done=False)

    def read(self) -> dict[str, Any] | None:
        """Return the state of the steps."""
        entry = self._ledger.read(UNKNOWN)
        if entry is None or entry.fingerprint != self._fingerprint or entry.value is None:
            return None
        # A message that was sent again begins at the first step.
        if entry.value["sent_at"] != self._value.get("sent_at"):
            return None
        self._received = self._received or bool(entry.value["received"])
        progress: dict[str, Any] = entry.value["progress"]
        return progress

    def write(self, progress: dict[str, Any]) -> None:
        """Record the state of the steps."""
        value = {
            "sent_at": self._value.get("sent_at"),
            "received": self._received,
            "progress": progress,
        }
        self._ledger.decide(UNKNOWN, self._fingerprint, value, done=False)

    def settle(self, verdicts: Mapping[str, Verdict]) -> None:
        """Record the verdict in the message's own entry."""
        verdict = verdicts[self.name]
        if verdict.acted:
            turn = _turn_of(self.delivery, verdict, self._value.get("agent_version"))
            self._ledger.decide(self._key, self._fingerprint, turn.to_dict(), done=True)
        else:
            value = {**self._value, "resolution": verdict.resolution(), "sent_again": False}
            self._ledger.decide(self._key, self._fingerprint, value, done=False)
        self._ledger.forget(UNKNOWN)
        self._settled = True


class TaskServices:
    """The :class:`.StepServices` of a task.

    :param can_defer: everything so far is recorded, so a wait may free the worker slot.
    :param event: the event that resumes the task.
    """

    def __init__(
        self, task: AgentforceBaseOperator, context: Context, *, can_defer: bool, event: Any = None
    ) -> None:
        self._task = task
        self._context = context
        self._can_defer = can_defer
        self._event: Mapping[str, Any] = event if isinstance(event, Mapping) else {}

    @property
    def results(self) -> str:
        """Where a batch writes its results; ``""`` for other tasks."""
        return str(getattr(self._task, "result_path", None) or "")

    def redact(self, text: str) -> str:
        """Return *text* without the secrets of the connection."""
        return self._task.hook.plain_client.redact(text)

    @property
    def woke_early(self) -> bool:
        """Whether the last wait ended before its time, without the event it waited for."""
        lost = self._event.get("error_type") == "lost" and not self._event.get("late")
        return lost or self._event.get("status") == "not_found"

    def wait_until(self, moment: datetime, *, keeps_slot: bool = False) -> None:
        """Wait, without a worker slot if the wait is long enough."""
        end = time.monotonic() + (seconds := _seconds_to(moment))
        if seconds > _SHORT_WAIT and not keeps_slot:
            where = "without a worker slot" if self._can_defer else "in the worker slot"
            self._task.log.info("Waiting until %s, %s.", moment.isoformat(timespec="seconds"), where)
            if self._can_defer:
                self._task.defer_until(moment, _compat.date_time_trigger(moment))
        while (left := end - time.monotonic()) > 0:
            self._task.check_not_killed()
            time.sleep(min(left, _SLICE))

    def look_up(self, deliveries: Mapping[str, UnknownDelivery]) -> dict[str, TraceLookup]:
        """Look messages up in the org's trace, several at once."""
        most = getattr(self._task, "max_concurrency", None) or _LOOKERS
        first, *others = deliveries
        seen = {first: self._look(deliveries[first])}
        if seen[first].for_all:
            return dict.fromkeys(deliveries, seen[first])
        with ThreadPoolExecutor(min(most, _LOOKERS)) as threads:
            looks = threads.map(self._look, (deliveries[name] for name in others))
            return {**seen, **dict(zip(others, looks, strict=True))}

    def _look(self, delivery: UnknownDelivery) -> TraceLookup:
        from airflow_provider_agentforce.client import trace_lookup  # noqa: PLC0415 - not at parse time
        from airflow_provider_agentforce.operators._unknown_delivery import TraceLookup  # noqa: PLC0415 - not at parse time

        sought = _sought(delivery)
        if sought is None:
            why = "The trace needs the message's session and text, which are not both known."
            return TraceLookup(note=why, final=True)
        found = trace_lookup.look(self._task.hook.plain_client, sought)
        message = found.message
        answer = message.answer if message is not None and message.answered else None
        refused = found.error is not None and trace_lookup.concerns_all(found.error)
        return TraceLookup(message is not None, answer, found.note, found.final, for_all=refused)

    def wait_for_trace(
        self, deliveries: Mapping[str, UnknownDelivery], until: datetime, end: datetime
    ) -> None:
        """Wait before the next look; for one message a trigger looks meanwhile."""
        sought = [_sought(delivery) for delivery in deliveries.values()]
        one = sought[0] if len(sought) == 1 and self._task.store_requests else None
        if one is None or not self._can_defer or _seconds_to(until) <= _SHORT_WAIT:
            self.wait_until(until)
            return
        from airflow_provider_agentforce.triggers.session_trace import SessionTraceTrigger  # noqa: PLC0415

        self._task.log.info(
            "Looking for the message in the org's trace until %s, without a worker slot.",
            end.isoformat(timespec="seconds"),
        )
        trigger = SessionTraceTrigger(
            agentforce_conn_id=self._task.agentforce_conn_id, **vars(one), end_time=end.timestamp()
        )
        self._task.defer_until(end, trigger)

    @property
    def wants_json(self) -> bool:
        """Whether an answer must be JSON."""
        return getattr(self._task, "output_type", None) is not None

    def why_not_ask(self, question: Question) -> str:
        """Return why no person can be asked, ``""`` if one can."""
        from airflow_provider_agentforce.operators._question import (  # noqa: PLC0415 - not at parse time
            ASKED_BEFORE,
            asks_second,
        )

        if not self._can_defer:
            return (
                "No person can be asked: the answers so far are not on record, or too long to be, and would "
                "be lost during the wait."
            )
        return ASKED_BEFORE if asks_second(question, self._context) else ""

    def ask(self, step: Ask, question: Question, until: datetime | None) -> Decision | None:
        """Return a person's decision, or wait for it."""
        from airflow_provider_agentforce.operators._question import decided  # noqa: PLC0415 - not at parse time

        event, self._event = self._event, {}
        return decided(question, step, until, task=self._task, context=self._context, event=event)


def _seconds_to(moment: datetime) -> float:
    return (moment - datetime.now(timezone.utc)).total_seconds()


def _sought(delivery: UnknownDelivery) -> SoughtMessage | None:
    from airflow_provider_agentforce.client.trace_lookup import SoughtMessage  # noqa: PLC0415

    if delivery.session_id is None or delivery.text is None:
        return None
    first = delivery.first_sent_at or delivery.sent_at
    sent_at = None if first is None else first.timestamp()
    return SoughtMessage(
        delivery.session_id, delivery.text, delivery.sequence_id, sent_at, delivery.same_before
    )


def _turn_of(delivery: UnknownDelivery, verdict: Verdict, agent_version: str | None) -> Turn:
    """Return the turn of a message on which the agent acted."""
    return Turn(
        session_id=str(delivery.session_id),
        sequence_id=delivery.sequence_id or 0,
        agent_id=delivery.agent_id,
        text=verdict.text,
        outcome=ANSWER_LOST if verdict.answer == "lost" else verdict.outcome or ANSWERED,
        request=delivery.request,
        resolution=verdict.resolution(),
        agent_version=agent_version,
    )
