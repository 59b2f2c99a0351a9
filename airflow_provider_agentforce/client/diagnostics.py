"""Diagnoses a connection without starting a session."""

from __future__ import annotations

from airflow_provider_agentforce.client import jwt_bearer, validation
from airflow_provider_agentforce.client.agent_lookup import only_match
from airflow_provider_agentforce.client.client import AgentforceClient
from airflow_provider_agentforce.client.failure_catalogue import OPAQUE_TOKEN
from airflow_provider_agentforce.client.responses import TokenReply
from airflow_provider_agentforce.client.settings import JWT_BEARER, Settings
from airflow_provider_agentforce.exceptions import AgentforceAuthError, AgentforceError

_NEEDED = frozenset({"api", "chatbot_api", "sfap_api"})


def diagnose(client: AgentforceClient) -> tuple[bool, str]:
    """Get a token, look at its shape, its scopes and the hosts, and look up the agent. Starts no session.

    :returns: whether the connection should work, and what was found or has to be fixed.
    :raises AgentforceError: if no token is given or the agent cannot be used, with the reason.
    """
    settings = client.settings
    try:
        token, api = client.authenticate()
    except AgentforceAuthError as error:
        if settings.auth != JWT_BEARER:
            raise
        return False, f"{error} {_asked(settings)}"
    problems = _problems(token, settings.host)
    if problems:
        return False, client.redact(" ".join(problems))
    life = "of unknown lifetime" if token.lifetime is None else f"for {token.lifetime / 60:.0f} minutes"
    scopes = "not stated" if token.scopes is None else " ".join(sorted(token.scopes))
    return True, (
        f"Token received from {settings.host}{_for_whom(settings)}: a JWT {life}, scopes {scopes}. "
        f"Agent API: {api}. Default agent: {_agent(client)}. No session was started."
    )


def _for_whom(settings: Settings) -> str:
    return "" if settings.username is None else f" for {settings.username}"


def _asked(settings: Settings) -> str:
    """Name what the org compared with its own settings."""
    key = jwt_bearer.fingerprint(settings.signing_key)
    return (
        f"Asked with consumer key {settings.consumer_key}, username {settings.username}, audience "
        f"{settings.audience}, and the key whose public key has the SHA-256 {key}."
    )


def _problems(token: TokenReply, host: str) -> list[str]:
    problems = []
    if not token.is_jwt:
        problems.append(OPAQUE_TOKEN)
    if token.scopes is not None and not token.scopes >= _NEEDED:
        problems.append(f"The app lacks the scopes {', '.join(sorted(_NEEDED - token.scopes))}.")
    if token.instance_url and token.instance_url.rstrip("/").lower() != host:
        problems.append(f"The org calls itself {token.instance_url}; set host to that My Domain URL.")
    return problems


def _agent(client: AgentforceClient) -> str:
    """Describe the default agent.

    :raises AgentforceError: no task could use it.
    """
    given = client.settings.agent_id
    if given is None:
        return "none"
    try:
        found = client.find_agents(given)
    except AgentforceError:
        if not validation.is_agent_id(given):
            raise
        # Tasks do not look an id up, so they may do well all the same.
        return f"{given}, which could not be looked up"
    agent = only_match(given, found, client.settings.host)
    return f"{agent.name}, {agent.agent_id}, active"
