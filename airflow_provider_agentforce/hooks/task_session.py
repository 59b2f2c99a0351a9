"""A session that does not outlive the task that started it."""

from __future__ import annotations

import logging
from typing import Any

from airflow_provider_agentforce.client.open_session import OpenSession
from airflow_provider_agentforce.hooks.task_end import at_task_end, not_at_task_end

log = logging.getLogger(__name__)


class TaskSession(OpenSession):
    """An open session that is ended by :meth:`end_quietly`, or else with the task."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        at_task_end(self._end_at_once)

    def end_quietly(self) -> bool:
        """End the session, and cut a message that is under way. A failure is logged; a second end is none."""
        if self.cut():
            # The caller has stopped waiting for the answer, and may be a task that is being killed.
            log.warning(
                "A message in session %s is cut. Whether the agent acts on it cannot be known.",
                self.session.session_id,
            )
            self._client.stop()
        ended = super().end_quietly()
        not_at_task_end(self._end_at_once)
        return ended

    def _end_at_once(self) -> None:
        log.warning("The task ends while session %s is open, so it is ended.", self.session.session_id)
        self._client.stop()
        self.end_quietly()
