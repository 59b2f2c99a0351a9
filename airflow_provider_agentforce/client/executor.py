"""Carries out one request: attempts, waits, and the error at the end, all as the retry table says."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from typing import Any

import tenacity

from airflow_provider_agentforce.client.api_requests import ApiRequest, SendRequest
from airflow_provider_agentforce.client.attempt import Access, Attempt, AttemptReader, CallOptions
from airflow_provider_agentforce.client.call_errors import error_of, interruption_of
from airflow_provider_agentforce.client.call_events import CallEvent, Observer, observed
from airflow_provider_agentforce.client.delivery_policy import Cell, Ending, Failure, Operation
from airflow_provider_agentforce.client.models import Session, Turn
from airflow_provider_agentforce.client.plans import PlanRequest, summary_of
from airflow_provider_agentforce.client.timing import Deadline, Timing
from airflow_provider_agentforce.client.transport import Exchange, Transport
from airflow_provider_agentforce.exceptions import AgentforceError
from airflow_provider_agentforce.redaction import Redactor

log = logging.getLogger(__name__)

CLEANUP_SECONDS = 3.0
_CLEANUP_PAUSE = 0.2
_USUAL = CallOptions()

GetAccess = Callable[[Access | None, bool], Access]
"""Returns an access other than the refused one. The second argument says whether it is for a cleanup."""


@dataclass
class CallState:
    """The progress of a call. It belongs to the thread that makes the call.

    :param clock: counts seconds.
    :ivar key: external session key of the last attempt at a start.
    :ivar announced: the keys that ``before_send`` was called with.
    :ivar sent_at: when the first byte of the last attempt was about to leave.
    :ivar attempts: number of attempts begun.
    :ivar losses: number of attempts without an answer that may have been acted on.
    :ivar renewals: how often the token was renewed because of a 401.
    :ivar refused: the access that the last attempt was refused with.
    :ivar reader: the reader of the last attempt that was begun.
    :ivar last: the last attempt that came to an end.
    """

    request: ApiRequest
    options: CallOptions
    clock: Callable[[], float]
    api_url: str = ""
    url: str = field(default="", repr=False)
    key: str | None = None
    announced: tuple[str | None, ...] = ()
    sent_at: datetime | None = None
    attempts: int = 0
    losses: int = 0
    renewals: int = 0
    refused: Access | None = None
    repeated_after: tuple[Failure, ...] = ()
    reader: AttemptReader | None = field(default=None, repr=False)
    last: Attempt | None = None

    def __post_init__(self) -> None:
        self.began = self.clock()

    @property
    def taken(self) -> float:
        """Seconds since it began."""
        return self.clock() - self.began

    @property
    def in_doubt(self) -> bool:
        """Whether a request has left, and no reply says that it was not acted on."""
        return self.reader is not None and self.reader.in_doubt

    @property
    def failure(self) -> Failure:
        """Why the last attempt failed."""
        assert self.last is not None and self.last.failure is not None  # noqa: PT018, S101 - asked after one
        return self.last.failure

    @property
    def cell(self) -> Cell:
        """The cell of the retry table for the last attempt, which failed."""
        return self.failure.rule.cell(self.request.operation)

    def announce(self) -> None:
        """Say that the request is about to leave."""
        self.sent_at = datetime.now(timezone.utc)
        options, first = self.options, self.key not in self.announced
        if options.before_send is not None and (first or options.before_every_attempt):
            options.before_send(self.key)
        self.announced += (self.key,)

    def event(self, error: BaseException | None) -> CallEvent:
        """Return the call as observers see it, with the *error* that it ends with."""
        request, last = self.request, self.last
        known: dict[str, Any] = {"session_id": request.session_id}
        if last is not None and error is None:
            known |= self._result_of(last)
        return CallEvent(
            operation=request.operation.value,
            agent_id=request.agent_id,
            sequence_id=request.sequence_id,
            text=request.message.text if isinstance(request, SendRequest) else None,
            external_session_key=self.key or request.external_session_key,
            api_url=self.api_url,
            attempts=self.attempts,
            repeated_after=tuple(failure.name.lower() for failure in self.repeated_after),
            status=None if last is None else last.status,
            error=error,
            duration=self.taken,
            **known,
        )

    def _result_of(self, last: Attempt) -> dict[str, Any]:
        """Return what the answer adds to the event."""
        if isinstance(last.value, Session):
            return {"session_id": last.value.session_id}
        if isinstance(last.value, Turn):
            return {"outcome": last.value.outcome, "answer": last.value.text}
        if isinstance(self.request, PlanRequest) and last.value:
            return {"plan": summary_of(last.value)}
        if self.request.operation is Operation.END:
            return {"outcome": "gone" if last.failure is Failure.SESSION_GONE else "ended"}
        return {}


class _RetryRules:
    """Answers tenacity's questions about a call whose last attempt failed, from the retry table."""

    def __init__(self, call: CallState, deadline: Deadline, timing: Timing) -> None:
        self._call = call
        self._deadline = deadline
        self._timing = timing

    def retrying(self) -> tenacity.Retrying:
        """Return the loop that repeats the attempts; it returns the last one, whatever its result."""
        return tenacity.Retrying(
            retry=self._may_repeat,
            wait=self._pause,
            stop=self._lacks_time,
            before_sleep=self._note_repetition,
            sleep=time.sleep if self._call.options.during_cleanup else self._deadline.sleep,
            retry_error_callback=self._last,
        )

    def _may_repeat(self, state: tenacity.RetryCallState) -> bool:
        call = self._call
        raised = state.outcome is not None and state.outcome.failed
        if raised or call.last is None or call.last.failure is None:
            return False
        if call.options.during_cleanup:
            return call.failure is Failure.LOCKED
        if call.failure is Failure.THROTTLED and not call.options.wait_for_limits:
            return False
        cell = call.cell
        return cell.until_free or call.attempts < cell.attempts or call.renewals < cell.renewals

    def _pause(self, state: tenacity.RetryCallState) -> float:
        call = self._call
        if call.options.during_cleanup:
            # The message that was cut may hold the session's lock for a moment longer.
            return _CLEANUP_PAUSE
        if call.cell.renewals:
            return self._timing.renewal_pause(state) if call.renewals else 0.0
        asked = call.last.asked_to_wait if call.last else None
        # An org that names no time, or one that has passed, does not ask to be called without a pause.
        return asked or self._timing.back_off(state)

    def _lacks_time(self, state: tenacity.RetryCallState) -> bool:
        call, pause = self._call, state.upcoming_sleep
        if call.options.during_cleanup:
            return call.taken >= CLEANUP_SECONDS
        too_long = call.cell.until_free and call.taken + pause > self._deadline.longest_wait
        return too_long or not self._deadline.allows(pause)

    def _note_repetition(self, _: tenacity.RetryCallState) -> None:
        call = self._call
        call.repeated_after += (call.failure,)
        if call.cell.renewals:
            call.renewals += 1
            call.refused = call.last.access if call.last else None

    def _last(self, _: tenacity.RetryCallState) -> Attempt | None:
        return self._call.last


class RequestExecutor:
    """Carries out requests. Safe to share between threads.

    :param timeout: seconds for one attempt, from connecting to the last byte of the reply.
    :param redactor: takes secrets out of what the org says.
    :param on_throttled: is called for each 429, with the seconds that the org asks to wait, if it does.

    It makes requests without a bearer, such as those for a token; :meth:`with_access` makes all others.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        timeout: float,
        timing: Timing,
        redactor: Redactor,
        observers: Sequence[Observer] = (),
        on_throttled: Callable[[float | None], None] = lambda _: None,
    ) -> None:
        self.transport = transport
        self.timing = timing
        self.deadline = Deadline(timing)
        self.redactor = redactor
        self._timeout = timeout
        self._observers = observers
        self._on_throttled = on_throttled
        self._get_access: GetAccess | None = None

    def sibling(self) -> RequestExecutor:
        """Return an executor over the same connections with its own deadline, which can be stopped alone."""
        other = copy(self)
        other.transport, other.deadline = self.transport.sibling(), Deadline(self.timing)
        return other

    def with_access(self, get_access: GetAccess) -> RequestExecutor:
        """Return an executor with the same connections and deadline whose requests have a bearer."""
        other = copy(self)
        vars(other).update(_get_access=get_access)
        return other

    def execute(self, request: ApiRequest, options: CallOptions = _USUAL) -> Attempt:
        """Carry out *request*.

        :returns: the last attempt, with the value, or with a failure that counts as success.
        :raises AgentforceError: as the retry table says.
        """
        call = CallState(request, options, self.timing.clock)
        try:
            return observed(self._observers, call.event, partial(self._carry_out, call))
        except AgentforceError:
            raise
        except BaseException as error:
            # A timeout or kill that a signal handler raised. Once a message has left, it must not look
            # like a failure that another try can fix.
            cut = interruption_of(call, error)
            if cut is None:
                raise
            raise cut from error

    def _carry_out(self, call: CallState) -> Attempt:
        """Send a request, and repeat it as often as the retry table allows."""
        first = self._attempt(call)
        if first.failure is None:
            return first
        others = iter(partial(self._attempt, call), None)
        retrying = _RetryRules(call, self.deadline, self.timing).retrying()
        last: Attempt = retrying(next, itertools.chain([first], others))
        if last.failure is None or call.cell.ending is Ending.DONE:
            return last
        raise error_of(call, last, call.cell.ending, self.redactor) from last.cause

    def _attempt(self, call: CallState) -> Attempt:
        options, request = call.options, call.request.for_attempt(call.losses, time.time())
        if not options.during_cleanup:
            self.deadline.check()
        access = self._get_access and self._get_access(call.refused, options.during_cleanup)
        call.api_url = access.api_url if access else ""
        http = request.call(call.api_url)
        self.redactor.add(http.secret)
        call.url, call.key = http.url, request.external_session_key
        exchange = Exchange(
            self.transport,
            http,
            bearer=access.bearer if access else None,
            timeout=self._time_for(call),
            before_send=call.announce,
            during_cleanup=options.during_cleanup,
            starts_session=request.operation is Operation.START,
            max_body=request.max_body,
        )
        call.attempts += 1
        call.reader = AttemptReader(request, exchange, options, access, self.redactor.redact)
        call.last = last = call.reader.attempt()
        if last.failure is not None and last.failure.rule.delivery.applied is not False:
            call.losses += 1
            if call.cell.orphan:
                log.warning("A session may have been left open. Its external session key: %s", call.key)
        if last.failure is Failure.THROTTLED:
            self._on_throttled(last.asked_to_wait)
        return last

    def _time_for(self, call: CallState) -> float:
        if call.options.during_cleanup:
            return max(CLEANUP_SECONDS - call.taken, 0.1)
        return self.deadline.time_for_call(self._timeout)
