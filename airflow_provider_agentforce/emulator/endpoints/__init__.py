"""What the org answers, by path. Each module has the handlers of one API of Salesforce.

A handler takes an ``OrgRequest``, checks it, changes the org and returns an ``OrgResponse``, or raises the
documented error.
"""

from __future__ import annotations

from airflow_provider_agentforce.emulator.app import API_BASE, OrgRoute
from airflow_provider_agentforce.emulator.endpoints import agent_api, evaluations, oauth, soql

_SESSION = f"{API_BASE}/sessions/{{session_id}}"
_DATA = "/services/data/v{version}"
_RUNS = f"{_DATA}/einstein/ai-evaluations/runs"
ROUTES: tuple[OrgRoute, ...] = (
    ("POST", "/services/oauth2/token", "token", oauth.token),
    ("POST", f"{API_BASE}/agents/{{agent_id}}/sessions", "start", agent_api.start),
    ("POST", f"{_SESSION}/messages", "send", agent_api.send),
    ("POST", f"{_SESSION}/messages/stream", "send", agent_api.send),
    ("POST", f"{_SESSION}/feedback", "feedback", agent_api.feedback),
    ("DELETE", _SESSION, "end", agent_api.end),
    ("GET", f"{_DATA}/query", "query", soql.query),
    ("POST", _RUNS, "test", evaluations.start),
    ("GET", f"{_RUNS}/{{run_id}}", "test", evaluations.status),
    ("GET", f"{_RUNS}/{{run_id}}/results", "test", evaluations.results),
    ("POST", f"{_RUNS}/{{run_id}}/cancel", "test", evaluations.cancel),
)
