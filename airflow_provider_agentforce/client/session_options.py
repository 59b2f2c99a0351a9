"""The values that a session is started with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from airflow_provider_agentforce.client import checks
from airflow_provider_agentforce.exceptions import AgentforceInputError


@dataclass(frozen=True)
class SessionOptions:
    """How a session is started. Checked when it is made.

    :param agent_id: id (``0Xx…``) or API name of the agent; default: the settings' one.
    :param variables: context variables, ``[{"name", "type", "value"}]`` or a dict; kept as the list.
    :param tz: time zone name, such as ``Europe/Berlin``.
    :param bypass_user: ``True``: the agent runs as its own user, as client credentials need; ``False``: as
        the token's user, as employee agents need.
    :param external_session_key: UUID that the org's event log shows; default: a random one.
    :param surface_type: ``Custom``: have the agent answer in the response formats of its custom connection;
        default: in text.
    :raises AgentforceInputError: if a value cannot be used; it names the field.
    """

    agent_id: str | None = None
    variables: Any = None
    tz: str | None = None
    bypass_user: bool = True
    external_session_key: str | None = None
    surface_type: str | None = None

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        if not isinstance(self.bypass_user, bool):
            raise AgentforceInputError(f"bypass_user must be True or False, but is {self.bypass_user!r:.80}.")
        put("agent_id", checks.agent(self.agent_id) if self.agent_id else None)
        put("variables", checks.variables(self.variables))
        if self.tz is not None:
            put("tz", checks.time_zone(self.tz))
        if self.external_session_key is not None:
            put("external_session_key", checks.session_key(self.external_session_key))
        if self.surface_type is not None:
            put("surface_type", checks.name(self.surface_type, "surface_type"))

    def to_arguments(self) -> dict[str, Any]:
        """Return what :meth:`.AgentforceClient.start_session` takes."""
        return asdict(self)
