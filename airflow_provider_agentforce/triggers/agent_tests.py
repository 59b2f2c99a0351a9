"""The trigger that waits for a run of an agent test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import BaseTrigger, TriggerEvent
from airflow_provider_agentforce.triggers._client import client_of

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.agent_tests import AgentTestRun, AgentTests


class AgentTestTrigger(BaseTrigger):
    """Resumes a task when a run of an agent test has ended, cannot be read, or takes too long.

    It sends one event, a dict with the arguments ``run_id``, ``api``, ``path`` and ``until`` (ISO 8601); the
    task reads the state and the results of the run itself.

    :param run_id: id of the run.
    :param api: ``legacy``, ``testing`` or ``conversation``.
    :param path: path of the runs on the org's host.
    :param until: when to give up.
    :param cancels: cancel the run, if the API can, when a person stops the task meanwhile.
    :param agentforce_conn_id: connection of type ``agentforce``.
    :param poke_interval: pause between two polls.
    """

    def __init__(
        self,
        *,
        run_id: str,
        api: str,
        path: str,
        until: datetime,
        cancels: bool = False,
        agentforce_conn_id: str = "agentforce_default",
        poke_interval: timedelta = timedelta(minutes=1),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # of Airflow
        self.run_id = run_id
        self.api = api
        self.path = path
        self.until = until
        self.cancels = cancels
        self.agentforce_conn_id = agentforce_conn_id
        self.poke_interval = poke_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments."""
        names = ("run_id", "api", "path", "until", "cancels", "agentforce_conn_id", "poke_interval")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll the run, and yield one event."""
        from airflow_provider_agentforce.exceptions import (  # noqa: PLC0415 - only the triggerer needs it
            AgentforceError,
            AgentforceTransientError,
        )

        tests, run = await self._tests(), self._run()
        while (left := (self.until - datetime.now(timezone.utc)).total_seconds()) > 0:
            pause = min(self.poke_interval.total_seconds(), left)
            try:
                run = await asyncio.to_thread(tests.look, run)
            except AgentforceTransientError as error:
                self.log.warning("%s", error)
            except AgentforceError as error:
                # The task meets the error, too. If it does not, it defers again, which must not become a hot
                # loop.
                self.log.warning("%s", error)
                await asyncio.sleep(pause)
                break
            if run.ended:
                break
            await asyncio.sleep(pause)
        until = self.until.isoformat()
        values = {"run_id": self.run_id, "api": self.api, "path": self.path, "until": until}
        yield TriggerEvent(values)  # type: ignore[no-untyped-call] # of Airflow

    async def on_kill(self) -> None:
        """Cancel the run; Airflow 3.3 and later call it when a person stops or clears the task."""
        run = self._run()
        if self.cancels and run.can_be_cancelled:
            tests = await self._tests()
            await asyncio.to_thread(tests.cancel, run, during_cleanup=True)

    def _run(self) -> AgentTestRun:
        from airflow_provider_agentforce.client.agent_tests import AgentTestRun  # noqa: PLC0415 - see run()

        return AgentTestRun(self.run_id, self.api, self.path)

    async def _tests(self) -> AgentTests:
        return (await client_of(self.agentforce_conn_id)).agent_tests
