"""What records cost that are not asked: in a dry run, and in a batch that reuses the answers of another one.

Every run is a process of its own, as in ``batch.py``.
"""

from __future__ import annotations

from typing import Any

from batch import Bench, bench, warm_up
from report import Row, table

ROWS = 1_000_000
REUSED = 100_000
_FEW = 10


def main(rows: int = ROWS, reused: int = REUSED) -> list[Row]:
    """Measure, and return the rows of the report."""
    warm_up()
    return [*dry_run(rows), *reuse(reused)]


def dry_run(rows: int) -> list[Row]:
    """Survey a CSV file."""
    few, many = (_surveyed(number) for number in (_FEW, rows))
    grown = many["peak_mb"] - few["peak_mb"]
    return [
        Row(
            f"A dry run of {rows:,} rows of CSV: seconds, and memory above one of {_FEW} rows",
            "at most 20 s and 60 MB",
            f"{many['seconds']:.1f} s (CPU {many['cpu']:.1f} s) and {grown:.0f} MB",
            many["seconds"] <= 20 and grown <= 60,
        )
    ]


def _surveyed(rows: int) -> dict[str, Any]:
    with bench(rows, form="csv") as it:
        return it.operator(dry_run=True)


def reuse(records: int) -> list[Row]:
    """Ask all records, and then again what has not changed: nothing."""
    with bench(records, delay=0.0) as it:
        _ask(it, "first")
        before = it.org.counts()["messages"]
        again = _ask(it, "second")
        sent, answered = it.org.counts()["messages"] - before, it.statuses("second")["answered"]
    return [
        Row(
            f"{records:,} records whose answers are known from an earlier batch (`reuse`): CPU seconds with "
            "the tables, messages sent, and answers",
            f"at most 10 s, 0 and {records:,}",
            f"{again['cpu']:.1f} s, {sent} and {answered:,}",
            again["cpu"] <= 10 and not sent and answered == records,
        )
    ]


def _ask(it: Bench, results: str) -> dict[str, Any]:
    return it.operator(results=results, reuse=f"file://{it.folder}/answers")


if __name__ == "__main__":
    print(table(main()))
