"""Run every benchmark and write one table to ``docs/benchmarks.md``, or run those named and only show it.

Exit status 1 when a goal is missed.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import batch
import imports
import limits
import mapped
import message
import observing
import tokens
from report import table

REPORT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
_PAGE = """\
# Benchmarks

Written by `make bench`, which runs `python benchmarks/run.py` in the checkout's `.venv`. It takes
some minutes and needs no account and no network. `make bench ONLY=batch` runs one of them and writes nothing.

{table}

Measured with Python {python}, Airflow {airflow}, requests {requests} and {cpus} CPUs on {system}{priority}.
Load average of the machine before the run: {load:.1f}.

## How to read it

Every figure stands beside another one of the same run, and the two take turns, so that what else the
machine does meets both. Compare rows, not milliseconds of two machines. A row without a goal is there to
compare with. The goals hold for a quiet machine: the CPU that others use is taken from all rows, and most
from those with a share of an ideal time.

- **A message** (`benchmarks/message.py`): {messages} messages in one open conversation. The server is a
  process of its own that answers a fixed `Inform` in one write; there is no agent behind it.
  `requests.Session.post` on a kept connection sends the same JSON and does not parse the reply. It reads
  proxies and the CA bundle from the environment for every request, our client once per host; the row without
  the environment shows how much that is. With `NO_PROXY` for the host `requests` finds out more quickly that
  it needs no proxy. Through a proxy it sends head and body in two segments and waits
  40 ms for the acknowledgement of the first; our client sends one. What else the client does (numbering, a
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
- **A batch** (`benchmarks/batch.py`): `ConversationBatchOperator.execute` in a fresh process that has
  loaded what a task's process has, frozen for the garbage collector as `LocalExecutor` does before it
  forks; files on the local disk. A conversation is a start, one message and the end. The org
  (`benchmarks/org.py`) is a process of its own that answers each call after a fixed time, but tokens at
  once, and counts. A session is open there from the arrival of its start to the reply to its end. *Ideal*
  is the time in which no place of the org is ever free. The time is all of `execute`: loading libraries,
  reading and checking the input, writing the results. The loop beside it (aiohttp {aiohttp}, asyncio, a
  semaphore) keeps its answers in memory and knows no retry, no ledger and no limit but the semaphore. CPU
  time is all of the process's; beside it, that of bare `requests` calls at the same pace: most of both is
  waking a thread and HTTP. A call that follows a wait costs here twice the CPU time of one that follows
  another call, whoever makes it, and more while other programs use the CPU.
- **The cost of syncs**: the same batch with and without syncs of the ledger, {pairs} pairs in turns, so fast
  that the CPU is busy; at the speed of a real agent it is lost in the noise. A record is synced once,
  before its message leaves, and records that wait at the same time share a sync.
- **A try that finds all records done** reads the input and the ledger and writes the results. What stays in
  memory grows with the number of records, so two sizes say what a million would take.
- **A limit that is wrong**: the org refuses at once and does not say for how long.
- **Killed**: a session whose start was under way at the kill is known by its external key only, so nobody can
  end it; the org does after a while. The shorter the calls, the larger their share.
- **Shared limits** (`benchmarks/limits.py`): a Redis without persistence on this machine. The processes that
  share an org start at once, take as many sessions as it grants to all, and end each after one message.
- **Mapped tasks** (`benchmarks/mapped.py`): Airflow's three processes on this machine, with LocalExecutor on
  SQLite. How much a task costs depends on the machine and the executor, so take the ratio for an order of
  magnitude.
"""

BENCHMARKS = {
    "message": message,
    "imports": imports,
    "observing": observing,
    "tokens": tokens,
    "batch": batch,
    "limits": limits,
    "mapped": mapped,
}


def main(names: Sequence[str]) -> int:
    """Run the benchmarks called *names*, all of them without any; only then the page is written."""
    if unknown := set(names) - set(BENCHMARKS):
        sys.exit(f"There is no benchmark {', '.join(sorted(unknown))}. There are {', '.join(BENCHMARKS)}.")
    rows, load = [], os.getloadavg()[0]
    for name in names or BENCHMARKS:
        print(f"Measuring: {name} …", file=sys.stderr, flush=True)
        found = BENCHMARKS[name].main()
        print(table(found), flush=True)
        rows += found
    if not names:
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(_page(table(rows), load), encoding="utf-8")
    return int(any(row.reached is False for row in rows))


def _page(text: str, load: float) -> str:
    return _PAGE.format(
        table=text,
        python=platform.python_version(),
        airflow=version("apache-airflow"),
        requests=version("requests"),
        cpus=os.cpu_count(),
        system=platform.system(),
        messages=message.ROUNDS * message.BLOCK,
        threads=tokens.THREADS,
        aiohttp=version("aiohttp"),
        pairs=batch.PAIRS,
        priority=_priority(),
        load=load,
    )


def _priority() -> str:
    """Tell if other processes had to wait for these."""
    ordinary = getattr(os, "SCHED_OTHER", None)
    raised = os.nice(0) < 0 or (ordinary is not None and os.sched_getscheduler(0) != ordinary)
    return ", with a raised priority" if raised else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
