"""The client without Airflow."""

from __future__ import annotations

import json
import os

emulator = json.loads(os.environ["AIRFLOW_CONN_AGENTFORCE_DEFAULT"])
os.environ |= {
    "SALESFORCE_HOST": emulator["host"],
    "CONSUMER_KEY": emulator["login"],
    "CONSUMER_SECRET": emulator["password"],
    "AGENT_ID": emulator["extra"]["agent_id"],
}

# [START client]
from airflow_provider_agentforce.client import AgentforceClient, Settings  # noqa: E402
from airflow_provider_agentforce.exceptions import AgentforceError  # noqa: E402

settings = Settings(
    host=os.environ["SALESFORCE_HOST"],
    consumer_key=os.environ["CONSUMER_KEY"],
    consumer_secret=os.environ["CONSUMER_SECRET"],
    agent_id=os.environ["AGENT_ID"],
)
client = AgentforceClient(settings)
try:
    with client.conversation(tz="Europe/Berlin") as chat:
        print(chat.session.greeting)
        print(chat.send("What is the status of order 4711?").text)
except AgentforceError as error:
    print(error, error.applied)
finally:
    client.close()
# [END client]
