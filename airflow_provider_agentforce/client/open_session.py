"""The holder of a session: it numbers the messages, knows the state, and ends the session."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.after_fork import renew_in_child
from airflow_provider_agentforce.client.attempt import CallOptions
from airflow_provider_agentforce.client.call_errors import answer_interrupted
from airflow_provider_agentforce.client.messages import Message, MessageLike, message_of
from airflow_provider_agentforce.client.models import JournalEntry, Session, SessionOptions, Turn
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceInputError,
    DeliveryUnknownError,
    SessionBusyError,
    SessionNotFoundError,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_agentforce.client.client import AgentforceClient

State = Literal["open", "in_doubt", "ended"]


class Journal(Protocol):
    """Records the messages of a session for a later process, by their numbers from 1.

    *asked* is a dict with ``text``, ``variables`` (the API's list) and ``in_reply_to``.
    """

    def replay(self, number: int, asked: Mapping[str, Any]) -> JournalEntry:
        """Return the record of the message.

        :raises AgentforceError: if it must not be sent.
        """

    def intend(self, number: int, asked: Mapping[str, Any], request: dict[str, Any] | None) -> None:
        """Record that the message is about to leave; if this raises, the message does not leave.

        It is called again before the message is repeated after a refusal.

        :param request: the value to keep, as in a :class:`Turn`; ``None`` to keep nothing.
        """

    def settle(self, number: int, asked: Mapping[str, Any], turn: Turn | None) -> None:
        """Record the answer; ``None``: the agent did not act on the message."""

    def doubt(self, number: int, asked: Mapping[str, Any], error: DeliveryUnknownError) -> None:
        """Record what is known of a message whose delivery is unknown."""


class NoJournal:
    """Records nothing."""

    def replay(self, number: int, asked: Mapping[str, Any]) -> JournalEntry:  # noqa: ARG002
        """Return an empty record."""
        return JournalEntry()

    def intend(self, number: int, asked: Mapping[str, Any], request: dict[str, Any] | None) -> None:
        """Do nothing."""

    def settle(self, number: int, asked: Mapping[str, Any], turn: Turn | None) -> None:
        """Do nothing."""

    def doubt(self, number: int, asked: Mapping[str, Any], error: DeliveryUnknownError) -> None:
        """Do nothing."""


class _JournaledMessage:
    """A message and its record in a journal.

    :param known_as: as for :meth:`OpenSession.send`.
    :param keeps_request: keep the message in the record and in the turn.
    :ivar earlier: the record of earlier tries.
    """

    def __init__(
        self, journal: Journal, number: int, message: Message, *, known_as: str | None, keeps_request: bool
    ) -> None:
        self._message = (number, message.asked(known_as))
        self.earlier = journal.replay(*self._message)
        self._journal = journal
        self._request = message.request if keeps_request else None
        self._intended = False

    def call_options(
        self, *, repeated: bool, on_chunk: Callable[[dict[str, Any]], None] | None
    ) -> CallOptions:
        """Return the options of a send that records the message."""
        return CallOptions(
            before_send=self.intend,
            before_every_attempt=True,
            on_chunk=on_chunk,
            repeated=repeated or self.earlier.sent,
        )

    def intend(self, _key: str | None) -> None:
        """Record that the message is about to leave; if this raises, it does not leave."""
        self._journal.intend(*self._message, self._request)
        self._intended = True

    def settle(self, turn: Turn) -> Turn:
        """Record the answer, and return it with what the record adds."""
        # The client's turn has the message, and no resolution.
        if self._request is None or self.earlier.resolution is not None:
            turn = replace(turn, request=self._request, resolution=self.earlier.resolution)
        self._journal.settle(*self._message, turn)
        return turn

    def in_doubt(self, error: BaseException) -> bool:
        """Return whether the agent may have acted on the message, whose sending failed with *error*."""
        if not isinstance(error, AgentforceError):
            return self._intended
        # The error of a token call says nothing about the message.
        return self._intended and error.operation == "send" and error.applied is not False

    def fail(self, error: BaseException) -> None:
        """Record that no answer came."""
        if not self.in_doubt(error):
            if self._intended:
                self._journal.settle(*self._message, None)
        elif isinstance(error, DeliveryUnknownError):
            self._journal.doubt(*self._message, error)


class OpenSession:
    """A session that is or was open. Its messages wait for each other, so threads may share it.

    :param client: sends the messages, and ends the session.
    :param session: the session, with the number of its last message.
    :param journal: records the messages and their answers.
    :param end_reason: ``UserRequest``, ``Transfer``, ``Expiration``, ``Error`` or ``Other``.
    :param ended: the session has ended; only answers in the journal are available.
    :param store_requests: keep the message in each turn.
    :param explain: adds further information to each turn after its answer was recorded.
    :ivar turns: the answers so far, oldest first, including replayed ones.
    """

    def __init__(
        self,
        client: AgentforceClient,
        session: Session | None,
        *,
        journal: Journal | None = None,
        end_reason: str = "UserRequest",
        ended: bool = False,
        store_requests: bool = True,
        explain: Callable[[Turn], Turn] | None = None,
    ) -> None:
        self.turns: list[Turn] = []
        self._client = client
        self._session = session
        self._journal: Journal = journal or NoJournal()
        self._store_requests = store_requests
        self._explain = explain
        self._end_reason = end_reason
        self._state: State = "ended" if ended else "open"
        self._why_ended = "An earlier try ended the session." if ended else ""
        self._under_way: AgentforceClient | None = None
        self._sender: int | None = None
        self._process = os.getpid()
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
        """Free the locks in a forked child, where the delivery of the parent's message stays unknown."""
        self._sending, self._ending = threading.Lock(), threading.Lock()
        if self._under_way is not None:
            self._under_way, self._state = None, "in_doubt"

    @classmethod
    def start(cls, client: AgentforceClient, options: SessionOptions) -> Self:
        """Start a session and hold it.

        :raises AgentforceError: as :meth:`.AgentforceClient.start_session`.
        """
        return cls(client, client.start(options))

    @property
    def session(self) -> Session:
        """The session, with the number of the last message.

        :raises AgentforceInputError: for a conversation outside its ``with`` block.
        """
        if self._session is None:
            raise AgentforceInputError("The conversation is not open: use it in a with statement.")
        return self._session

    @property
    def state(self) -> State:
        """``open``; ``in_doubt``, if the delivery of the last message is not known; or ``ended``."""
        return self._state

    def send(
        self,
        text: MessageLike,
        *,
        variables: Any = None,
        in_reply_to: str | None = None,
        stream: bool = False,
        on_chunk: Callable[[dict[str, Any]], None] | None = None,
        repeated: bool = False,
        known_as: str | None = None,
        sequence_id: int | None = None,
        client: AgentforceClient | None = None,
        lock_timeout: float | None = None,
    ) -> Turn:
        """Send the next message and return its answer, or the answer in the journal.

        :param repeated: this message was sent before, and its delivery is not known.
        :param known_as: replaces *text* in the journal, for a text that another try may word differently.
        :param sequence_id: number of the last message that the caller knows, if others also send in the
            session; the higher number counts.
        :param client: a client for this message only, which can be stopped separately.
        :param lock_timeout: seconds to wait while another thread sends; default: no limit.
        :raises SessionNotFoundError: if the session has ended.
        :raises SessionBusyError: if another thread is still waiting for its answer.
        :raises AgentforceInputError: after a message whose delivery is unknown: the agent may still be
            working on it, and another message could be answered out of turn.
        :raises AgentforceError: as :meth:`.AgentforceClient.send_message`.
        """
        sender = client or self._client
        self._acquire(lock_timeout)
        try:
            self._under_way, self._sender = sender, threading.get_ident()
            held, last = self.session, self.turns[-1] if self.turns else None
            if sequence_id is not None and sequence_id > held.sequence_id:
                held = replace(held, sequence_id=sequence_id)
            message = message_of(text, variables=variables, in_reply_to=in_reply_to, session=held, last=last)
            number, keeps = held.sequence_id + 1, self._store_requests
            journaled = _JournaledMessage(
                self._journal, number, message, known_as=known_as, keeps_request=keeps
            )
            options = journaled.call_options(repeated=repeated, on_chunk=on_chunk)
            turn = self._answer_to(journaled, partial(sender.send, held, message, options, stream=stream))
            if self._explain is not None:
                self.turns[-1] = turn = self._explain(turn)
            return turn
        finally:
            self._under_way = self._sender = None
            self._sending.release()

    def end(self) -> bool:
        """End the session.

        :returns: ``False`` if it had already ended.
        :raises AgentforceError: the session may still be open.
        """
        with self._ending:
            if self._state == "ended":
                return False
            ended = self._client.end_session(self.session, self._end_reason)
            self._state = "ended"
            return ended

    def end_quietly(self) -> bool:
        """End the session once, during cleanup: a failure is logged and returned, never raised.

        The answers are already received, and an idle session ends by itself. A forked child leaves the
        session to the process that started it; :meth:`end` also ends it from the child.

        :returns: ``False`` if the session may still be open.
        """
        with self._ending:
            if self._state == "ended":
                return True
            if self._process != os.getpid():
                return False  # a forked child, whose parent continues with the session
            self._state = "ended"
            return self._client.end_quietly(self.session, self._end_reason)

    def cut(self) -> bool:
        """Cut off the message in progress, from any thread.

        :returns: whether there was one. Whether the agent acts on it cannot be known.
        """
        sender = self._under_way
        if sender is not None:
            sender.stop()
        return sender is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_quietly()

    def _noted(self, turn: Turn) -> Turn:
        self.turns.append(turn)
        self._session = replace(self.session, sequence_id=turn.sequence_id)
        if turn.session_ended:
            self._state, self._why_ended = "ended", "The agent has ended the session."
        return turn

    def _answer_to(self, message: _JournaledMessage, send: Callable[[], Turn]) -> Turn:
        if message.earlier.turn is not None:
            return self._noted(message.earlier.turn)
        self._check_open()
        turn: Turn | None = None
        try:
            turn = send()
            turn = message.settle(turn)
            return self._noted(turn)
        except BaseException as error:
            if turn is None:
                if message.in_doubt(error):
                    self._state = "in_doubt"
                message.fail(error)
                raise
            if isinstance(error, AgentforceError):
                raise
            # A timeout or kill that a signal handler raised must not look like a message that failed.
            self._state = "in_doubt"
            raise answer_interrupted(error, turn) from error

    def _check_open(self) -> None:
        session_id = self.session.session_id
        if self._state == "in_doubt":
            raise AgentforceInputError(
                "The delivery of the session's last message is unknown; start a new session.",
                session_id=session_id,
            )
        if self._state == "ended":
            raise SessionNotFoundError(
                self._why_ended or "The session has ended.", operation="send", session_id=session_id
            )

    def _acquire(self, timeout: float | None) -> None:
        """Wait until no other thread sends."""
        if self._sender == threading.get_ident():
            raise AgentforceInputError(
                "on_chunk cannot send a message in the session whose answer it receives.",
                session_id=self.session.session_id,
            )
        if not self._sending.acquire(timeout=-1 if timeout is None else timeout):
            raise SessionBusyError(
                "Another message of the session is in progress.", session_id=self.session.session_id
            )


class Conversation(OpenSession):
    """A session that starts with its ``with`` block. The process that started it always ends it.

    :param options: as for :meth:`.AgentforceClient.start_session`.
    """

    def __init__(
        self,
        client: AgentforceClient,
        agent_id: str | None = None,
        *,
        end_reason: str = "UserRequest",
        **options: Any,
    ) -> None:
        super().__init__(client, None, end_reason=validation.end_reason(end_reason, "end_reason"))
        self._options = SessionOptions(agent_id, **options)

    def __enter__(self) -> Self:
        self._session = self._client.start(self._options)
        self._state, self._process = "open", os.getpid()
        return self

    def __exit__(self, *_: object) -> None:
        self.end_quietly()
        self._session = None
