"""Says what is wrong with a connection, before a session costs anything."""

from __future__ import annotations

from airflow_provider_agentforce.client import hints
from airflow_provider_agentforce.client.client import AgentforceClient

_NEEDED = frozenset({"api", "chatbot_api", "sfap_api"})


def diagnose(client: AgentforceClient) -> tuple[bool, str]:
    """Get a token and look at its shape, its scopes and the hosts. Starts no session.

    :returns: whether the connection should work, and what was found or is to be mended.
    :raises AgentforceError: if no token is given, with the reason.
    """
    token, api = client.authenticate()
    settings = client.settings
    problems = []
    if not token.is_jwt:
        problems.append(hints.OPAQUE_TOKEN)
    if token.scopes is not None and not token.scopes >= _NEEDED:
        problems.append(f"The app lacks the scopes {', '.join(sorted(_NEEDED - token.scopes))}.")
    if token.instance_url and token.instance_url.rstrip("/").lower() != settings.host:
        problems.append(f"The org calls itself {token.instance_url}; set host to that My Domain URL.")
    if problems:
        return False, " ".join(problems)
    life = "of unknown lifetime" if token.lifetime is None else f"for {token.lifetime / 60:.0f} minutes"
    scopes = "not told" if token.scopes is None else " ".join(sorted(token.scopes))
    agent = settings.agent_id or "none"
    return True, (
        f"Token received from {settings.host}: a JWT {life}, scopes {scopes}. "
        f"Agent API: {api}. Default agent: {agent}. No session was started."
    )
