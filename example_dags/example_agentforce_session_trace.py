"""Lose a reply on purpose, get the answer back from the org's own trace, and count what the agent did."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections import defaultdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from airflow_provider_agentforce.operators import ConversationBatchOperator, SessionTraceOperator

try:
    from airflow.sdk import DAG, ObjectStoragePath, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task
    from airflow.io.path import ObjectStoragePath

ACCOUNTS = Path(__file__).with_name("agentforce_accounts.csv")  # the columns id, name, country
OUTPUT = Path(os.environ.get("AGENTFORCE_EXAMPLE_OUTPUT", tempfile.gettempdir()))

with DAG(
    dag_id="example_agentforce_session_trace",
    description=__doc__,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    catchup=False,
    tags=["agentforce", "example"],
):

    @task
    def lose_a_reply() -> bool:
        """Have the emulator act on one message and drop its reply; return whether the org is one."""
        from airflow_provider_agentforce.hooks.agentforce import AgentforceHook  # noqa: PLC0415

        fault = {"operation": "send", "drop": True, "after": True}
        address = f"{AgentforceHook().settings.host}/emulator/faults"
        try:
            with urlopen(Request(address, json.dumps(fault).encode(), method="POST"), timeout=10):  # noqa: S310
                return True
        except HTTPError:
            return False

    # [START traces]
    ask = ConversationBatchOperator(
        task_id="ask",
        records=f"file://{ACCOUNTS}",
        key="id",
        message="What do you know of account {{ record.name }}?",
        result_path=f"file://{OUTPUT}/agentforce_session_trace/{{{{ run_id }}}}",
    )

    # Rows whose reply was lost get their answer back; nothing is asked again.
    traces = SessionTraceOperator(
        task_id="traces",
        results=ask.output,
        timeout=timedelta(hours=1),
        credits_per_action=20,
    )

    @task
    def report(found: dict) -> str:
        """Write how often each action ran, and how often it failed; return the path."""
        actions = defaultdict(list)
        for line in ObjectStoragePath(found["traces"]).read_text().splitlines():
            for action in json.loads(line)["actions"]:
                actions[action["name"]].append(action["success"])
        path = OUTPUT / "agentforce_actions.csv"
        with path.open("w", newline="", encoding="utf-8") as target:
            table = csv.writer(target, lineterminator="\n")
            table.writerow(["action", "runs", "failed"])
            table.writerows((name, len(runs), runs.count(False)) for name, runs in actions.items())
        return str(path)

    report(traces.output)
    # [END traces]
    lose_a_reply() >> ask
