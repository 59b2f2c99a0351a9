"""An observer of the client."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from airflow_provider_agentforce.client import AgentforceClient, Settings
from airflow_provider_agentforce.client.call_events import CallEvent

emulator = json.loads(os.environ["AIRFLOW_CONN_AGENTFORCE_DEFAULT"])
settings = Settings(
    host=emulator["host"],
    consumer_key=emulator["login"],
    consumer_secret=emulator["password"],
    agent_id=emulator["extra"]["agent_id"],
)


# [START observer]
def print_calls(_begun: CallEvent) -> Callable[[CallEvent], None]:
    """Print every call when it has ended."""
    return lambda call: print(call.operation, call.session_id, call.attempts, call.error or "done")


client = AgentforceClient(settings, observers=[print_calls])
# [END observer]
with client.conversation() as chat:
    chat.send("What is the status of order 4711?")
client.close()
