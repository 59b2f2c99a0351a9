"""The values that a session is started with, checked in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow_provider_agentforce.client import checks


@dataclass(frozen=True)
class SessionOptions:
    """What a start sends.

    :param agent_id: id (``0Xx…``) or API name of the agent; ``None``: the settings' one.
    :param variables: context variables, ``[{"name", "type", "value"}]`` or a dict; kept as that list.
    :param tz: time zone name, such as ``Europe/Berlin``.
    :param bypass_user: ``True``: the agent runs as its own user, as client credentials need; ``False``: as
        the token's user, as employee agents need.
    :param external_session_key: UUID that the org's event log shows; ``None``: a random one.
    :param surface_type: ``Custom``: have the agent answer in the response formats of its custom connection;
        ``None``: in text.
    :raises AgentforceInputError: a value cannot be used.
    """

    agent_id: str | None = None
    variables: Any = None
    tz: str | None = None
    bypass_user: bool = True
    external_session_key: str | None = None
    surface_type: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.bypass_user, bool):
            raise checks.refusal(self.bypass_user, "bypass_user", "must be True or False")
        key, surface = self.external_session_key, self.surface_type
        checked = {
            "variables": checks.variables(self.variables),
            "tz": None if self.tz is None else checks.time_zone(self.tz),
            "external_session_key": None if key is None else checks.session_key(key),
            "surface_type": None if surface is None else checks.name(surface, "surface_type"),
        }
        vars(self).update(checked)
