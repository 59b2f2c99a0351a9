"""Watches for new versions of an agent. For asset watchers of Airflow 3.0 and later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import BaseEventTrigger, TriggerEvent
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.exceptions import AgentforceError
from airflow_provider_agentforce.triggers._client import client_of

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.agent_lookup import AgentInfo
    from airflow_provider_agentforce.client.client import AgentforceClient

# How long Airflow may take to store an event.
_STORED_SECONDS = 5.0


class AgentPublishedTrigger(BaseEventTrigger):
    """Sends an event when a different version of an agent becomes active.

    .. code-block:: python

        Asset("agent", watchers=[AssetWatcher("published", AgentPublishedTrigger(agent_id="Service_Agent"))])

    It only reads, so it may run twice. Each poll that finds another active version than the last one sends an
    event, a dict with ``agent_id``, ``agent`` (API name), ``version`` and ``previous_version`` (ids of a
    BotVersion), and ``seen_at`` (ISO 8601 in UTC). The version that is active at the first poll sends none,
    and neither does an agent that is deactivated. The org does not say which versions were active between two
    polls: several changes in that time are one event with the last version, or none if the first version is
    active again.

    On Airflow 3.3 and later the last reported version is stored with the asset: after a restart, a triggerer
    reports the version that was published while it was down, and does not repeat an event, unless it was
    stopped within seconds of it. On older Airflow, and if several assets have the same watcher, it starts
    with the version that it finds.

    A poll that fails is a warning, and the next one reads the connection again.

    :param agent_id: id (``0Xx…``) or API name of the agent.
    :param agentforce_conn_id: connection of type ``agentforce``.
    :param poke_interval: pause between two polls; each poll counts towards the org's daily API limit.
    :raises AgentforceInputError: an argument is not valid.
    """

    def __init__(
        self,
        *,
        agent_id: str,
        agentforce_conn_id: str = "agentforce_default",
        poke_interval: timedelta = timedelta(minutes=1),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # of Airflow
        self.agent_id = validation.agent(agent_id)
        self.agentforce_conn_id = validation.connection_id(agentforce_conn_id, "agentforce_conn_id")
        self.poke_interval = validation.duration(poke_interval, "poke_interval")
        self._client: AgentforceClient | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments."""
        names = ("agent_id", "agentforce_conn_id", "poke_interval")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll the agent, and yield an event for each change."""
        announced = kept = await self._kept()
        try:
            while True:
                found = await self._look()
                if found is not None and found.version != announced:
                    previous, announced = announced, found.version
                    # A triggerer that Airflow considers dead may still run this, and may have sent the event.
                    kept = await self._kept()
                    if previous is not None and kept != announced:
                        yield _event(found, previous)
                        # Airflow stores the event a moment later. The version is kept only after that, so
                        # that a stop in between repeats the event instead of losing it.
                        await asyncio.sleep(min(_STORED_SECONDS, self.poke_interval.total_seconds()))
                if announced != kept and await self._keep(announced):
                    kept = announced
                await asyncio.sleep(self.poke_interval.total_seconds())
        finally:
            self._stop_client()

    async def _look(self) -> AgentInfo | None:
        """Return the agent, ``None`` when it has no active version or cannot be read."""
        try:
            self._client = self._client or await client_of(self.agentforce_conn_id)
            found = await asyncio.to_thread(self._client.find_agents, self.agent_id)
        except AgentforceError as error:
            self.log.warning("The agent %s cannot be read: %s", self.agent_id, error)
            # The next poll reads the connection again, because it may have been corrected.
            self._stop_client()
            return None
        if len(found) != 1:
            self.log.warning("The org has %d agents named %s.", len(found), self.agent_id)
            return None
        return found[0] if found[0].version is not None else None

    def _stop_client(self) -> None:
        if self._client is not None:
            # The thread of a running call would outlive a cancelled trigger.
            self._client.stop()
            self._client = None

    async def _kept(self) -> str | None:
        """Return the version reported last, ``None`` if none is known."""
        store = self._store
        if store is None:
            return None
        try:
            kept = await store.aget(self._key)
        except ValueError:  # several assets have this watcher
            return None
        return kept if isinstance(kept, str) else None

    async def _keep(self, version: str | None) -> bool:
        """Store the version; return ``False`` if that must be tried again."""
        store = self._store
        try:
            if store is not None:
                await store.aset(self._key, version)
        except ValueError:  # as above
            pass
        except Exception as error:  # noqa: BLE001 - whatever Airflow raises; a trigger that fails repeats its event
            self.log.warning("The version of %s is not stored yet: %s", self.agent_id, error)
            return False
        return True

    @property
    def _store(self) -> Any:
        return getattr(self, "asset_state_store", None)

    @property
    def _key(self) -> str:
        # An asset may have watchers of several orgs.
        return f"agentforce_version_of_{self.agent_id}.{self.agentforce_conn_id}"


def _event(agent: AgentInfo, previous: str) -> TriggerEvent:
    values = {
        "agent_id": agent.agent_id,
        "agent": agent.name,
        "version": agent.version,
        "previous_version": previous,
        "seen_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return TriggerEvent(values)  # type: ignore[no-untyped-call] # of Airflow
