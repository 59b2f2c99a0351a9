"""The trigger that waits until a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow_provider_agentforce._compat import BaseTrigger, TriggerEvent


class PauseTrigger(BaseTrigger):
    """Resumes a task at a moment.

    :param until: the moment, in seconds since the epoch.
    :param event: the event, as JSON values: what the task needs to continue, as it resumes in a new process.
    """

    def __init__(self, *, until: float, event: dict[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.until = until
        self.event = event

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments."""
        return f"{__name__}.{type(self).__name__}", {"until": self.until, "event": self.event}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the event."""
        await asyncio.sleep(max(0.0, self.until - time.time()))
        yield TriggerEvent(self.event)  # type: ignore[no-untyped-call]
