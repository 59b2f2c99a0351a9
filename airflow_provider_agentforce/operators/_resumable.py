"""A session of a task, recorded in its ledger, so that a later try continues after a kill."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from airflow_provider_agentforce.client.call_errors import refused_start
from airflow_provider_agentforce.client.models import Session, SessionOptions, Turn
from airflow_provider_agentforce.client.open_session import OpenSession
from airflow_provider_agentforce.exceptions import AgentforceError, AgentforceInputError, LedgerError
from airflow_provider_agentforce.operators._ledger import (
    SESSION,
    Ledger,
    LedgerEntry,
    TaskJournal,
    turn_key,
    unreadable_entry,
)
from airflow_provider_agentforce.operators._page import ConversationPage, ShownJournal

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)


def resume_or_start(
    client: AgentforceClient, ledger: Ledger, fingerprint: str, options: SessionOptions
) -> tuple[Session, bool]:
    """Start a session, unless an earlier try did.

    A session that was left open before a clear, or with another agent or connection, is ended.

    :param fingerprint: fingerprint of the connection and the agent.
    :returns: the session, and whether it is the one of an earlier try.
    :raises LedgerError: if the ledger cannot be used.
    :raises AgentforceError: if the session could not be started.
    """
    entry = ledger.read_any_cycle(SESSION)
    if entry is not None and _open(entry):
        if entry.fingerprint == fingerprint and ledger.read(SESSION) is not None:
            log.info("Using the session that an earlier try started.")
            return _session(entry), True
        end_left(client, entry)
    elif entry is not None and not entry.done and ledger.read(SESSION) is not None:
        log.warning(
            "An earlier try lost the start of a session, which may be open until it expires. "
            "Its external session key and those of its repetitions: %s",
            ", ".join(_keys(entry)),
        )
    client.agent_version(options.agent_id)
    start = _RecordedStart(ledger, fingerprint)
    try:
        session = client.start(options, before_send=start.intend)
    except AgentforceError as error:
        start.take_back(refused_start(error))
        raise
    ledger.settle(SESSION, fingerprint, {**session.to_dict(), "ended": False})
    return session, False


class _RecordedStart:
    """The start of a session. Its entry has every external session key that a session may have been opened
    with.
    """

    def __init__(self, ledger: Ledger, fingerprint: str) -> None:
        self._ledger = ledger
        self._fingerprint = fingerprint
        self._keys: list[str] = []

    def intend(self, key: str | None) -> None:
        """Record that a start is about to leave. A repetition of one that may have arrived has a new key."""
        self._keys.append(str(key))
        self._write()

    def take_back(self, key: str | None) -> None:
        """Forget a key with which no session was opened."""
        if key in self._keys:
            self._keys.remove(key)
            if not self._keys:
                self._ledger.forget(SESSION)
                return
            with suppress(LedgerError):  # the error of the start is the one to raise
                self._write()

    def _write(self) -> None:
        self._ledger.intend(SESSION, self._fingerprint, {"external_session_keys": list(self._keys)})


def end_left(client: AgentforceClient, entry: LedgerEntry) -> None:
    """End the session that an earlier try left open."""
    if _open(entry):
        session = _session(entry)
        log.info("Ending session %s, which an earlier try left open.", session.session_id)
        client.end_quietly(session)


def end_session(client: AgentforceClient, ledger: Ledger) -> None:
    """End the session on record, if it is open, and record that."""
    entry = ledger.read(SESSION)
    if entry is not None and _open(entry):
        session = _session(entry)
        ended = client.end_quietly(session)
        ledger.settle(SESSION, entry.fingerprint, {**session.to_dict(), "ended": ended})


class ResumableConversation:
    """One conversation. Entering continues the session of an earlier try, or starts one; leaving ends it.

    :param fingerprint: fingerprint of the connection and the agent.
    :param resend_unknown: send a message again that an earlier try may have sent.
    :param store_requests: keep in each turn what was asked.
    :param explain: as for :class:`.OpenSession`.
    :param page: shows the conversation.
    :ivar open_session: the session, which numbers and sends the messages.
    :ivar resumed: whether the session is that of an earlier try.
    """

    open_session: OpenSession
    _journal: TaskJournal

    def __init__(
        self,
        client: AgentforceClient,
        ledger: Ledger,
        options: SessionOptions,
        *,
        fingerprint: str,
        resend_unknown: bool,
        end_reason: str,
        store_requests: bool,
        explain: Callable[[Turn], Turn] | None = None,
        page: ConversationPage,
    ) -> None:
        self._page = page
        self.resumed = False
        self._client = client
        self._ledger = ledger
        self._options = options
        self._fingerprint = fingerprint
        self._resend_unknown = resend_unknown
        self._end_reason = end_reason
        self._store_requests = store_requests
        self._explain = explain
        self._left_open = False

    @property
    def turns(self) -> list[Turn]:
        """The answers so far, including those of earlier tries."""
        return self.open_session.turns

    def restart(self) -> None:
        """Begin again in another session, and forget the answers so far.

        A first message that may be sent again because the agent did not act on it keeps its resolution.
        """
        first = self._ledger.read(turn_key(1))
        resolution = self._ledger.value_of(turn_key(1)).get("resolution")
        for number in range(1, len(self.turns) + 2):
            self._ledger.forget(turn_key(number))
        self._ledger.forget(SESSION)
        self._page.begin_again()
        self._start()
        if first is not None and not first.done and resolution is not None:
            self._journal.send_again(1, resolution)

    def leave_open(self) -> None:
        """Allow the next try, or this one after a wait, to continue in this session."""
        self._left_open = True

    def __enter__(self) -> Self:
        entry = self._ledger.read(SESSION)
        if entry is None or not entry.done or self._ledger.read(turn_key(1)) is None:
            self._start()
            return self
        if entry.fingerprint != self._fingerprint:
            end_left(self._client, entry)
            raise AgentforceInputError(
                "The agent or the connection has changed since an earlier try began this conversation. "
                "Clear the task to start again."
            )
        self._hold(_session(entry), resumed=True, ended=not _open(entry))
        log.info("Continuing session %s of an earlier try.", self.open_session.session.session_id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session = self.open_session.session
        if self._left_open:
            log.info("Session %s stays open.", session.session_id)
            return
        ended = self.open_session.end_quietly()
        self._ledger.settle(SESSION, self._fingerprint, {**session.to_dict(), "ended": ended})

    def _start(self) -> None:
        session, resumed = resume_or_start(self._client, self._ledger, self._fingerprint, self._options)
        self._hold(session, resumed=resumed)

    def _hold(self, session: Session, *, resumed: bool, ended: bool = False) -> None:
        self._journal = TaskJournal(
            self._ledger, self._fingerprint, session=session, resend_unknown=self._resend_unknown
        )
        self.resumed = resumed
        self._page.began(session)
        self.open_session = OpenSession(
            self._client,
            replace(session, sequence_id=0),
            journal=ShownJournal(self._journal, self._page),
            end_reason=self._end_reason,
            ended=ended,
            store_requests=self._store_requests,
            explain=self._explain,
        )


def _open(entry: LedgerEntry) -> bool:
    return entry.done and entry.value is not None and not entry.value.get("ended")


def _keys(entry: LedgerEntry) -> list[str]:
    return list((entry.value or {}).get("external_session_keys", ()))


def _session(entry: LedgerEntry) -> Session:
    try:
        return Session.from_dict(entry.value or {})
    except AgentforceInputError:
        raise unreadable_entry(SESSION) from None
