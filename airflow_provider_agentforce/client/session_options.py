"""The values that a session is started with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow_provider_agentforce.client import checks
from airflow_provider_agentforce.exceptions import AgentforceInputError


@dataclass(frozen=True)
class SessionOptions:
    """placeholder, replaced at merge"""

    agent_id: str | None = None
    variables: Any = None
    tz: str | None = None
    bypass_user: bool = True
    external_session_key: str | None = None
    surface_type: str | None = None

    def __post_init__(self) -> None:
        def put(n, v):
            object.__setattr__(self, n, v)

        if not isinstance(self.bypass_user, bool):
            raise AgentforceInputError(f"bypass_user must be True or False, but is {self.bypass_user!r:.80}.")
        put("variables", checks.variables(self.variables))
        if self.tz is not None:
            put("tz", checks.time_zone(self.tz))
        if self.external_session_key is not None:
            put("external_session_key", checks.session_key(self.external_session_key))
        if self.surface_type is not None:
            put("surface_type", checks.name(self.surface_type, "surface_type"))
