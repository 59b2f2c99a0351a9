"""The programs of the benchmarks still run; what they measure is not judged here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
ASK = """
from batch import FORMATS, bench
with bench(2, delay=0.0) as it:
    print(it.resume(*FORMATS)["counts"])
with bench(2, form="csv") as it:
    print(it.operator(dry_run=True)["seconds"] > 0)
"""


ASK_IN_SHARDS = """
import workers
for row in workers.main(20):
    print(row.measured)
"""


ASK_AGAIN = """
from enrichment import reuse
for row in reuse(20):
    print(row.measured)
"""


def measured(program):
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False)


def test_a_batch_is_measured():
    done = measured(ASK)
    assert done.stdout == "{'answered': 2}\nTrue\n", done.stderr


def test_a_batch_of_two_workers_is_measured():
    done = measured(ASK_IN_SHARDS)
    time, lost, logins = done.stdout.splitlines() or [done.stderr, "", ""]
    assert "%" in time
    assert lost.startswith("0, 0, 0 and 0 ")
    assert logins == "1"


def test_reuse_is_measured():
    done = measured(ASK_AGAIN)
    assert done.stdout.endswith(" s, 0 and 20\n"), done.stderr
