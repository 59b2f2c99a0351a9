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
import enrichment
import imports
import limits
import mapped
import message
import observing
import tokens
import workers
from report import table

REPORT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
_PAGE = """\
# Benchmarks

Written by `make bench`, which runs `python benchmarks/run.py` in the checkout's `.venv`. It takes
several minutes and needs no account and no network. `make bench ONLY=batch` runs one of them and writes
nothing.

{table}

Measured with Python {python} (`{interpreter}`), Airflow {airflow}, requests {requests} and {cpus} CPUs on
{system}{priority}.
Load average of the machine before the run: {load:.1f}.

## How to read it

Each figure is compared with another one of the same run, and both are measured alternately, so that
other load on the machine affects both. Compare rows, not milliseconds of two machines. Rows without a goal
are for comparison. The goals apply to an idle machine: other load slows down all rows, and most of all those
with a share of an ideal time.

Linux distributions and Airflow's images build Python with profile-guided optimization. pyenv does not by
default: such a Python takes about a sixth more CPU time. `make bench PYTHON=/usr/bin/python3`, in a checkout
without `.venv`, measures with the system's Python.

- **A message** (`benchmarks/message.py`): {messages} messages in one open conversation. The server is a
  separate process, without an agent, that answers every message with the same `Inform`.
  `requests.Session.post` on a kept connection sends the same JSON and does not parse the reply. It reads
  proxies and the CA bundle from the environment for every request, our client once per host; the row without
  the environment shows the difference. With `NO_PROXY` for the host, `requests` finds more quickly that it
  needs no proxy. Through a proxy it sends head and body in two segments and waits
  40 ms for the acknowledgement of the first; our client sends one. The figure includes what else the
  client does: numbering, a deadline for the whole call, reading the answer.
- **Connections**: the connections that the server accepted while the messages were sent. A connection that
  was idle for more than 1.5 s is not used again, because a message on a connection that the server is closing
  cannot be distinguished from one that arrived. So a pause between two messages costs a new connection.
- **Imports** (`benchmarks/imports.py`): fresh interpreters. The additional time is measured inside the
  process after
  `from airflow.sdk import DAG, BaseOperator`, with everything compiled before. Whole processes are
  also compared; compared with the start of Airflow, the additional time is lost in the noise.
- **Metrics and traces** (`benchmarks/observing.py`): the hook's observers around a call that takes no time,
  as CPU time of the thread.
- **Token exchanges** (`benchmarks/tokens.py`): the emulator counts them while {threads} threads need a
  token at the same moment.
- **A batch** (`benchmarks/batch.py`): `ConversationBatchOperator.execute` in a fresh process that has
  loaded what a task's process has, frozen for the garbage collector as `LocalExecutor` does before it
  forks; files on the local disk. A conversation is a start, one message and the end. The org
  (`benchmarks/org.py`) is a separate process that answers each call after a fixed time, but tokens at once,
  and counts. A session is open there from the arrival of its start to the reply to its end. *Ideal* is the
  time in which all sessions of the org are always in use. The time is that of all of `execute`: loading
  libraries, reading and checking the input, writing the results. The loop beside it (aiohttp {aiohttp},
  asyncio, a semaphore) keeps its answers in memory and has no retry, no ledger and no limit except the
  semaphore. CPU time is that of the whole process, compared with threads that make the same calls at the
  same pace with bare `requests` and `http.client` and do nothing else. A call after a wait costs twice the
  CPU time of a call after another call, in all of them, and more while other programs use the CPU. On several
  idle CPUs, threads take the interpreter's lock from each other at every system call, which costs about a
  sixth; on one CPU they do not.
- **The cost of syncs**: the same batch with and without syncs of the ledger, {pairs} pairs alternately, so
  fast that the CPU is busy; at the speed of a real agent the cost is lost in the noise. A record is synced
  once, before its message leaves, and records that wait at the same time share a sync.
- **A try that finds all records done** reads the input and the ledger and writes the results. Memory grows
  with the number of records, so two sizes show what a million would take. The tables are those of such a try,
  in every format.
- **A limit that is wrong**: the org refuses at once and does not say how long to wait.
- **Killed**: of a session that was being started at the kill, only the external key is known, so it cannot be
  ended; the org ends it after a while. The shorter the calls, the larger their share.
- **A dry run and reuse** (`benchmarks/enrichment.py`): the same operator. The dry run reads the input,
  renders every message and counts; its memory is compared with that of a dry run of ten rows. For reuse, one
  batch asks about all records and stores its answers; a second one with another folder for its results
  reuses them. The CPU time is that of the second one's whole `execute`, with `results.jsonl` and
  `results.csv`.
- **Two workers** (`benchmarks/workers.py`): each runs the operator for one shard, with its half of the cap
  and no service between them, as in *A batch*. They are two processes of this machine, not a cluster.
- **Shared limits** (`benchmarks/limits.py`): a Redis without persistence on this machine. The processes that
  share an org start at once, take as many sessions as it allows to all, and end each after one message.
- **Mapped tasks** (`benchmarks/mapped.py`): Airflow's three processes on this machine, with LocalExecutor on
  SQLite. The cost of a task depends on the machine and the executor, so the ratio is only an order of
  magnitude.
"""

BENCHMARKS = {
    "message": message,
    "imports": imports,
    "observing": observing,
    "tokens": tokens,
    "batch": batch,
    "enrichment": enrichment,
    "workers": workers,
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
        interpreter=Path(sys.executable).resolve(),
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
