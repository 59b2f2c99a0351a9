"""A batch and a conversation whose traces come late, for tests/provider/test_dag_runs.py."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

from airflow.sdk import DAG, ObjectStoragePath, task

from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    SessionTraceOperator,
)

OUT = Path(os.environ.get("AGENTFORCE_EXAMPLE_OUTPUT", "/nowhere"))
# The first pause is a twentieth of it.
LOOKS = {"timeout": timedelta(seconds=20), "deferrable": True}

with DAG("late_traces", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None):
    ask = ConversationBatchOperator(
        task_id="ask",
        records=[{"name": "Acme"}, {"name": "Globex"}],
        message="account {{ record.name }}",
        result_path=f"file://{OUT}/late/{{{{ run_id }}}}",
        max_concurrency=1,
    )
    talk = ConversationOperator.partial(task_id="talk").expand(messages=[["order 1"], ["order 2"]])

    @task
    def look(batch, found, conversations, mapped):
        """Check what the traces have brought."""
        assert batch["counts"] == {"answered": 1, "unknown": 1}
        assert (found["found"], found["resolved"], found["unknown"]) == (2, 1, 0), found
        assert '"status": "unknown"' not in ObjectStoragePath(batch["results"]).read_text()
        assert (conversations["found"], conversations["actions"]) == (2, 2), conversations
        assert [one["found"] for one in mapped] == [1, 1], mapped

    ask >> talk
    look(
        ask.output,
        SessionTraceOperator(task_id="of_batch", results=ask.output, **LOOKS).output,
        SessionTraceOperator(task_id="of_conversations", results=talk.output, **LOOKS).output,
        SessionTraceOperator.partial(task_id="of_each", **LOOKS).expand(results=talk.output).output,
    )
