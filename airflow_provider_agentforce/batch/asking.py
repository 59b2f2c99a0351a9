"""One worker's part of a batch: asks about one record after the other, in sessions of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_agentforce.batch.pace import Pace
from airflow_provider_agentforce.batch.records import Record
from airflow_provider_agentforce.batch.rows import INVALID_OUTPUT, UNKNOWN, Row, moment
from airflow_provider_agentforce.client.models import ANSWERED, ENDED, FAILED, Session, Turn
from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceError,
    AgentforceRequestError,
    AgentforceTransientError,
    DeliveryUnknownError,
    InvalidOutputError,
    RateLimitedError,
    SessionNotFoundError,
    TaskStoppedError,
    one_line,
)

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 3


class Output(Protocol):
    """What reads a value out of an answer, as ``structured.OutputType`` does."""

    def read(self, turn: Turn) -> Any: ...  # noqa: D102

    def question(self, error: InvalidOutputError) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Ask:
    """A record with its messages, ready to be sent.

    :param messages: texts, in order.
    :param variables: context variables of the record.
    :param attempts: how often this try of the task has tried it.
    :param before: how often earlier tries did.
    """

    record: Record
    messages: tuple[str, ...]
    variables: Any = None
    attempts: int = 0
    before: int = 0

    def next_attempt(self) -> Ask:
        """Return it with one attempt more behind it."""
        return replace(self, attempts=self.attempts + 1)


@dataclass(frozen=True)
class Outcome:
    """What came of an :class:`Ask`: a row, or it is to be asked again, or nothing further can be asked.

    :param row: what became of it; ``None``: nothing yet, and nothing was done.
    :param again: ask it again, after ``delay`` seconds.
    :param fatal: an error that every other record would meet, too.
    """

    ask: Ask
    row: Row | None = None
    again: Ask | None = None
    delay: float = 0.0
    fatal: AgentforceError | None = None


@dataclass(frozen=True)
class Manner:
    """How all records of a batch are asked.

    :param start: options of :meth:`AgentforceClient.start_session`.
    :param messages_per_session: a session is shared by records until it has taken so many messages.
    :param output: reads the answer, if an ``output_type`` is given.
    :param output_retries: corrective questions that may be asked about an answer.
    :param resend_unknown: ask again what may have been acted on.
    """

    start: dict[str, Any]
    messages_per_session: int = 1
    output: Output | None = None
    output_retries: int = 1
    resend_unknown: bool = False

    @property
    def shares_sessions(self) -> bool:
        """Whether several records may share a session."""
        return self.messages_per_session > 1


class Asker:
    """Asks for one worker thread and holds its session.

    :param on_session: is told a session's id and whether it has begun (``True``) or ended.
    """

    def __init__(
        self,
        client: AgentforceClient,
        pace: Pace,
        manner: Manner,
        on_session: Callable[[str, bool], None],
    ) -> None:
        self._client = client
        self._pace = pace
        self._manner = manner
        self._on_session = on_session
        self._session: Session | None = None
        self._keeps_session = True

    @property
    def keeps_session(self) -> bool:
        """Whether the session at hand is there for another record."""
        return self._manner.shares_sessions and self._session is not None and self._keeps_session

    def fits(self, ask: Ask) -> bool:
        """Tell whether the session at hand takes all messages of *ask*."""
        used = self._session.sequence_id if self._session else 0
        return used + len(ask.messages) <= self._manner.messages_per_session

    def ask(self, ask: Ask, epoch: int) -> Outcome:
        """Ask about one record, in the session at hand or in a new one.

        :param epoch: of the place taken from the pace.
        """
        began, clock = time.time(), time.monotonic()
        turns: list[Turn] = []
        try:
            if self._session is None:
                self._start(ask)
            found = self._talk(ask, turns)
        except TaskStoppedError:
            if not turns:
                return Outcome(ask)
            found = {"status": FAILED, "error": "The task was told to stop between two messages."}
        except AgentforceError as error:
            early = self._not_asked(ask, error, epoch) if not turns else None
            if early is not None:
                return early
            found = self._failed(error, turns)
        except Exception as error:
            log.exception("Asking about a record failed.")
            self._keeps_session = False
            found = {"status": UNKNOWN, "applied": None, "error": f"{type(error).__name__} in the client."}
        row = self._row(ask, turns, found, began, time.monotonic() - clock)
        if row.status == UNKNOWN and self._manner.resend_unknown and ask.attempts + 1 < MOST_ATTEMPTS:
            return Outcome(ask, again=ask.next_attempt(), delay=self._client.timing.record_delay)
        return Outcome(ask, row)

    def close(self) -> None:
        """End the session at hand."""
        if self._session is None:
            return
        session, self._session = self._session, None
        ended = self._client.end_quietly(session)
        self._pace.ended()
        if ended:
            self._on_session(session.session_id, False)

    def _start(self, ask: Ask) -> None:
        options = dict(self._manner.start)
        if not self._manner.shares_sessions:
            options["variables"] = ask.variables
        self._session = self._client.start_session(wait_for_limits=False, **options)
        self._keeps_session = True
        self._pace.started()
        self._on_session(self._session.session_id, True)

    def _talk(self, ask: Ask, turns: list[Turn]) -> dict[str, Any]:
        for number, text in enumerate(ask.messages):
            first = number == 0 and self._manner.shares_sessions
            self._send(text, turns, variables=ask.variables if first else None)
            if turns[-1].outcome == FAILED or turns[-1].session_ended:
                break
        if len(turns) < len(ask.messages) and turns[-1].outcome != FAILED:
            said = f"The agent ended the session after {len(turns)} of {len(ask.messages)} messages."
            return {"status": FAILED, "error": said}
        return self._found(turns)

    def _send(self, text: str, turns: list[Turn], variables: Any = None) -> None:
        assert self._session is not None  # noqa: S101 - ask() has started one
        turn = self._client.send_message(self._session, text, variables=variables)
        turns.append(turn)
        self._session = replace(self._session, sequence_id=turn.sequence_id)
        # After anything but a plain answer the next record's message would be taken for a reply.
        self._keeps_session = turn.outcome == ANSWERED and not turn.session_ended

    def _found(self, turns: list[Turn]) -> dict[str, Any]:
        last = turns[-1]
        if last.outcome == FAILED:
            return {"status": FAILED, "error": one_line(last.failure_reason) or "The agent failed."}
        if last.outcome == ENDED and not last.text:
            return {"status": FAILED, "error": "The agent ended the session without an answer."}
        status = ANSWERED if last.outcome == ENDED else last.outcome
        if self._manner.output is None or status != ANSWERED:
            return {"status": status}
        return self._read(self._manner.output, turns)

    def _read(self, output: Output, turns: list[Turn]) -> dict[str, Any]:
        try:
            return {"status": ANSWERED, "result": output.read(turns[-1])}
        except InvalidOutputError as error:
            if not self._manner.output_retries or turns[-1].session_ended:
                return {"status": INVALID_OUTPUT, "error": error.what}
            wrong = error
        try:
            self._send(output.question(wrong), turns)
            return {"status": ANSWERED, "result": output.read(turns[-1])}
        except AgentforceError as error:
            # The record is answered; whatever became of the question about the answer, it is not asked again.
            self._keeps_session = self._keeps_session and isinstance(error, InvalidOutputError)
            return {"status": INVALID_OUTPUT, "error": error.what}

    def _not_asked(self, ask: Ask, error: AgentforceError, epoch: int) -> Outcome | None:
        """Return what follows when the agent did not act on the record, ``None`` if that makes its row."""
        if isinstance(error, AgentforceAuthError):
            return Outcome(ask, fatal=error)
        if isinstance(error, RateLimitedError):
            if error.status is None:
                self._pace.hold(error.retry_after or self._client.timing.record_delay)
            else:
                self._pace.refused(epoch, error.retry_after)
            return Outcome(ask, again=ask)
        if _acted(error) is not False:
            return None
        if isinstance(error, AgentforceTransientError | SessionNotFoundError):
            self._keeps_session = False
            if ask.attempts + 1 < MOST_ATTEMPTS:
                delay = max(error.retry_after or 0.0, self._client.timing.record_delay * 2**ask.attempts)
                return Outcome(ask, again=ask.next_attempt(), delay=delay)
        if error.operation == "start" and isinstance(error, AgentforceRequestError):
            # Before the first session that started: the agent or the org is set up wrongly for every record.
            return Outcome(ask, fatal=error) if not self._pace.sessions else None
        return None

    def _failed(self, error: AgentforceError, turns: list[Turn]) -> dict[str, Any]:
        self._keeps_session = False
        if isinstance(error, DeliveryUnknownError):
            partial = error.turn.text if error.turn is not None else ""
            return {"status": UNKNOWN, "error": str(error), "applied": error.applied, "partial": partial}
        return {"status": FAILED, "error": str(error), "applied": True if turns else _acted(error)}

    def _row(self, ask: Ask, turns: list[Turn], found: dict[str, Any], began: float, seconds: float) -> Row:
        partial = found.pop("partial", "")
        last = turns[-1] if turns else None
        session_id = self._session.session_id if self._session else None
        return Row(
            key=ask.record.key,
            text=partial or (last.text if last else ""),
            outcome=last.outcome if last else None,
            earlier_answers=[turn.text for turn in (turns if partial else turns[:-1])],
            session_id=last.session_id if last else session_id,
            sequence_id=last.sequence_id if last else None,
            attempts=ask.before + ask.attempts + 1,
            started_at=moment(began),
            duration=round(seconds, 3),
            **{"applied": True, **found},
        )


def _acted(error: AgentforceError) -> bool | None:
    # A start whose answer is lost may leave a session, but nothing was asked in it.
    return error.applied if error.operation == "send" else False
