"""Run every benchmark and write one table to ``docs/benchmarks.md``. Exit status 1 when a goal is missed."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import imports
import message
import observing
import tokens
from report import table

REPORT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
_PAGE = """\
# Benchmarks

Written by `make bench`, which runs `python benchmarks/run.py` in the checkout's `.venv`. It takes a
few minutes and needs no account and no network.

{table}

Measured with Python {python}, Airflow {airflow}, requests {requests} and {cpus} CPUs on {system}.

## How to read it

Every figure stands beside another one of the same run, and the two take turns, so that what else the
machine does meets both. Compare rows, not milliseconds of two machines. A row without a goal is there to
compare with.

- **A message** (`benchmarks/message.py`): {messages} messages in one open conversation. The server is a
  process of its own that answers a fixed `Inform` in one write; there is no agent behind it.
  `requests.Session.post` on a kept connection sends the same JSON and does not parse the reply. It reads
  proxies and the CA bundle from the environment for every request, our client once per host. That is all of
  the client's lead, as the row without the environment shows; what else the client does (numbering, a
  deadline for the whole call, reading the answer) is in its figure.
- **Connections**: what the server accepted from the client while the messages were sent. A connection that
  lay idle for more than 1.5 s is not used again, because a message sent on one that the server is just
  closing could not be told from a message that arrived. So a pause between two messages costs a new
  connection.
- **Imports** (`benchmarks/imports.py`): fresh interpreters. The addition is timed inside the process after
  `from airflow.sdk import DAG, BaseOperator`, with everything compiled before. Whole processes are
  compared, too, but beside the start of Airflow the addition is lost in the noise, which that row shows.
- **Metrics and traces** (`benchmarks/observing.py`): the hook's observers around a call that takes no time,
  as CPU time of the thread.
- **Token exchanges** (`benchmarks/tokens.py`): the emulator counts them while {threads} threads need a
  token at the same moment.
"""

_BENCHMARKS = (("message", message), ("imports", imports), ("observing", observing), ("tokens", tokens))


def main() -> int:
    rows = []
    for name, benchmark in _BENCHMARKS:
        print(f"Measuring: {name} …", file=sys.stderr, flush=True)
        rows += benchmark.main()
    text = table(rows)
    page = _PAGE.format(
        table=text,
        python=platform.python_version(),
        airflow=version("apache-airflow"),
        requests=version("requests"),
        cpus=os.cpu_count(),
        system=platform.system(),
        messages=message.ROUNDS * message.BLOCK,
        threads=tokens.THREADS,
    )
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(page, encoding="utf-8")
    print(text)
    return int(any(row.reached is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
