"""The programs of the benchmarks still run; what they measure is not judged here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
ASK = """
from batch import bench
with bench(2, delay=0.0) as it:
    print(it.operator()["counts"], it.resume()["counts"])
"""


def test_a_batch_is_measured():
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=BENCHMARKS, capture_output=True, text=True, check=False
    )
    assert done.stdout == "{'answered': 2} {'answered': 2}\n", done.stderr
