"""Runs an example in an Airflow with a scheduler, which starts a Dag when an asset is updated."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))
from real_airflow import RealAirflow, Run, running, until  # noqa: E402 - found by the line before

WRITES, ASKS = "example_agentforce_salesforce", "approve"
STARTED_BY_ASSET = f"{WRITES}_report"


def run_both(home: Path, dags: Path, environment: dict[str, str]) -> str:
    """Run the Dag that writes records, approve what it asks, and wait for the Dag that its asset starts.

    :param home: folder for Airflow.
    :param dags: folder with their file.
    :param environment: more environment variables for every process.
    :returns: what went wrong, empty if both succeeded.
    """
    try:
        with running(RealAirflow(home, dags, environment), {WRITES, STARTED_BY_ASSET}) as airflow:
            run = airflow.trigger(WRITES)
            run.asked(ASKS)
            run.answer(ASKS, "Approve", {})
            ended = {WRITES: run.wait(), STARTED_BY_ASSET: _started(airflow).wait()}
            return "" if set(ended.values()) == {"success"} else f"{ended}\n{airflow.output()}"
    except (AssertionError, TimeoutError) as error:
        return f"{error}\n" + "\n".join(getattr(error, "__notes__", []))


def _started(airflow: RealAirflow) -> Run:
    """Wait for the first run of the Dag that the asset starts."""

    def first() -> str | None:
        runs = airflow.ask("GET", f"dags/{STARTED_BY_ASSET}/dagRuns")["dag_runs"]
        return runs[0]["dag_run_id"] if runs else None

    return Run(airflow, STARTED_BY_ASSET, until(f"{STARTED_BY_ASSET} begins", first))
