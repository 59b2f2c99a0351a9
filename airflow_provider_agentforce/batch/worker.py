"""A worker of a batch: asks about one record after another, in sessions that it starts and ends."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.batch.agent_versions import AgentVersions
from airflow_provider_agentforce.batch.checkpoint import Checkpoint
from airflow_provider_agentforce.batch.earlier_tries import MessagePosition
from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.reader import Record
from airflow_provider_agentforce.batch.results import FAILURES, INVALID_OUTPUT, SKIPPED, UNKNOWN, Row, moment
from airflow_provider_agentforce.client.call_errors import refused_start
from airflow_provider_agentforce.client.concurrency_limiter import Slot
from airflow_provider_agentforce.client.messages import Message, MessageLike
from airflow_provider_agentforce.client.models import ANSWERED, ENDED, FAILED, Session, Turn
from airflow_provider_agentforce.client.open_session import NoJournal, OpenSession
from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceError,
    AgentforceRequestError,
    AgentforceTransientError,
    BudgetExceededError,
    DeliveryUnknownError,
    LedgerError,
    RateLimitedError,
    SessionNotFoundError,
    TaskStoppedError,
    one_line,
)
from airflow_provider_agentforce.structured import OutputType
from airflow_provider_agentforce.structured.corrective_question import read_or_ask

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 3
# Seconds after which a worker that waits for a slot checks whether it must stop.
_SLICE = 0.5


# Not frozen, like a row.
@dataclass
class WorkItem:
    """A record with its messages, ready to be sent.

    :param messages: in order; the first has the variables where sessions are shared.
    :param variables: context variables of the session, if the record does not share one.
    :param attempts: number of attempts in this try of the task.
    :param before: number of attempts in earlier tries.
    :param resolution: like that of a turn: why it may be asked again.
    :param question: hash of the question, if its answer may be reused.
    """

    record: Record
    messages: tuple[Message, ...]
    variables: list[dict[str, Any]] = field(default_factory=list)
    attempts: int = 0
    before: int = 0
    resolution: dict[str, Any] | None = None
    question: str = ""

    @property
    def name(self) -> str:
        """The name of the record."""
        return self.record.name

    def next_attempt(self) -> WorkItem:
        """Return it with one more attempt."""
        return replace(self, attempts=self.attempts + 1)


@dataclass(frozen=True)
class Answered:
    """The record has its row."""

    item: WorkItem
    row: Row


@dataclass(frozen=True)
class AskAgain:
    """The record must be asked again, after *delay* seconds.

    :param row: its row if nothing more is asked; ``None``: it was not asked.
    """

    item: WorkItem
    delay: float = 0.0
    row: Row | None = None


@dataclass(frozen=True)
class NotStarted:
    """Nothing was sent for the record, and nothing more will be asked."""


@dataclass(frozen=True)
class Fatal:
    """*error* would affect every other record, too; nothing was sent for this one."""

    error: AgentforceError


@dataclass(frozen=True)
class OutOfBudget:
    """Nothing was sent for the record, because the budget is used up."""

    error: BudgetExceededError


Outcome = Answered | AskAgain | NotStarted | Fatal | OutOfBudget


class _RecordAttempt(NoJournal):
    """One attempt at a record, and the journal of its messages: right before the first one leaves, it claims
    the record.

    :ivar session: the session in which it is asked.
    """

    def __init__(self, item: WorkItem, checkpoint: Checkpoint) -> None:
        self.session: OpenSession | None = None
        self._item = item
        self._checkpoint = checkpoint
        self._requests: dict[int, dict[str, Any] | None] = {}
        self._began, self._clock = time.time(), time.monotonic()

    @property
    def turns(self) -> list[Turn]:
        """The answers."""
        return self.session.turns if self.session else []

    def intend(self, number: int, asked: Mapping[str, Any], request: dict[str, Any] | None) -> None:  # noqa: ARG002
        """Claim the record, and store the messages."""
        assert self.session is not None  # noqa: S101 - only the session calls this
        if not self._requests:
            where = MessagePosition(self.session.session.session_id, number, time.time())
            self._checkpoint.claim(self._item.name, where)
        self._requests[number] = request

    @property
    def number(self) -> int | None:
        """The number of the last message."""
        return max(self._requests, default=None)

    def withdraw(self) -> None:
        """Withdraw the claim: the agent did not act on the record."""
        if self._requests:
            self._checkpoint.withdraw(self._item.name)

    def row(self, status: str, *, partial: str = "", **more: Any) -> Row:
        """Return the row of the record.

        :param partial: the readable part of an answer whose delivery is unknown.
        """
        last = self.turns[-1] if self.turns else None
        *earlier, request = self._requests.values() or (None,)
        return Row(
            key=self._item.record.key,
            status=status,
            text=partial or (last.text if last else ""),
            outcome=last.outcome if last else None,
            earlier_answers=[turn.text for turn in (self.turns if partial else self.turns[:-1])],
            request=request,
            earlier_requests=[one for one in earlier if one],
            resolution=self._item.resolution,
            attempts=self._item.before + self._item.attempts + 1,
            started_at=moment(self._began),
            duration=round(time.monotonic() - self._clock, 3),
            **{"applied": True, "sequence_id": last.sequence_id if last else None, **self._where(), **more},
        )

    def _where(self) -> dict[str, str | None]:
        if self.session is None:
            return {}
        session = self.session.session
        return {"session_id": session.session_id, "external_session_key": session.external_session_key}


class Worker:
    """Asks in one thread, and holds its session.

    :param versions: versions of the agent.
    :param stopping: returns whether nothing more may be started.
    :ivar busy: whether it does more than wait for a slot.
    """

    def __init__(
        self,
        client: AgentforceClient,
        checkpoint: Checkpoint,
        options: Options,
        versions: AgentVersions,
        stopping: Callable[[], bool],
    ) -> None:
        self.busy = False
        self._client = client
        self._checkpoint = checkpoint
        self._options = options
        self._versions = versions
        self._stopping = stopping
        self._slot: Slot | None = None
        # When the start of the session began and ended.
        self._start_time = (0.0, 0.0)
        self._session: OpenSession | None = None
        self._reusable = False

    def ask(self, item: WorkItem) -> Outcome:
        """Ask about one record, in the open session or in a new one, and write its row."""
        if self._session is not None and not self._fits(self._session, item):
            self.close()
        if self._session is None and not self._take_slot():
            return NotStarted()
        self.busy = True
        try:
            return self._attempt(item)
        finally:
            if not (self._reusable and self._options.shares_sessions):
                self.close()
            self.busy = False

    def close(self) -> None:
        """End the open session."""
        session, self._session, self._reusable = self._session, None, False
        if session is not None and session.end_quietly():
            self._checkpoint.ended(session.session.session_id)

    def _fits(self, session: OpenSession, item: WorkItem) -> bool:
        return session.session.sequence_id + len(item.messages) <= self._options.messages_per_session

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

    def _attempt(self, item: WorkItem) -> Outcome:
        attempt = _RecordAttempt(item, self._checkpoint)
        try:
            session = self._open(attempt, item)
            row = self._hold_conversation(session, attempt, item)
        except AgentforceError as error:
            early = None if attempt.turns else self._not_asked(item, error)
            if early is not None:
                attempt.withdraw()
                return early
            row = _failed(attempt, error)
        except Exception as error:
            log.exception("Asking about a record failed.")
            what = f"Unexpected {type(error).__name__}; see the task log."
            row = attempt.row(UNKNOWN, error=what, applied=None, sequence_id=attempt.number)
        if attempt.session is not None:
            row = self._versions.marked(row, item.record.position, *self._start_time)
        if row.may_be_resent and self._options.resend_unknown and item.attempts + 1 < MOST_ATTEMPTS:
            return AskAgain(item.next_attempt(), self._client.timing.record_delay, row)
        # If messages are not stored, a repetition is compared by its hash.
        in_doubt = row.status == UNKNOWN and row.request is None
        question = hash_of(item.messages) if in_doubt else item.question
        settle(self._checkpoint, item.record, row, question)
        return Answered(item, row)

    def _open(self, attempt: _RecordAttempt, item: WorkItem) -> OpenSession:
        """Provide the open session, or a new one, for the messages of *attempt*."""
        held = self._session.session if self._session else self._start(item)
        keeps = self._options.store_requests
        self._session = OpenSession(self._client, held, journal=attempt, store_requests=keeps)
        attempt.session = self._session
        return self._session

    def _start(self, item: WorkItem) -> Session:
        assert self._slot is not None  # noqa: S101 - ask() has taken one
        slot, limiter = self._slot, self._client.limiter
        options, began = self._options.start.with_variables(item.variables), time.monotonic()
        try:
            session = self._client.start(options, slot=slot, before_send=self._checkpoint.starting)
        except BaseException as error:
            if isinstance(error, RateLimitedError):
                limiter.refused(slot, error.retry_after)
            else:
                limiter.release(slot)
            refused = refused_start(error)
            if refused is not None:
                self._checkpoint.ended(refused)
            raise
        self._start_time = began, time.monotonic()
        self._checkpoint.started(session.session_id, session.external_session_key)
        return session

    def _hold_conversation(self, session: OpenSession, attempt: _RecordAttempt, item: WorkItem) -> Row:
        for message in item.messages:
            last = self._send(session, message)
            if last.outcome == FAILED or session.state == "ended":
                break
        why = _failure_of(last, len(attempt.turns), len(item.messages))
        if why:
            return attempt.row(FAILED, error=why)
        output = self._options.output
        if output is None or last.outcome not in {ANSWERED, ENDED}:
            return attempt.row(ANSWERED if last.outcome == ENDED else last.outcome)
        return self._read(output, session, attempt)

    def _send(self, session: OpenSession, said: MessageLike) -> Turn:
        # After anything but a plain answer, the next record's message would count as a reply.
        self._reusable = False
        turn = session.send(said)
        self._reusable = turn.outcome == ANSWERED and session.state == "open"
        return turn

    def _read(self, output: OutputType, session: OpenSession, attempt: _RecordAttempt) -> Row:
        try:
            result = read_or_ask(
                output,
                attempt.turns[-1],
                partial(self._send, session),
                retries=self._options.output_retries,
                most_messages=self._client.settings.max_messages_per_session,
            )
        except AgentforceError as error:
            # The record is answered; it is not asked again, even if the corrective question failed.
            return attempt.row(INVALID_OUTPUT, error=error.what)
        last = attempt.turns[-1]
        if result is None and last.outcome != ANSWERED:
            words = f"The agent's last words (outcome {last.outcome}) do not fit output_type."
            return attempt.row(INVALID_OUTPUT, error=words)
        return attempt.row(ANSWERED, result=result)

    def _not_asked(self, item: WorkItem, error: AgentforceError) -> Outcome | None:
        """Return what follows if the agent did not act on the record, ``None`` if it gets its row."""
        match error:
            case AgentforceAuthError() | LedgerError() | TaskStoppedError():
                return Fatal(error)
            case BudgetExceededError():
                return OutOfBudget(error)
            case RateLimitedError():
                if self._session is not None and self._slot is not None:
                    self._client.limiter.refused(self._slot, error.retry_after)
                return AskAgain(item)
        if _acted(error) is not False:
            return None
        if isinstance(error, AgentforceTransientError | SessionNotFoundError):
            return self._later(item, error.retry_after or 0.0)
        return Fatal(error) if self._concerns_all(error) else None

    def _concerns_all(self, error: AgentforceError) -> bool:
        """Return whether a start failed before any has succeeded: the setup is wrong for every record."""
        refused = error.operation == "start" and isinstance(error, AgentforceRequestError)
        return refused and not self._checkpoint.sessions

    def _later(self, item: WorkItem, asked: float) -> Outcome | None:
        """Ask the record again, unless it was tried often or must wait for long."""
        timing = self._client.timing
        if item.attempts + 1 >= MOST_ATTEMPTS or asked > timing.longest_wait:
            return None
        return AskAgain(item.next_attempt(), max(asked, timing.record_delay * 2**item.attempts))


def hash_of(messages: Sequence[Message]) -> str:
    """Return a hash of messages, with the length of that of a question."""
    said = [message.asked(None) for message in messages]
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()


def settle(checkpoint: Checkpoint, record: Record, row: Row, question: str = "") -> None:
    """Write a row, with its record if the results or the dead letter may need it."""
    keeps = checkpoint.keeps_records or row.status in {*FAILURES, SKIPPED}
    checkpoint.settle(record.name, row, record.line() if keeps else b"", question)


def _failure_of(last: Turn, answers: int, messages: int) -> str:
    """Return why a conversation with this *last* answer has failed, ``""`` if it has not."""
    if last.outcome == FAILED:
        return one_line(last.failure_reason) or "The agent failed."
    if answers < messages:
        return f"The agent ended the session after {answers} of {messages} messages."
    if last.outcome == ENDED and not last.text:
        return "The agent ended the session without an answer."
    return ""


def _failed(attempt: _RecordAttempt, error: AgentforceError) -> Row:
    if isinstance(error, DeliveryUnknownError):
        read = error.turn.text if error.turn is not None else ""
        return attempt.row(
            UNKNOWN, partial=read, error=str(error), applied=error.applied, sequence_id=attempt.number
        )
    applied = True if attempt.turns else _acted(error)
    return attempt.row(FAILED, error=str(error), applied=applied)


def _acted(error: AgentforceError) -> bool | None:
    # A start whose answer is lost may leave a session, but nothing was asked in it.
    return error.applied if error.operation == "send" else False
