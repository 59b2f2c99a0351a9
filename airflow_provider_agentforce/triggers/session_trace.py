"""The trigger that waits until a message is in the org's own trace of its session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import BaseTrigger, TriggerEvent
from airflow_provider_agentforce.triggers._client import client_of

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient
    from airflow_provider_agentforce.client.trace_lookup import TraceFinding

FOUND, NOT_FOUND = "found", "not_found"
# Characters. Airflow stores the event in its database.
_LONGEST_ANSWER = 16_000


class SessionTraceTrigger(BaseTrigger):
    """Look for a message in the org's trace of its session, with growing pauses, until it appears.

    It only reads, so it may run twice. The pauses double up to five minutes; the last look is at the end of
    the time. It sends one event, a dict:

    - ``status``: ``found``: the message was delivered; ``not_found`` proves nothing;
    - ``answer``: the agent's answer; ``None`` if it is not known, or too long for Airflow's database;
    - ``complete``: whether the trace had the whole answer;
    - ``note``: the finding, or why there is none: the time is over, the org keeps no traces, or an error;
    - ``session_id``, ``position``: as given.

    :param agentforce_conn_id: connection of type ``agentforce``.
    :param session_id: id of the session.
    :param text: the message as it was sent.
    :param position: the message's ``sequence_id``.
    :param sent_at: when it was sent, in seconds since the epoch, or ``None``.
    :param same_before: how many messages with the same text its session received before, or ``None``.
    :param end_time: when to give up, in seconds since the epoch.
    :param poll_interval: seconds of the first pause; default: a twentieth of the time, at most 30.
    """

    def __init__(
        self,
        *,
        agentforce_conn_id: str,
        session_id: str,
        text: str,
        position: int | None,
        sent_at: float | None,
        end_time: float,
        same_before: int | None = None,
        poll_interval: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.agentforce_conn_id = agentforce_conn_id
        self.session_id = session_id
        self.text = text
        self.position = position
        self.sent_at = sent_at
        self.same_before = same_before
        self.end_time = end_time
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments, none of them a credential."""
        names = ("agentforce_conn_id", "session_id", "text", "position", "sent_at", "same_before")
        arguments = {name: getattr(self, name) for name in (*names, "end_time", "poll_interval")}
        return f"{__name__}.{type(self).__name__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until there is nothing more to find, and yield one event."""
        try:
            finding = await self._find()
            message = finding.message
            seen = {} if message is None else {"answer": _short(message.answer), "complete": message.answered}
            event = self._event(NOT_FOUND if message is None else FOUND, note=finding.note, **seen)
        except Exception as error:  # noqa: BLE001 - finding nothing does not fail the task
            event = self._event(NOT_FOUND, note=_error_note(error))
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _find(self) -> TraceFinding:
        client = await client_of(self.agentforce_conn_id)
        try:
            return await self._look_until_the_end(client)
        finally:
            # The thread of a running call would outlive a cancelled trigger.
            client.stop()

    async def _look_until_the_end(self, client: AgentforceClient) -> TraceFinding:
        from airflow_provider_agentforce.client import trace_lookup  # noqa: PLC0415 - client_of() imports it in a thread

        sought = trace_lookup.SoughtMessage(
            self.session_id, self.text, self.position, self.sent_at, self.same_before
        )
        pause = self.poll_interval or trace_lookup.first_pause(self.end_time - time.time())
        seen: TraceFinding | None = None
        while True:
            is_last = time.time() >= self.end_time
            finding = await asyncio.to_thread(trace_lookup.look, client, sought)
            if finding.message is not None:
                seen = finding
            if finding.final or is_last:
                # A message that the trace has shown was delivered, even if the trace no longer shows it.
                return seen or finding
            await asyncio.sleep(max(0.0, min(pause, self.end_time - time.time())))
            pause = trace_lookup.next_pause(pause)

    def _event(self, status: str, **values: Any) -> dict[str, Any]:
        about = {"session_id": self.session_id, "position": self.position}
        return {"status": status, "answer": None, "complete": False, **about, **values}


def _short(answer: str | None) -> str | None:
    return None if answer is None or len(answer) > _LONGEST_ANSWER else answer


def _error_note(error: Exception) -> str:
    from airflow_provider_agentforce.exceptions import AgentforceError, one_line  # noqa: PLC0415

    # The text of other errors may contain a message or a secret.
    words = str(error) if isinstance(error, AgentforceError) else type(error).__name__
    return one_line(f"The trace could not be looked up: {words}")
