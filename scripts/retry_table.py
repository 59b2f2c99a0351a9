"""Write the retry table of the client as Markdown, so that docs/delivery.md never tells another story."""

from __future__ import annotations

import sys

import generated

from airflow_provider_agentforce.client.delivery_policy import Ending, Failure, Operation, Verdict

_ENDINGS = {Ending.DONE: "ok", Ending.TRANSIENT: "retry", Ending.FINAL: "fail", Ending.UNKNOWN: "unknown"}


def table() -> str:
    """Return the table, one line per failure."""
    titles = ["failure", "the message is", *(operation.value for operation in Operation)]
    rows = [
        [
            failure.value,
            failure.rule.delivery.value,
            *(cell(failure.rule.verdict(operation)) for operation in Operation),
        ]
        for failure in Failure
    ]
    return generated.table(titles, rows)


def cell(verdict: Verdict) -> str:
    """Return one cell in the words that the page explains."""
    if verdict.renewals:
        return "renew" if verdict.ending is Ending.FINAL else "2x renew"
    if verdict.until_free:
        return "wait"
    often = f"{verdict.attempts}x " if verdict.attempts > 1 else ""
    return f"{often}{_ENDINGS[verdict.ending]}{'!' if verdict.orphan else ''}"


if __name__ == "__main__":
    sys.exit(generated.command(str(__doc__), "retry table", table()))
