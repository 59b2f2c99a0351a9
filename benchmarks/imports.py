"""What importing the operators adds to a Dag file that imports ``airflow.sdk`` anyway.

Every run is a fresh interpreter. Runs with ``airflow.sdk`` alone, with one or all of our operators after it
and, to compare, with Airflow's own ``BashOperator`` after it take turns. The addition is timed inside the
process, where the start of the interpreter and of Airflow does not blur it, and as the CPU time of whole
processes, one with our operator minus the one without beside it. A second run without them shows how much of
such a difference is noise.

All code is compiled before, as that of an installed package is: the byte code goes to a folder of its own,
which one unmeasured run of each program fills.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from typing import Any

from report import Row, table

RUNS = 15
GOAL_MS = 12.0
_LONGEST_SECONDS = 120
_BASE = "import airflow.sdk; from airflow.sdk import DAG, BaseOperator"
_ADDITIONS = {
    "alone": "",
    "again": "",
    "ours": "from airflow_provider_agentforce.operators import ConversationOperator",
    "every": "from airflow_provider_agentforce.operators import *",
    "bash": "from airflow.providers.standard.operators.bash import BashOperator",
}
_UNWANTED = ("requests", "urllib3", "airflow_provider_agentforce.emulator")
_PROGRAM = """
import json, sys, time
{base}
before = set(sys.modules)
begun, cpu = time.perf_counter(), time.process_time()
{addition}
seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
new = set(sys.modules) - before
print(json.dumps({{"seconds": seconds, "cpu": cpu, "before": sorted(before), "new": sorted(new)}}))
"""


@dataclass
class Runs:
    """What the runs of one program took.

    :ivar inside: milliseconds of the addition alone.
    :ivar cpu: the same in CPU milliseconds.
    :ivar whole: CPU milliseconds of the whole process, which are steadier than its time on a busy machine.
    :ivar last: what the last run printed.
    """

    inside: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)

    def run(self, addition: str, folder: str) -> None:
        """Run the program once more, with Airflow's home and the byte code in *folder*."""
        program = _PROGRAM.format(base=_BASE, addition=addition)
        env = {**os.environ, "AIRFLOW_HOME": folder, "PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        begun = _children_seconds()
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", program],
            env=env,
            capture_output=True,
            check=True,
            text=True,
            timeout=_LONGEST_SECONDS,
        )
        self.whole.append((_children_seconds() - begun) * 1000)
        self.last = json.loads(done.stdout.splitlines()[-1])
        self.inside.append(self.last["seconds"] * 1000)
        self.cpu.append(self.last["cpu"] * 1000)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure() -> list[Row]:
    results = {name: Runs() for name in _ADDITIONS}
    with tempfile.TemporaryDirectory() as folder:
        for addition in _ADDITIONS.values():
            Runs().run(addition, folder)
        order = list(_ADDITIONS)
        for _ in range(RUNS):
            for name in order:
                results[name].run(_ADDITIONS[name], folder)
            order.append(order.pop(0))
    return _rows(**results)


def _quartiles(runs: Runs, alone: Runs) -> str:
    pairs = [one - other for one, other in zip(runs.whole, alone.whole, strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4)
    return f"{middle:+.0f} ms ({low:+.0f} to {high:+.0f})"


def _rows(*, alone: Runs, again: Runs, ours: Runs, every: Runs, bash: Runs) -> list[Row]:
    added = statistics.median(ours.inside)
    new, before = ours.last["new"], ours.last["before"]
    own = sum(name.split(".")[0] == "airflow_provider_agentforce" for name in new)
    unwanted = [name for name in _UNWANTED if name in every.last["new"]]
    # What Airflow itself has loaded cannot be blamed on us, but then the check shows nothing.
    unseen = [name for name in _UNWANTED if name in before]
    loaded = ", ".join(unwanted) or "none"
    return [
        Row(
            f"Importing `ConversationOperator`, above `airflow.sdk`, median of {RUNS} interpreters",
            f"at most {GOAL_MS:.0f} ms",
            f"{added:.1f} ms (CPU {statistics.median(ours.cpu):.1f} ms)",
            added <= GOAL_MS,
        ),
        Row(
            "The same, as the difference in CPU time of whole processes (and its quartiles)",
            "",
            f"{_quartiles(ours, alone)} on {statistics.median(alone.whole):.0f} ms; "
            f"noise alone: {_quartiles(again, alone)}",
        ),
        Row(
            "Importing all operators, timed inside the process in the same way",
            "",
            f"{statistics.median(every.inside):.1f} ms, {len(every.last['new'])} modules",
        ),
        Row(
            "Importing Airflow's `BashOperator`, timed inside the process in the same way",
            "",
            f"{statistics.median(bash.inside):.1f} ms, {len(bash.last['new'])} modules",
        ),
        Row(
            "Modules that importing `ConversationOperator` adds",
            "at most 25",
            f"{len(new)}, of them {own} our own",
            len(new) <= 25,
        ),
        Row(
            "`requests`, `urllib3` or the emulator loaded by importing all operators",
            "none",
            f"{loaded} (loaded by Airflow before: {', '.join(unseen)})" if unseen else loaded,
            not unwanted,
        ),
    ]


def main() -> list[Row]:
    return measure()


if __name__ == "__main__":
    print(table(main()))
