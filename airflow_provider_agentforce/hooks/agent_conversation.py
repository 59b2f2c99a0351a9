"""A managed-agent client whose calls share one session."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.client.after_fork import ForkSafeLock
from airflow_provider_agentforce.exceptions import AgentforceInputError

if TYPE_CHECKING:
    from airflow.providers.common.ai.managed_agents.base import (
        BoundManagedAgent,
        ManagedAgentCapabilities,
        ManagedAgentRef,
        ManagedAgentRequest,
        ManagedAgentResponse,
    )

    from airflow_provider_agentforce.hooks.managed_agent import ManagedAgentMixin
    from airflow_provider_agentforce.hooks.task_session import TaskSession

_SHORTEST = 0.001


class AgentConversation:
    """A ``ManagedAgentClient`` whose messages share a session, from the first one to :meth:`end`.

    Its messages wait for each other. If the agent ends the session, the next message starts another.

    :param bound: ``AgentforceHook(...).agent(...)``.
    """

    def __init__(self, bound: BoundManagedAgent) -> None:
        self._bound = bound
        self._hook: ManagedAgentMixin = bound.hook  # type: ignore[assignment] # the toolset has checked it
        self._lock = ForkSafeLock()
        self._kept: TaskSession | None = None
        self._over = False

    def __deepcopy__(self, memo: dict[int, Any]) -> AgentConversation:
        # Airflow copies whole Dags, and a lock cannot be copied.
        return AgentConversation(deepcopy(self._bound, memo))

    @property
    def ref(self) -> ManagedAgentRef:
        """The agent."""
        return self._bound.ref

    @property
    def capabilities(self) -> ManagedAgentCapabilities:
        """The capabilities of the agent, without sessions: the conversation has its own."""
        return replace(self._bound.capabilities, sessions=False)

    def invoke(self, request: ManagedAgentRequest) -> ManagedAgentResponse:
        """Send one message; the first one's ``vendor_options`` start the session.

        :raises AgentforceInputError: ``request.session_id`` is given.
        :raises Exception: as :meth:`ManagedAgentMixin.invoke_agent`.
        """
        if request.session_id is not None:
            raise AgentforceInputError("session_id cannot be given: the conversation has its own session.")
        begun = time.monotonic()
        with self._lock:
            kept = self._session(request)
            left = request.timeout and max(request.timeout - (time.monotonic() - begun), _SHORTEST)
            response = self._bound.invoke(
                replace(request, session_id=kept.session.session_id, timeout=left, vendor_options={})
            )
            if response.session_id is None:
                self._kept = None
                kept.end_quietly()
            return response

    def end(self) -> None:
        """End the session, if there is one, and cut off a message in progress."""
        # This takes no lock: its holder may wait for minutes, and the task may have only seconds left.
        self._over = True
        kept = self._kept
        if kept is not None:
            kept.end_quietly()

    def _session(self, request: ManagedAgentRequest) -> TaskSession:
        if self._kept is None and not self._over:
            self._kept = self._hook.keep_session(self._bound.agent, request)
        if self._kept is None or self._over:
            self.end()
            raise AgentforceInputError("The conversation has ended.")
        return self._kept
