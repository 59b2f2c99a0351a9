"""The page of Salesforce's Setup for each remedy. Pure.

Names of the pages: https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-get-started.html.
"""

from __future__ import annotations

import re

_APP = "Setup > External Client App Manager > the app"
_OAUTH = f"{_APP} > Settings > OAuth Settings"
_POLICIES = f"{_APP} > Policies > OAuth Policies"
_USER = "Setup > Users > the user"
_AGENT = "Setup > Agentforce Agents > the agent"
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
    r"^Clock: |scope parameter|3,600 logins|limit of the org|again in a few seconds": "",
    r"API calls of (this day|24 hours)": "Setup > Company Information > API Requests, Last 24 Hours",
    r"Connections tab|custom connection": f"{_AGENT} > Connections",
    r"in its builder|published": f"{_AGENT} > Open in Builder > Activate",
    r"External Client App\b": _APP,
    r"API Enabled|the app's scope|the app the scopes": f"{_OAUTH}; also {_USER} > Permission Set Assignments",
    r"\(Run As, or username\)|token of a user": f"{_USER} > Permission Set Assignments",
    r"agent_id|agent's (API Name|own id)|agent of this org|right one": "Setup > Agentforce Agents",
}
# Used if there is no remedy, or none that names a page.
_BY_CHECK = {
    "host": _MY_DOMAIN,
    "secret": _OAUTH,
    "key": _OAUTH,
    "token": _OAUTH,
    "scopes": f"{_OAUTH} > OAuth Scopes",
    "agent": "Setup > Agentforce Agents",
    "active": f"{_AGENT} > Open in Builder > Activate",
    "start": _AGENT,
}


def path_for(remedy: str, check: str = "") -> str:
    """Return the page of Setup where *remedy* is carried out, or ``""`` if it is not done in Salesforce.

    :param check: the name of the check that failed, for a remedy that names no page.
    """
    for words, path in _BY_REMEDY.items():
        if re.search(words, remedy):
            return path
    return _BY_CHECK.get(check, "")


def is_about_secret(remedy: str) -> bool:
    """Return whether a token is refused because of the consumer secret or the private key."""
    return re.search(r"consumer secret|^Key: ", remedy) is not None
