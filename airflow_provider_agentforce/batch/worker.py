"""One worker of a batch: asks about one record after the other, in sessions that it starts and ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.batch.checkpoint import Checkpoint
from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.reader import Record
from airflow_provider_agentforce.batch.results import FAILURES, INVALID_OUTPUT, UNKNOWN, Row, moment
from airflow_provider_agentforce.client.concurrency_limiter import Slot
from airflow_provider_agentforce.client.models import (
    ANSWERED,
    ENDED,
    FAILED,
    Session,
    Turn,
    text_request,
)
from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceError,
    AgentforceRequestError,
    AgentforceTransientError,
    DeliveryUnknownError,
    InvalidOutputError,
    LedgerError,
    RateLimitedError,
    SessionNotFoundError,
    TaskStoppedError,
    one_line,
)
from airflow_provider_agentforce.structured import OutputType

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 3
# Seconds after which a worker that waits for a slot looks whether it is to stop.
_SLICE = 0.5


@dataclass(frozen=True)
class WorkItem:
    """A record with its messages, ready to be sent.

    :param messages: texts, in order.
    :param variables: context variables of the record, as the API takes them.
    :param attempts: how often this try of the task has tried it.
    :param before: how often earlier tries did.
    """

    record: Record
    messages: tuple[str, ...]
    variables: list[dict[str, Any]] = field(default_factory=list)
    attempts: int = 0
    before: int = 0

    @property
    def name(self) -> str:
        """The name of the record."""
        return self.record.name

    def next_attempt(self) -> WorkItem:
        """Return it with one attempt more behind it."""
        return replace(self, attempts=self.attempts + 1)


@dataclass(frozen=True)
class Answered:
    """The record has its row, whatever became of it."""

    item: WorkItem
    row: Row


@dataclass(frozen=True)
class Retry:
    """The record is to be asked again, after *delay* seconds.

    :param row: what becomes of it if nothing more is asked; ``None``: it was not asked.
    """

    item: WorkItem
    delay: float = 0.0
    row: Row | None = None


@dataclass(frozen=True)
class NotStarted:
    """Nothing was sent for the record, and nothing more is asked."""

    item: WorkItem


@dataclass(frozen=True)
class Fatal:
    """Every other record would meet *error*, too; nothing was sent for this one."""

    item: WorkItem
    error: AgentforceError


Outcome = Answered | Retry | NotStarted | Fatal


@dataclass
class _Attempt:
    """One attempt at a record.

    :ivar claimed: whether the checkpoint says that it may have been asked.
    :ivar partial: what could be read of an answer whose delivery is unknown.
    """

    item: WorkItem
    began: float = field(default_factory=time.time)
    clock: float = field(default_factory=time.monotonic)
    turns: list[Turn] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    claimed: bool = False
    partial: str = ""

    def row(self, session: Session | None, status: str, *, error: str | None = None, **more: Any) -> Row:
        """Return the row of the record.

        :param session: the one that it was asked in.
        """
        last = self.turns[-1] if self.turns else None
        earlier = self.turns if self.partial else self.turns[:-1]
        return Row(
            key=self.item.record.key,
            status=status,
            text=self.partial or (last.text if last else ""),
            outcome=last.outcome if last else None,
            earlier_answers=[turn.text for turn in earlier],
            request=self.requests[-1] if self.requests else None,
            earlier_requests=self.requests[:-1],
            session_id=last.session_id if last else (session.session_id if session else None),
            sequence_id=last.sequence_id if last else None,
            error=error,
            attempts=self.item.before + self.item.attempts + 1,
            started_at=moment(self.began),
            duration=round(time.monotonic() - self.clock, 3),
            **{"applied": True, **more},
        )


class Worker:
    """Asks for one thread and holds its session.

    :param output: what an answer has to be, if there is such a thing.
    :param stopping: tells whether nothing more is to be started.
    :ivar busy: whether it has more to do than to wait for a slot.
    """

    def __init__(
        self,
        client: AgentforceClient,
        checkpoint: Checkpoint,
        options: Options,
        output: OutputType | None,
        stopping: Callable[[], bool],
    ) -> None:
        self.busy = False
        self._client = client
        self._checkpoint = checkpoint
        self._options = options
        self._output = output
        self._stopping = stopping
        self._slot: Slot | None = None
        self._session: Session | None = None
        self._reusable = False

    def ask(self, item: WorkItem) -> Outcome:
        """Ask about one record, in the session that is open or in a new one. Takes its row down."""
        if self._session is not None and not self._fits(item):
            self.close()
        if self._session is None and not self._take_slot():
            return NotStarted(item)
        self.busy = True
        attempt = _Attempt(item)
        try:
            outcome = self._attempt(attempt)
        finally:
            if not (self._reusable and self._options.messages_per_session > 1):
                self.close()
            self.busy = False
        return outcome

    def close(self) -> None:
        """End the session that is open."""
        session, self._session, self._reusable = self._session, None, False
        if session is not None and self._client.end_quietly(session):
            self._checkpoint.ended(session.session_id)

    def _fits(self, item: WorkItem) -> bool:
        used = self._session.sequence_id if self._session else 0
        return used + len(item.messages) <= self._options.messages_per_session

    def _take_slot(self) -> bool:
        settings = self._client.settings
        while not self._stopping():
            try:
                self._slot = self._client.limiter.acquire(
                    most_open=settings.max_concurrent_sessions,
                    most_per_hour=settings.max_sessions_per_hour,
                    wanted=self._options.workers(settings),
                    wait=_SLICE,
                )
            except RateLimitedError:
                continue
            return True
        return False

    def _attempt(self, attempt: _Attempt) -> Outcome:
        item = attempt.item
        try:
            if self._session is None:
                self._start(item)
            self._checkpoint.claim(item.name)
            attempt.claimed = True
            row = self._talk(attempt)
        except TaskStoppedError as error:
            if not attempt.turns:
                return self._given_back(attempt, NotStarted(item) if attempt.claimed else Fatal(item, error))
            row = attempt.row(self._session, FAILED, error="The task was killed between two messages.")
        except AgentforceError as error:
            early = None if attempt.turns else self._not_asked(item, error)
            if early is not None:
                return self._given_back(attempt, early)
            row = self._failed(attempt, error)
        except Exception as error:
            log.exception("Asking about a record failed.")
            self._reusable = False
            what = f"Unexpected {type(error).__name__}; see the task log."
            row = attempt.row(self._session, UNKNOWN, error=what, applied=None)
        return self._settled(attempt, row)

    def _given_back(self, attempt: _Attempt, outcome: Outcome) -> Outcome:
        if attempt.claimed:
            self._checkpoint.withdraw(attempt.item.name)
        return outcome

    def _settled(self, attempt: _Attempt, row: Row) -> Outcome:
        item = attempt.item
        if row.status == UNKNOWN and self._options.resend_unknown and item.attempts + 1 < MOST_ATTEMPTS:
            return Retry(item.next_attempt(), self._client.timing.record_delay, row)
        settle(self._checkpoint, item.record, row)
        return Answered(item, row)

    def _start(self, item: WorkItem) -> None:
        assert self._slot is not None  # noqa: S101 - ask() has taken one
        options = self._options.start
        if self._options.messages_per_session == 1:
            options = replace(options, variables=item.variables)
        keys: list[str] = []

        def starting(key: str | None) -> None:
            # Also the key of a start that is repeated after one that may have arrived.
            keys.append(str(key))
            self._checkpoint.starting(str(key))

        try:
            session = self._client.start_session(**vars(options), slot=self._slot, before_send=starting)
        except RateLimitedError as error:
            self._client.limiter.refused(self._slot, error.retry_after)
            self._checkpoint.ended(*keys[-1:])
            raise
        except BaseException as error:
            self._client.limiter.release(self._slot)
            if isinstance(error, AgentforceError) and error.applied is False:
                self._checkpoint.ended(*keys[-1:])
            raise
        self._session, self._reusable = session, True
        self._checkpoint.started(session.session_id, session.external_session_key)

    def _talk(self, attempt: _Attempt) -> Row:
        item, turns = attempt.item, attempt.turns
        for number, text in enumerate(item.messages):
            first = number == 0 and self._options.messages_per_session > 1
            self._send(attempt, text, item.variables if first else [])
            if turns[-1].outcome == FAILED or turns[-1].session_ended:
                break
        if len(turns) < len(item.messages) and turns[-1].outcome != FAILED:
            said = f"The agent ended the session after {len(turns)} of {len(item.messages)} messages."
            return attempt.row(self._session, FAILED, error=said)
        return self._judged(attempt)

    def _send(self, attempt: _Attempt, text: str, variables: list[dict[str, Any]]) -> None:
        assert self._session is not None  # noqa: S101 - _attempt() has started one
        if self._options.store_requests:
            attempt.requests.append(text_request(text, variables))
        turn = self._client.send_message(self._session, text, variables=variables)
        attempt.turns.append(turn)
        self._session = replace(self._session, sequence_id=turn.sequence_id)
        # After anything but a plain answer the next record's message would be taken for a reply.
        self._reusable = turn.outcome == ANSWERED and not turn.session_ended

    def _judged(self, attempt: _Attempt) -> Row:
        last = attempt.turns[-1]
        if last.outcome == FAILED:
            why = one_line(last.failure_reason) or "The agent failed."
            return attempt.row(self._session, FAILED, error=why)
        if last.outcome == ENDED and not last.text:
            return attempt.row(self._session, FAILED, error="The agent ended the session without an answer.")
        status = ANSWERED if last.outcome == ENDED else last.outcome
        if self._output is None or status != ANSWERED:
            return attempt.row(self._session, status)
        return self._read(self._output, attempt)

    def _read(self, output: OutputType, attempt: _Attempt) -> Row:
        try:
            return attempt.row(self._session, ANSWERED, result=output.read(attempt.turns[-1]))
        except InvalidOutputError as error:
            if not self._options.output_retries or attempt.turns[-1].session_ended:
                return attempt.row(self._session, INVALID_OUTPUT, error=error.what)
            wrong = error
        try:
            self._send(attempt, output.question(wrong), [])
            return attempt.row(self._session, ANSWERED, result=output.read(attempt.turns[-1]))
        except AgentforceError as error:
            # The record is answered; whatever became of the question about the answer, it is not asked again.
            self._reusable = self._reusable and isinstance(error, InvalidOutputError)
            return attempt.row(self._session, INVALID_OUTPUT, error=error.what)

    def _not_asked(self, item: WorkItem, error: AgentforceError) -> Outcome | None:
        """Return what follows when the agent did not act on the record, ``None`` if that makes its row."""
        if isinstance(error, AgentforceAuthError | LedgerError):
            return Fatal(item, error)
        if isinstance(error, RateLimitedError):
            if self._session is not None and self._slot is not None:
                self._client.limiter.refused(self._slot, error.retry_after)
                self._reusable = False
            return Retry(item)
        if _acted(error) is not False:
            return None
        if isinstance(error, AgentforceTransientError | SessionNotFoundError):
            return self._later(item, error.retry_after or 0.0)
        if error.operation == "start" and isinstance(error, AgentforceRequestError):
            # Before the first session that started: the agent or the org is set up wrongly for every record.
            return None if self._checkpoint.sessions else Fatal(item, error)
        return None

    def _later(self, item: WorkItem, asked: float) -> Outcome | None:
        """Have the record asked again, unless it has been tried often or would have to wait for long."""
        self._reusable = False
        timing = self._client.timing
        if item.attempts + 1 >= MOST_ATTEMPTS or asked > timing.longest_wait:
            return None
        return Retry(item.next_attempt(), max(asked, timing.record_delay * 2**item.attempts))

    def _failed(self, attempt: _Attempt, error: AgentforceError) -> Row:
        self._reusable = False
        if isinstance(error, DeliveryUnknownError):
            attempt.partial = error.turn.text if error.turn is not None else ""
            return attempt.row(self._session, UNKNOWN, error=str(error), applied=error.applied)
        applied = True if attempt.turns else _acted(error)
        return attempt.row(self._session, FAILED, error=str(error), applied=applied)


def settle(checkpoint: Checkpoint, record: Record, row: Row) -> None:
    """Take down a row, with its record if that may go into the dead letter."""
    checkpoint.settle(record.name, row, record.line() if row.status in FAILURES else b"")


def _acted(error: AgentforceError) -> bool | None:
    # A start whose answer is lost may leave a session, but nothing was asked in it.
    return error.applied if error.operation == "send" else False
