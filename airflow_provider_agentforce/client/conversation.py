"""One conversation: a session that is always ended by the one who started it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_agentforce.client import checks
from airflow_provider_agentforce.client.models import Session, SessionLike, Turn
from airflow_provider_agentforce.exceptions import (
    AgentFailedError,
    AgentforceInputError,
    DeliveryUnknownError,
    SessionNotFoundError,
)

if TYPE_CHECKING:
    from typing_extensions import Self


class Speaker(Protocol):
    """What a conversation needs: the client, or the hook."""

    def start_session(  # noqa: D102
        self,
        agent_id: str | None = None,
        *,
        variables: Any = None,
        tz: str | None = None,
        bypass_user: bool = True,
        external_session_key: str | None = None,
        surface_type: str | None = None,
    ) -> Session: ...

    def send_message(  # noqa: D102
        self,
        session: SessionLike,
        text: str,
        *,
        variables: Any = None,
        in_reply_to: str | None = None,
        stream: bool = False,
        on_chunk: Callable[[dict[str, Any]], None] | None = None,
    ) -> Turn: ...

    def end_quietly(self, session: SessionLike, reason: str = "UserRequest") -> bool: ...  # noqa: D102


class Conversation:
    """A context manager that starts a session, numbers its messages, and ends it on every path.

    :ivar turns: the answers so far, oldest first.

    A failed end is logged, never raised: the answers are there, and an idle session ends by itself.
    """

    def __init__(
        self,
        speaker: Speaker,
        agent_id: str | None,
        *,
        end_reason: str = "UserRequest",
        **start_options: Any,
    ) -> None:
        self.turns: list[Turn] = []
        self._speaker = speaker
        self._agent_id = agent_id
        self._end_reason = checks.end_reason(end_reason, "end_reason")
        self._start_options = start_options
        self._session: Session | None = None
        self._unknown = False

    @property
    def session(self) -> Session:
        """The session as it stands, with the number of the last message.

        :raises AgentforceInputError: outside of the ``with`` block.
        """
        if self._session is None:
            raise AgentforceInputError("The conversation is not open: use it in a with statement.")
        return self._session

    def send(
        self,
        text: str,
        *,
        variables: Any = None,
        in_reply_to: str | None = None,
        stream: bool = False,
        on_chunk: Callable[[dict[str, Any]], None] | None = None,
    ) -> Turn:
        """Send the next message and return its answer.

        :raises SessionNotFoundError: if the agent has ended the session.
        :raises AgentforceInputError: after a message whose delivery is unknown: the agent may still work on
            it, and another message could be answered out of turn.
        :raises AgentforceError: as :meth:`AgentforceClient.send_message`.
        """
        session = self.session
        if self._unknown:
            raise AgentforceInputError(
                "The delivery of the last message is unknown; start a new conversation."
            )
        if self.turns and self.turns[-1].session_ended:
            raise SessionNotFoundError("The agent has ended the session.", session_id=session.session_id)
        try:
            turn = self._speaker.send_message(
                session, text, variables=variables, in_reply_to=in_reply_to, stream=stream, on_chunk=on_chunk
            )
        except DeliveryUnknownError:
            self._unknown = True
            raise
        except AgentFailedError:
            # It was delivered, so its number is used up.
            self._session = replace(session, sequence_id=session.sequence_id + 1)
            raise
        self.turns.append(turn)
        self._session = replace(session, sequence_id=turn.sequence_id)
        return turn

    def __enter__(self) -> Self:
        self._session = self._speaker.start_session(self._agent_id, **self._start_options)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, self._session = self.session, None
        if not (self.turns and self.turns[-1].session_ended):
            self._speaker.end_quietly(session, self._end_reason)
