"""From a task to its session in the agent's event log."""

from __future__ import annotations

# [START trace]
from airflow_provider_agentforce.operators import external_session_key

print(external_session_key("orders", "manual__2026-11-23T08:00:00+00:00", "start", try_number=1))
# [END trace]
