"""Flip every cell of the retry table once, and show that a test notices.

Prints the cells that no test notices and exits with 1 if there are any. Cells that no reply of a server can
reach (a stream that a token call never has, say) are listed with the reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
from pathlib import Path

import pytest

from airflow_provider_agentforce.client.delivery_policy import Failure

TESTS = Path(__file__).resolve().parent.parent / "tests" / "client"
NAMES = ("table", "wire", "client", "tokens", "answers", "transport_fuzz")
FILES = [str(TESTS / f"test_{name}.py") for name in NAMES]
OPERATIONS = ("token", "start", "send", "end", "feedback", "query")
FLIPPED = {
    "R3>T": "R2>T",
    "R2>T": "R3>T",
    "R2>T!": "R2>T",
    "T!": "T",
    "T": "X",
    "X": "T",
    "U": "R2>T",
    "OK": "X",
    "RF1>X": "X",
    "RF2>T": "RF1>X",
    "L>T": "T",
}
# Only a send streams, and only the token service answers with OAuth errors.
UNREACHABLE = {
    **{(Failure.STREAM_CUT, name): "only a send streams" for name in OPERATIONS if name != "send"},
    **{(Failure.OAUTH_TEMPORARY, name): "an OAuth error" for name in OPERATIONS if name != "token"},
    **{(Failure.LOGIN_RATE, name): "an OAuth error" for name in OPERATIONS if name != "token"},
    **{(Failure.API_LIMIT, name): "a limit of the data API" for name in OPERATIONS if name != "query"},
    **{(Failure.TOKEN_REFUSED, name): "a token request" for name in OPERATIONS if name != "token"},
    (Failure.BAD_REQUEST, "token"): "has a failure for token requests",
    **{(Failure.SESSION_GONE, name): "goes to no session" for name in ("token", "start", "query")},
    **{(Failure.NOT_FOUND, name): "goes to a session" for name in ("send", "end", "feedback")},
    **{
        (failure, name): "only a message is repeated"
        for failure in (Failure.ALREADY_DELIVERED, Failure.STILL_RUNNING)
        for name in OPERATIONS
        if name != "send"
    },
}


def noticed(failure: Failure, operation: str) -> bool:
    """Flip one cell, run the tests up to the first that fails, and flip it back."""
    row = failure.rule
    cells = dict(zip(OPERATIONS, row.cells.split(), strict=True))
    cells[operation] = FLIPPED[cells[operation]]
    failure.rule = dataclasses.replace(row, cells=" ".join(cells.values()))
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return (
                pytest.main(["-x", "-q", "--no-header", "-p", "no:xdist", *FILES])
                == pytest.ExitCode.TESTS_FAILED
            )
    finally:
        failure.rule = row


def main() -> int:
    """Flip all, or those of the failures named on the command line."""
    chosen = [Failure[name] for name in sys.argv[1:]] or list(Failure)
    cells = [
        (failure, name) for failure in chosen for name in OPERATIONS if (failure, name) not in UNREACHABLE
    ]
    missed = []
    for failure, operation in cells:
        if not noticed(failure, operation):
            missed.append(f"{failure.name} {operation}")
            print(f"not noticed: {missed[-1]}", flush=True)  # noqa: T201 - this is a command
    print(f"{len(cells)} cells flipped, {len(missed)} not noticed.")  # noqa: T201 - this is a command
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
