"""Write the retry table of the client as Markdown, so that docs/delivery.md never tells another story."""

from __future__ import annotations

import sys

import generated

from airflow_provider_agentforce.client.delivery_policy import Cell, Ending, Failure, Operation

_ENDINGS = {Ending.DONE: "ok", Ending.TRANSIENT: "retry", Ending.FINAL: "fail", Ending.UNKNOWN: "unknown"}


def table() -> str:
    """Return the table, one line per failure."""
    titles = ["failure", "the message is", *(operation.value for operation in Operation)]
    rows = [
        [
            failure.value,
            failure.rule.delivery.value,
            *(in_words(failure.rule.cell(operation)) for operation in Operation),
        ]
        for failure in Failure
    ]
    return generated.table(titles, rows)


def in_words(cell: Cell) -> str:
    """Return one cell in the words that the page explains."""
    if cell.renewals:
        return "renew" if cell.ending is Ending.FINAL else "2x renew"
    if cell.until_free:
        return "wait"
    often = f"{cell.attempts}x " if cell.attempts > 1 else ""
    return f"{often}{_ENDINGS[cell.ending]}{'!' if cell.orphan else ''}"


if __name__ == "__main__":
    sys.exit(generated.command(str(__doc__), {"retry table": table()}))
