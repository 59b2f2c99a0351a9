"""What a record costs as a mapped ``ConversationOperator``, a task each, and in one task of a batch.

Both run on the same Airflow, one after the other: its three processes with LocalExecutor on SQLite. The org
is that of ``batch.py``, with the same three calls per record, and both may have as many sessions open. The
time is from the start of the first task to the end of the last one; the CPU time is that of all of Airflow's
processes meanwhile, from the trigger on; the memory is that of one task's process, all of it and what it
does not share with the process that it was forked from.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import requests
from org import LimitedOrg, Terms
from report import Row, table

_HERE = Path(__file__).resolve().parent
sys.path.append(str(_HERE.parent / "tests"))
from real_airflow import DONE, RealAirflow, until  # noqa: E402 - found by the line before

RECORDS = 16
AT_ONCE = 8
_LOOK_SECONDS = 1.0
_LONGEST_SECONDS = 300.0


@dataclass
class Cost:
    """What the records took as one Dag.

    :ivar seconds: from the start of the first task to the end of the last one.
    :ivar cpu: CPU seconds of all of Airflow's processes.
    :ivar tasks: how many succeeded.
    :ivar rss_mb: the most memory that one task was seen to have.
    :ivar own_mb: the most that one was seen to share with nobody.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    tasks: int = 0
    rss_mb: float = 0.0
    own_mb: float = 0.0

    def see(self, processes: Iterable[psutil.Process]) -> None:
        """Look at the memory of tasks."""
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                memory = process.memory_full_info()
                self.rss_mb = max(self.rss_mb, memory.rss / 1_000_000)
                self.own_mb = max(self.own_mb, memory.uss / 1_000_000)


def measure() -> tuple[Cost, Cost]:
    """Ask about the records as mapped tasks and in one, and return what each took."""
    with tempfile.TemporaryDirectory() as folder, LimitedOrg(Terms()) as org:
        (home := Path(folder) / "airflow").mkdir()
        airflow = RealAirflow(home, _HERE / "dags", _environment(org, folder))
        try:
            airflow.start({"mapped", "batched"})
            mapped, batched = _run(airflow, "mapped"), _run(airflow, "batched")
        finally:
            airflow.stop()
        counts = org.counts()
    assert (counts["messages"], counts["twice"], counts["open"]) == (2 * RECORDS, 0, 0), counts
    return mapped, batched


def _run(airflow: RealAirflow, dag_id: str) -> Cost:
    cost = Cost()
    before = _cpu_seconds(airflow.family())
    run = airflow.trigger(dag_id)
    path = f"dags/{dag_id}/dagRuns/{run.run_id}"

    def ended() -> bool:
        # Seldom, since to look at memory costs CPU time itself.
        time.sleep(_LOOK_SECONDS)
        cost.see(airflow.task_runners())
        with suppress(requests.Timeout):  # the machine is busy
            return str(airflow.ask("GET", path)["state"]) in DONE
        return False

    until(f"{dag_id} has ended", ended, timeout=_LONGEST_SECONDS)
    cost.cpu = _cpu_seconds(airflow.family()) - before
    tasks = airflow.ask("GET", f"{path}/taskInstances?limit=100")["task_instances"]
    cost.tasks = sum(one["state"] == "success" for one in tasks)
    cost.seconds = _span(tasks)
    return cost


def _environment(org: LimitedOrg, folder: str) -> dict[str, str]:
    return {
        "AGENTFORCE_BENCHMARK_AT_ONCE": str(AT_ONCE),
        "AGENTFORCE_BENCHMARK_RESULTS": f"file://{folder}/results",
        "AIRFLOW_CONN_AGENTFORCE_DEFAULT": org.connection(),
        "AGENTFORCE_BENCHMARK_RECORDS": str(RECORDS),
        "AIRFLOW__CORE__PARALLELISM": str(AT_ONCE),
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": str(AT_ONCE),
        # A busy machine must not make the scheduler take a task for dead.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
    }


def _cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            # With those of its children that have ended.
            total += sum(process.cpu_times()[:4])
    return total


def _span(tasks: list[dict[str, Any]]) -> float:
    moments = [
        datetime.fromisoformat(task[name].replace("Z", "+00:00"))
        for task in tasks
        for name in ("start_date", "end_date")
    ]
    return (max(moments) - min(moments)).total_seconds()


def main() -> list[Row]:
    mapped, batched = measure()
    return [
        Row(
            f"{RECORDS} records on Airflow, {AT_ONCE} at once, 0.5 s per call: mapped `ConversationOperator` "
            "tasks against one `ConversationBatchOperator`",
            "",
            f"{mapped.seconds / batched.seconds:.1f} times the time ({mapped.seconds:.1f} against "
            f"{batched.seconds:.1f} s; {mapped.tasks} tasks against {batched.tasks})",
        ),
        Row(
            "The same: CPU time of all of Airflow per record",
            "",
            f"{mapped.cpu / batched.cpu:.1f} times ({_ms(mapped):,.0f} against {_ms(batched):,.0f} ms)",
        ),
        Row(
            "The same: memory of one task's process, and what it shares with no other",
            "",
            f"{mapped.rss_mb:.0f} and {mapped.own_mb:.0f} MB, for each of {AT_ONCE} at once, against "
            f"{batched.rss_mb:.0f} and {batched.own_mb:.0f} MB",
        ),
    ]


def _ms(cost: Cost) -> float:
    return cost.cpu * 1000 / RECORDS


if __name__ == "__main__":
    print(table(main()))
