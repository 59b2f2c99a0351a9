"""A scheduled report: ask an agent for figures and write its answers to a Markdown file."""

from __future__ import annotations

import os
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from airflow_provider_agentforce.operators import ConversationOperator

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

# [START report]
SECTIONS = {
    "Support": "How many open cases do we have?",
    "Sales": "Give me a summary of the pipeline.",
}

with DAG(
    dag_id="example_agentforce_report",
    description=__doc__,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule="@weekly",
    catchup=False,
    tags=["agentforce", "example"],
):
    ask = ConversationOperator(task_id="ask", messages=list(SECTIONS.values()))

    @task
    def write(answer: dict, run_id: str | None = None) -> str:
        """Write one section per answer and return the path."""
        sections = [
            f"## {title}\n\n{turn['text']}\n" for title, turn in zip(SECTIONS, answer["turns"], strict=True)
        ]
        folder = Path(os.environ.get("AGENTFORCE_EXAMPLE_OUTPUT", tempfile.gettempdir()))
        path = folder / "agentforce_report.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([f"# Weekly report\n\nRun `{run_id}`\n", *sections]), encoding="utf-8")
        return str(path)

    write(ask.output)
# [END report]
