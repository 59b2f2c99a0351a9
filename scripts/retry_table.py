"""Write the retry table of the client as Markdown, so that docs/delivery.md never tells another story.

Without an option the table is printed. ``--check PAGE`` exits with 1 when PAGE differs, ``--write PAGE``
updates it between its two ``<!-- retry table -->`` lines.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from airflow_provider_agentforce.client.calls import Operation
from airflow_provider_agentforce.client.policy import TABLE, Ending, Verdict

MARKER = "<!-- retry table -->"
_ENDINGS = {Ending.DONE: "ok", Ending.TRANSIENT: "retry", Ending.FINAL: "fail", Ending.UNKNOWN: "unknown"}


def main(argv: Sequence[str] | None = None) -> int:
    """Print, check or write the table and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", metavar="PAGE", type=Path)
    choice.add_argument("--write", metavar="PAGE", type=Path)
    options = parser.parse_args(argv)
    page = options.check or options.write
    if page is None:
        sys.stdout.write(table())
        return 0
    before = page.read_text(encoding="utf-8")
    after = with_table(before)
    if after is None:
        sys.stderr.write(f"{page} needs exactly two lines {MARKER}\n")
        return 1
    if options.check and before != after:
        sys.stderr.write(
            f"{page} differs from the retry table. Run: python scripts/retry_table.py --write {page}\n"
        )
        return 1
    if options.write and before != after:
        page.write_text(after, encoding="utf-8")
    return 0


def table() -> str:
    """Return the table, one line per failure."""
    titles = ["failure", "the message is", *(operation.value for operation in Operation)]
    lines = [titles, ["---"] * len(titles)]
    lines += [
        [failure.value, row.delivery.value, *(cell(row.verdict(operation)) for operation in Operation)]
        for failure, row in TABLE.items()
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(verdict: Verdict) -> str:
    """Return one cell in the words that the page explains."""
    if verdict.renew:
        return "renew"
    if verdict.until_free:
        return "wait"
    often = f"{verdict.attempts}x " if verdict.attempts > 1 else ""
    return f"{often}{_ENDINGS[verdict.ending]}{'!' if verdict.orphan else ''}"


def with_table(page: str) -> str | None:
    """Return *page* with the table between its markers, ``None`` if it has not exactly two."""
    parts = page.split(MARKER)
    if len(parts) != 3:  # noqa: PLR2004
        return None
    return f"{parts[0]}{MARKER}\n\n{table()}\n{MARKER}{parts[2]}"


if __name__ == "__main__":
    sys.exit(main())
