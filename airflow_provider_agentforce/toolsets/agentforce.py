"""A conversation with an Agentforce agent as a tool of a pydantic-ai agent. Needs the extra ``common-ai``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.providers.common.ai.toolsets import ManagedAgentToolset

from airflow_provider_agentforce.exceptions import AgentforceInputError
from airflow_provider_agentforce.hooks.agent_conversation import AgentConversation
from airflow_provider_agentforce.hooks.managed_agent import ManagedAgentMixin

if TYPE_CHECKING:
    from airflow.providers.common.ai.managed_agents.base import BoundManagedAgent
    from pydantic_ai import RunContext


class AgentforceToolset(ManagedAgentToolset):
    """Lets a model talk to an Agentforce agent over several turns: one session for each run of the model.

    ``ManagedAgentToolset`` gives every call its own session, so the agent forgets earlier messages, and no
    model can answer its questions. Here the first call starts a session, later calls continue it, and the end
    of the run ends it, regardless of the result.

    Calls that a model makes at the same time are sent one after another. An answer is never replayed by
    ``durable=True``, because the session that it came from has ended. When a run pauses for the approval of a
    tool, its session ends, and the run continues with a new one.

    :param client: ``AgentforceHook(...).agent("0Xx…")``.
    :param tool_name: the name that the model sees, such as ``ask_service_agent``.
    :param description: what the agent knows, and when to ask it.
    :param timeout: seconds for one message, including the start for the first one; default: the connection's.
    :param max_retries: how often the model may reword a message that the agent failed to handle.
    :param vendor_options: for the start of the session: ``variables``, ``tz``, ``bypass_user``.
    :raises AgentforceInputError: *client* is anything else.
    """

    def __init__(
        self,
        client: BoundManagedAgent,
        *,
        tool_name: str,
        description: str | None = None,
        timeout: float | None = None,
        max_retries: int = 1,
        vendor_options: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(getattr(client, "hook", None), ManagedAgentMixin):
            raise AgentforceInputError(
                "client must be AgentforceHook(...).agent(...). Give a failover group, or another vendor's "
                "agent, to a ManagedAgentToolset."
            )
        self._bound = client
        self._options: dict[str, Any] = {
            "tool_name": tool_name,
            "description": description,
            "timeout": timeout,
            "max_retries": max_retries,
            "vendor_options": vendor_options,
        }
        self._conversation = AgentConversation(client)
        super().__init__(self._conversation, **self._options)

    async def for_run(self, ctx: RunContext[Any]) -> AgentforceToolset:  # noqa: ARG002 - as it is called
        """Return a toolset for one run, without a session yet."""
        return type(self)(self._bound, **self._options)

    async def __aexit__(self, *args: object) -> bool | None:
        await asyncio.to_thread(self._conversation.end)
        return None
