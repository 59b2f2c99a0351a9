"""The settings of one connection to an org, checked as a whole before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.redaction import forms
from airflow_provider_agentforce.exceptions import AgentforceInputError


@dataclass(frozen=True)
class Settings:
    """How to reach an org, and what it allows.

    :param host: the org's My Domain URL, ``https://acme.my.salesforce.com``.
    :param consumer_key: of the External Client App.
    :param consumer_secret: of the External Client App; never shown.
    :param agent_id: id (``0Xx…``) or API name of the agent that is used where a call names none.
    :param api_url: Agent API host. Default: the token reply's ``api_instance_url``, else
        ``https://api.salesforce.com``.
    :param timeout: seconds for one whole call. The API gives up after 120 s and says so; a longer time lets
        that verdict arrive.
    :param max_concurrent_sessions: sessions that this process may hold open at once.
    :param max_sessions_per_hour: session starts per hour from this process.
    :param max_messages_per_session: messages in one session.
    :raises AgentforceInputError: if a value cannot be used.
    """

    host: str
    consumer_key: str
    consumer_secret: str = field(repr=False)
    agent_id: str | None = None
    api_url: str | None = None
    timeout: float = 130.0
    max_concurrent_sessions: int = 50
    max_sessions_per_hour: int = 1000
    max_messages_per_session: int = 100

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "host": validation.my_domain(self.host),
            "consumer_key": validation.secret(self.consumer_key, "login (consumer key)"),
            "consumer_secret": validation.secret(self.consumer_secret, "password (consumer secret)"),
            "agent_id": None if self.agent_id is None else validation.agent(self.agent_id),
            "api_url": None if self.api_url is None else validation.origin(self.api_url, "api_url"),
            "timeout": validation.positive(self.timeout, "timeout", most=3600),
        }
        for limit in ("max_concurrent_sessions", "max_sessions_per_hour", "max_messages_per_session"):
            checked[limit] = validation.count(getattr(self, limit), limit)
        vars(self).update(checked)

    @classmethod
    def from_fields(
        cls, *, host: str | None, login: str | None, password: str | None, extra: Mapping[str, Any]
    ) -> Settings:
        """Read the fields of an Airflow connection. Blank extras count as not given.

        :raises AgentforceInputError: one that lists every missing field and every unknown extra.
        """
        needed = {"host (My Domain URL)": host, "login (consumer key)": login}
        needed["password (consumer secret)"] = password
        missing = [name for name, value in needed.items() if not (value or "").strip()]
        unknown = sorted(set(extra) - set(EXTRAS))
        problems = []
        if missing:
            problems.append(f"The connection lacks {', '.join(missing)}.")
        if unknown:
            problems.append(f"Unknown extra {', '.join(unknown)}; known are {', '.join(EXTRAS)}.")
        if problems:
            raise AgentforceInputError(" ".join(problems))
        given = {name: value for name, value in extra.items() if value is not None and str(value).strip()}
        return cls(str(host), str(login), str(password), **given)

    def secret_forms(self) -> set[str]:
        """Return every form in which the secret could be written, for masking."""
        return forms(self.consumer_key, self.consumer_secret) - forms(self.consumer_key)

    def agent(self, agent_id: object = None) -> str:
        """Return *agent_id*, else the connection's, checked: an id or an API name, as it was given.

        :raises AgentforceInputError: if neither is given, or it can be no agent's.
        """
        chosen = self.agent_id if agent_id is None or agent_id == "" else agent_id
        if chosen is None:
            raise AgentforceInputError("No agent: give agent_id, or set the connection's extra agent_id.")
        return validation.agent(chosen)


EXTRAS = tuple(one.name for one in fields(Settings) if one.default is not MISSING)
