"""What metrics and traces add to a message; see ``observing_program.py`` for how that is timed.

Each setting has a process of its own, since a process has one tracer provider and one metrics backend.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from report import Row, table

GOAL_US = 50.0
_PROGRAM = Path(__file__).with_name("observing_program.py")
_LONGEST_SECONDS = 300


def measure(setting: str) -> float:
    """Return the microseconds that are added with metrics and traces ``on`` or ``off``."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, str(_PROGRAM), setting],
            env={**os.environ, "AIRFLOW_HOME": home},
            capture_output=True,
            check=True,
            text=True,
            timeout=_LONGEST_SECONDS,
        )
    return float(done.stdout.splitlines()[-1])


def main() -> list[Row]:
    off, on = measure("off"), measure("on")
    return [
        Row(
            "CPU time that metrics and traces add to a message, none configured",
            f"at most {GOAL_US:.0f} µs",
            f"{off:.0f} µs",
            off <= GOAL_US,
        ),
        Row("The same, with StatsD over UDP and spans in batches", "", f"{on:.0f} µs"),
    ]


if __name__ == "__main__":
    print(table(main()))
