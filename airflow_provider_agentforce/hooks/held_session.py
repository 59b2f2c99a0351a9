"""A session as this process knows it: the number of its last message, and who has to end it."""

from __future__ import annotations

import logging
import threading
from typing import Any

from airflow_provider_agentforce.client import Session, Turn
from airflow_provider_agentforce.client.client import AgentforceClient
from airflow_provider_agentforce.exceptions import (
    AgentFailedError,
    AgentforceInputError,
    DeliveryUnknownError,
    SessionBusyError,
)
from airflow_provider_agentforce.hooks.task_end import at_task_end, not_at_task_end

log = logging.getLogger(__name__)


class HeldSession:
    """A session that any thread may send messages in, one at a time.

    :param session_id: its id.
    :param last: the number of its last message, ``None`` if that is not known here.
    """

    def __init__(self, session_id: str, last: int | None = None) -> None:
        self.session_id = session_id
        self.last = last
        self.client: AgentforceClient | None = None
        self._sending = threading.Lock()
        self._in_doubt = False

    def send(
        self,
        client: AgentforceClient,
        text: str,
        *,
        last: int | None = None,
        seconds: float | None = None,
        **options: Any,
    ) -> Turn:
        """Send the next message.

        :param client: for this message alone, since the end of the task stops it.
        :param last: the number of the last message, if the caller knows it.
        :param seconds: how long to wait for another message of the session, ``None`` for as long as it takes.
        :param options: as :meth:`AgentforceClient.send_message`.
        :raises SessionBusyError: another thread still waits for its answer.
        :raises AgentforceInputError: the number is not known, or the last message is in doubt.
        :raises AgentforceError: as :meth:`AgentforceClient.send_message`.
        """
        if not self._sending.acquire(timeout=-1 if seconds is None else seconds):
            raise SessionBusyError("Another message of the session is under way.", session_id=self.session_id)
        try:
            self.client = client
            return self._send(client, text, self._number(last), options)
        finally:
            self.client = None
            self._sending.release()

    def _send(self, client: AgentforceClient, text: str, last: int, options: dict[str, Any]) -> Turn:
        try:
            turn = client.send_message(Session(self.session_id, last), text, **options)
        except DeliveryUnknownError:
            self._in_doubt = True
            raise
        except AgentFailedError:
            self.last = last + 1
            raise
        self.last = turn.sequence_id
        return turn

    def _number(self, given: int | None) -> int:
        last = self.last if given is None else given
        if self._in_doubt:
            raise AgentforceInputError(
                "What became of the session's last message is unknown; start a new session.",
                session_id=self.session_id,
            )
        if last is None:
            raise AgentforceInputError(
                "The number of the session's last message is not known here, as this hook did not start it: "
                "give vendor_options={'sequence_id': n}, 0 after the start.",
                session_id=self.session_id,
            )
        return last


class OwnSession(HeldSession):
    """A session that is ended by :meth:`end`, or else with the task.

    :param client: starts the session and ends it.
    :param start: as :meth:`AgentforceClient.start_session`.
    """

    def __init__(self, client: AgentforceClient, agent_id: str | None, **start: Any) -> None:
        self._owner = client
        self._ending = threading.Lock()
        self._ended = False
        super().__init__(client.start_session(agent_id, **start).session_id, 0)
        at_task_end(self._end_at_once)

    def end(self) -> None:
        """End the session, and cut a message that is under way. A failure is logged; a second end is none."""
        sending = self.client
        if sending is not None:
            # Nobody waits for the answer any more, and whoever ends the session may be a task being killed.
            log.warning(
                "A message in session %s is cut. Whether the agent acts on it cannot be known.",
                self.session_id,
            )
            sending.stop()
            self._owner.stop()
        with self._ending:
            if not self._ended:
                self._ended = True
                self._owner.end_quietly({"session_id": self.session_id})
        not_at_task_end(self._end_at_once)

    def _end_at_once(self) -> None:
        log.warning("The task ends while session %s is open, so it is ended.", self.session_id)
        self._owner.stop()
        self.end()
