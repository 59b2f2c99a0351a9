"""Waits until a moment, and gives back what it was given."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow_provider_agentforce._compat import BaseTrigger, TriggerEvent


class PauseTrigger(BaseTrigger):
    """Wait until a moment.

    :param until: in seconds since the epoch.
    :param event: what the task needs to continue, as JSON values: it comes back in the event, because a task
        that resumes is a new one.
    """

    def __init__(self, *, until: float, event: dict[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.until = until
        self.event = event

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments."""
        return f"{__name__}.{type(self).__name__}", {"until": self.until, "event": self.event}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and give one event."""
        await asyncio.sleep(max(0.0, self.until - time.time()))
        yield TriggerEvent(self.event)  # type: ignore[no-untyped-call]
