"""A session that does not outlive the task that started it.

Airflow does not tell a hook that its task ends: a timeout or a kill stops the task's own code while threads
that it started still wait for an agent, and then the process ends and the threads with it. Before that,
Airflow calls its listeners in the process of the task.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airflow.listeners import hookimpl

from airflow_provider_agentforce._compat import add_listener
from airflow_provider_agentforce.client.after_fork import ForkSafeLock
from airflow_provider_agentforce.client.open_session import OpenSession

log = logging.getLogger(__name__)

_lock = ForkSafeLock()
_open: set[TaskSession] = set()


class TaskSession(OpenSession):
    """An open session that ends with :meth:`end_quietly`, or with the task at the latest."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        with _lock:
            _open.add(self)
            add_listener(_listener)

    def end_quietly(self) -> bool:
        """End the session, and cut off a message in progress. A failure is logged; repeating is harmless."""
        if self.cut():
            # The caller has stopped waiting for the answer, and may be a task that is being killed.
            log.warning(
                "A message in session %s was cut off. Whether the agent acts on it cannot be known.",
                self.session.session_id,
            )
            self._client.stop()
        ended = super().end_quietly()
        with _lock:
            _open.discard(self)
        return ended

    def end_at_once(self) -> None:
        """End the session with the task."""
        log.warning(
            "The task is ending while session %s is open; the session is ended, too.", self.session.session_id
        )
        self._client.stop()
        self.end_quietly()


class _Listener:
    @hookimpl
    def before_stopping(self, component: Any) -> None:  # noqa: ARG002 - as Airflow calls it
        with _lock:
            left = list(_open)
        if left:
            with ThreadPoolExecutor(len(left)) as threads:
                list(threads.map(TaskSession.end_at_once, left))


_listener = _Listener()
