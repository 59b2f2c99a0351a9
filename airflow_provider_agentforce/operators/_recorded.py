"""A session and its messages with every step in the ledger, so that a later try goes on where one was cut."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.client.models import Session, Turn
from airflow_provider_agentforce.exceptions import AgentforceInputError, SessionNotFoundError
from airflow_provider_agentforce.operators._ledger import (
    SESSION,
    Ledger,
    Record,
    fingerprint,
    send_once,
    turn_key,
    unreadable,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)

_KEY = "external_session_key"


def start_recorded(client: AgentforceClient, ledger: Ledger, mark: str, **options: Any) -> Session:
    """Start a session, unless an earlier try has; end one that was left before a person's clear.

    :param options: of :meth:`AgentforceClient.start_session`.
    """
    record = ledger.read_any_cycle(SESSION)
    if record is not None and ledger.read(SESSION) is None:
        end_left(client, record)
        record = None
    if record is not None and _open(record):
        if record.fingerprint == mark:
            log.info("An earlier try has started this session; it is used.")
            return _session(record)
        end_left(client, record)
    elif record is not None and not record.done:
        lost = (record.value or {}).get(_KEY)
        log.warning("An earlier try was killed while it started a session; it may be open. Its key: %s", lost)
    announced = {_KEY: options.get(_KEY)}
    session = client.start_session(
        before_send=lambda _key: ledger.intend(SESSION, mark, announced), **options
    )
    ledger.settle(SESSION, mark, {**session.to_dict(), "ended": False})
    return session


def end_left(client: AgentforceClient, record: Record) -> None:
    """End the session that an earlier try left open."""
    if _open(record):
        session = _session(record)
        log.info("Ending session %s, which an earlier try left open.", session.session_id)
        client.end_quietly(session)


class RecordedConversation:
    """One conversation. Entering takes up the session of an earlier try, or starts one; leaving ends it.

    :param mark: fingerprint of the connection and the agent.
    :param resend_unknown: send a message again that an earlier try may have sent.
    :param options: of :meth:`AgentforceClient.start_session`.
    :ivar turns: the answers so far, those of earlier tries among them.
    :ivar resumed: whether the session is one of an earlier try.
    """

    def __init__(
        self,
        client: AgentforceClient,
        ledger: Ledger,
        *,
        mark: str,
        resend_unknown: bool,
        end_reason: str,
        options: dict[str, Any],
    ) -> None:
        self.turns: list[Turn] = []
        self.resumed = False
        self._client = client
        self._ledger = ledger
        self._mark = mark
        self._resend_unknown = resend_unknown
        self._end_reason = end_reason
        self._options = options
        self._session: Session | None = None
        self._ended = False
        self._left_open = False

    @property
    def session(self) -> Session:
        """The session as it stands."""
        assert self._session is not None, "not entered"  # noqa: S101 - a mistake of ours
        return self._session

    def send(self, text: str, variables: Any, *, known_as: str | None = None, **options: Any) -> Turn:
        """Send the next message, or return the answer that an earlier try got.

        :param known_as: stands for *text* in the record, for a text that another try may word differently.
        :param options: of :meth:`AgentforceClient.send_message`.
        :raises SessionNotFoundError: if the message is still to be sent and the session has ended.
        """
        number = len(self.turns) + 1

        def deliver(on_sending: Callable[[], None], after_unknown: bool) -> Turn:
            if self._ended:
                raise SessionNotFoundError(
                    "An earlier try has ended the session.",
                    operation="send",
                    session_id=self.session.session_id,
                )
            return self._client.send_message(
                self.session,
                text,
                variables=variables,
                before_send=lambda _key: on_sending(),
                repeated=after_unknown,
                **options,
            )

        mark = fingerprint(self._mark, number, known_as or text, variables)
        turn = send_once(
            self._ledger,
            turn_key(number),
            mark,
            deliver,
            session_id=self.session.session_id,
            resend_unknown=self._resend_unknown,
        )
        self.turns.append(turn)
        self._session = replace(self.session, sequence_id=turn.sequence_id)
        self._ended = self._ended or turn.session_ended
        return turn

    def restart(self) -> None:
        """Begin anew in a session of its own, forgetting the answers so far."""
        for number in range(1, len(self.turns) + 2):
            self._ledger.forget(turn_key(number))
        self._ledger.forget(SESSION)
        self.turns.clear()
        self._start()

    def leave_open(self) -> None:
        """Let the next try go on in this session."""
        self._left_open = True

    def __enter__(self) -> Self:
        record = self._ledger.read(SESSION)
        begun = record is not None and record.done and self._ledger.read(turn_key(1)) is not None
        if record is None or not begun:
            self._start(fresh=record is None or not record.done)
            return self
        if record.fingerprint != self._mark:
            end_left(self._client, record)
            raise AgentforceInputError(
                "The agent or the connection has changed since an earlier try began this conversation. "
                "Clear the task to hold it anew."
            )
        self._session = _session(record)
        self._ended = not _open(record)
        self.resumed = True
        log.info("Going on with session %s of an earlier try.", self.session.session_id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._left_open:
            log.info("Session %s stays open for the next try.", self.session.session_id)
            return
        if not self._ended:
            self._client.end_quietly(self.session, self._end_reason)
        self._ledger.settle(SESSION, self._mark, {**self.session.to_dict(), "ended": True})

    def _start(self, *, fresh: bool = True) -> None:
        self._session = start_recorded(self._client, self._ledger, self._mark, **self._options)
        self._ended = False
        self.resumed = not fresh


def _open(record: Record) -> bool:
    return record.done and record.value is not None and not record.value.get("ended")


def _session(record: Record) -> Session:
    value = dict(record.value or {})
    value.pop("ended", None)
    try:
        return Session(**value)
    except TypeError:
        raise unreadable(SESSION) from None
