"""The page of Salesforce's Setup for each remedy. Pure.

Names of the pages: https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-get-started.html.
"""

from __future__ import annotations

import re

_APP = "Setup > External Client App Manager > the app"
_OAUTH = f"{_APP} > Settings > OAuth Settings"
_POLICIES = f"{_APP} > Policies > OAuth Policies"
_USER = "Setup > Users > the user"
_AGENTS = "Setup > Agentforce Agents"
_AGENT = f"{_AGENTS} > the agent"
_MY_DOMAIN = "Setup > My Domain > Current My Domain URL"

# The first pattern that is found in the remedy counts.
_BY_REMEDY = {
    r"Audit and Feedback": "Setup > Einstein Audit, Analytics, and Monitoring Setup",
    r"^App or audience": f"{_APP}, and {_MY_DOMAIN}",
    r"My Domain": _MY_DOMAIN,
    r"consumer secret|consumer key|^Key: ": _OAUTH,
    r"Token \(JWT\)": _OAUTH,
    r"JWT Bearer Flow|Client Credentials Flow of the app": f"{_OAUTH} > Flow Enablement",
    r"Run As user in|integration user": f"{_POLICIES} > OAuth Flows and External Client App Enhancements",
    r"permission set|profile": _POLICIES,
    r"^User: ": _USER,
    r"^Clock: |scope parameter|3,600 logins|limit of the org|again in a few seconds|try again later": "",
    r"extra api_url, or correct it|^The org refuses the call": "",
    r"used up its (daily )?API calls": "Setup > Company Information > API Requests, Last 24 Hours",
    r"^Check the agent's ": _AGENTS,
    r"Connections tab|custom connection": f"{_AGENT} > Connections",
    r"Activate (a version|it)": f"{_AGENT} > Open in Builder > Activate",
    r"External Client App\b": _APP,
    r"API Enabled|the app's scope|the app the scopes": f"{_OAUTH}; also {_USER} > Permission Set Assignments",
    r"\(Run As, or username\)|token of a user": f"{_USER} > Permission Set Assignments",
    r"agent_id|agent's own id|agent of this org|right one": _AGENTS,
}
# The first words of an error about a setting, or the fields that it says are missing.
_BY_SETTING = {
    r"^host\b|lacks .*host": _MY_DOMAIN,
    r"^(login|password|private_key)\b|lacks .*(login|password)|needs a username, and a private_key": _OAUTH,
    r"^username\b|needs a username": "Setup > Users",
    r"^agent_id\b": _AGENTS,
}
# Used if there is no remedy, or none that names a page.
_BY_CHECK = {
    "host": _MY_DOMAIN,
    "secret": _OAUTH,
    "key": _OAUTH,
    "token": _OAUTH,
    "scopes": f"{_OAUTH} > OAuth Scopes",
    "agent": _AGENTS,
    "active": f"{_AGENT} > Open in Builder > Activate",
    "start": _AGENT,
}


def path_for(remedy: str, check: str = "") -> str:
    """Return the page of Setup where *remedy* is carried out, or ``""`` if it is not done in Salesforce.

    :param check: the name of the check that failed, for a remedy that names no page.
    """
    for words, path in _BY_REMEDY.items():
        if re.search(words, remedy, re.IGNORECASE):
            return path
    return _BY_CHECK.get(check, "")


def path_for_setting(what: str) -> str:
    """Return the pages of Setup with the values that an error about the settings names, or ``""``."""
    return "; also ".join(path for words, path in _BY_SETTING.items() if re.search(words, what))


def is_about_secret(remedy: str) -> bool:
    """Return whether a token is refused because of the consumer secret or the private key."""
    return re.search(r"consumer secret|^Key: ", remedy) is not None
