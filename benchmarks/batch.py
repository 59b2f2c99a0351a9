"""A batch of records at an org's cap: ``ConversationBatchOperator`` against the time that the cap allows.

Every run is a fresh process, which has Airflow loaded as a task has, and the org is another one
(``org.py``). So CPU time and memory are those of the batch alone. Ideal is the time in which the org's
places are never free: calls times seconds per call, over places.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from org import AGENT_ID, LimitedOrg, Terms
from report import Row, table

from airflow_provider_agentforce.batch.shard import Shard

RECORDS = 1000
ROUNDS = 3
BY_HAND = ("loop", "requests", "http.client")
MANY = 10_000
MANY_DELAY = 0.5
MANY_TOKEN_SECONDS = 60
CPU_GOAL = 1.4
WRONG_RECORDS = 400
WRONG_CAP = 20
PAIRS = 3
PAIR_RECORDS = 2000
PAIR_DELAY = 0.05
KILL_AT = 5000
RESUMED = (10_000, 50_000, 100_000)
FORMATS = ("csv", "jsonl", "parquet")
KILL_DELAY = 0.2
_LONGEST_SECONDS = 600
_PROGRAM = str(Path(__file__).with_name("batch_process.py"))
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@dataclass
class Bench:
    """One org, one set of records and a folder for the results.

    :param folder: a new one.
    :param form: suffix of the file with the records.
    """

    org: LimitedOrg
    folder: Path
    records: int
    form: str = "jsonl"

    def operator(self, *, one_cpu: bool = False, **given: Any) -> dict[str, Any]:
        """Run the operator in a new process, as :meth:`begin` does, and return what it took.

        :param one_cpu: let the process use only one of the CPUs, on Linux.
        """
        process = self.begin(**given)
        if one_cpu and sys.platform == "linux":
            os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        return self._finished(process)

    def begin(
        self,
        *,
        syncs: bool = True,
        results: str = "results",
        limits: dict[str, int] | None = None,
        **options: Any,
    ) -> subprocess.Popen[str]:
        """Start a process that runs the operator.

        :param limits: extras of the connection.
        :param options: arguments of the operator.
        """
        files = {"records": f"file://{self._input()}", "result_path": f"file://{self.folder}/{results}"}
        connection = self.org.connection(**limits or {})
        return self._start("operator", {**files, **options, "syncs": syncs}, connection)

    def in_shards(self, number: int, **limits: int) -> list[dict[str, Any]]:
        """Run the operator for each shard at once, in a process each, and return what each took.

        :param limits: extras of the connection.
        """
        shards = [str(Shard(one, number)) for one in range(number)]
        processes = [self.begin(shard=shard, limits=limits) for shard in shards]
        try:
            return [self._finished(process) for process in processes]
        finally:
            for process in processes:
                process.kill()

    def resume(self, *output_formats: str) -> dict[str, Any]:
        """Run the operator on a ledger that says that all records are answered.

        :param output_formats: the tables to write, if not the default.
        :returns: what it took.
        """
        ledger = f"{self.folder}/results/_ledger"
        self._finished(self._start("fill", {"records": str(self._input()), "ledger": ledger}, ""))
        options = {"output_formats": output_formats} if output_formats else {}
        return self.operator(on_change="continue", **options)

    def by_hand(self, way: str) -> dict[str, Any]:
        """Run the ``loop`` of aiohttp, or threads with ``requests`` or ``http.client``, in a new process.

        :returns: what it took.
        """
        options = {
            "records": str(self._input()),
            "url": self.org.url,
            "agent_id": AGENT_ID,
            "limit": self.org.terms.cap,
            "result_path": f"{self.folder}/{way}.jsonl",
        }
        return self._finished(self._start(way, options, ""))

    def statuses(self, results: str = "results") -> Counter[str]:
        """Return the number of rows per status that were written."""
        lines = (self.folder / results / "results.jsonl").read_text(encoding="utf-8").splitlines()
        return Counter(json.loads(line)["status"] for line in lines)

    def _input(self) -> Path:
        path = self.folder / f"records.{self.form}"
        if not path.exists():
            rows = ({"id": f"O-{n}", "name": f"Customer {n}", "city": "Berlin"} for n in range(self.records))
            with path.open("w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in _lines(rows, self.form))
        return path

    def _start(self, way: str, options: dict[str, Any], connection: str) -> subprocess.Popen[str]:
        env = {name: value for name, value in os.environ.items() if name not in _PROXIES}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        env |= {
            "AIRFLOW_HOME": f"{self.folder}/airflow",
            "AIRFLOW_CONN_AGENTFORCE_DEFAULT": connection,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "TMPDIR": str(self.folder),
        }
        with (self.folder / f"{way}.log").open("a") as log:
            return subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, _PROGRAM, way, json.dumps(options)],
                env=env,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _finished(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        try:
            out, _ = process.communicate(timeout=_LONGEST_SECONDS)
        finally:
            process.kill()
        if process.returncode:
            logs = [out, *(path.read_text() for path in self.folder.glob("*.log"))]
            raise RuntimeError("\n".join(log[-3000:] for log in logs))
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found


def _lines(rows: Iterable[dict[str, str]], form: str) -> Iterable[str]:
    if form == "csv":
        return itertools.chain(["id,name,city"], (",".join(row.values()) for row in rows))
    return map(json.dumps, rows)


def warm_up(*by_hand: str) -> None:
    """Compile what the processes of the operator and of these ways load."""
    with bench(1, delay=0.0) as it:
        it.operator()
        for way in by_hand:
            it.by_hand(way)


@contextmanager
def bench(records: int, *, form: str = "jsonl", **terms: Any) -> Iterator[Bench]:
    """Give an org with *terms*, and so many records."""
    with tempfile.TemporaryDirectory() as folder, LimitedOrg(Terms(**terms)) as org:
        yield Bench(org, Path(folder), records, form)


def at_the_cap() -> list[Row]:
    """Ask about a thousand records, in each way by turns."""
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ("operator", "one CPU", *BY_HAND)}
    counts: list[Counter[str]] = []
    for _ in range(ROUNDS):
        with bench(RECORDS) as it:
            runs["operator"].append(it.operator())
            counts.append(Counter(it.org.counts()) + it.statuses())
            runs["one CPU"].append(it.operator(one_cpu=True, results="one-cpu"))
            for way in BY_HAND:
                runs[way].append(it.by_hand(way))
            ideal = it.org.ideal(RECORDS)
    seconds = {way: statistics.median(one["seconds"] for one in of_way) for way, of_way in runs.items()}
    share, theirs = ideal / seconds["operator"], ideal / seconds["loop"]
    cpu = {way: statistics.median(_cpu_ms(one, RECORDS) for one in of_way) for way, of_way in runs.items()}
    name = f"{RECORDS:,} conversations, 50 at once, 0.5 s per call, median of {ROUNDS} runs"
    total, peak = sum(counts, Counter[str]()), max(one["peak"] for one in counts)
    lost = ROUNDS * RECORDS - total["answered"]
    return [
        Row(
            f"{name}: share of the ideal {ideal:.1f} s",
            "at least 98 %",
            f"{share:.1%} ({seconds['operator']:.2f} s); asyncio and aiohttp with a semaphore: {theirs:.1%} "
            f"({seconds['loop']:.2f} s)",
            share >= 0.98,
        ),
        Row("The same: throughput as a ratio to the aiohttp loop", "", f"{share / theirs:.3f}"),
        Row(
            "The same: records without an answer, and starts that the org refused",
            "0 and 0",
            f"{lost} and {total['refused']} (most sessions open at once: {peak})",
            not lost and not total["refused"],
        ),
        Row(
            "The same: messages sent twice, and sessions left open",
            "0 and 0",
            f"{total['twice']} and {total['open']}",
            not total["twice"] and not total["open"],
        ),
        Row(
            "The same: CPU time per conversation",
            f"at most {CPU_GOAL} ms",
            f"{cpu['operator']:.2f} ms (the aiohttp loop: {cpu['loop']:.2f} ms; 50 threads with bare "
            f"`requests`: {cpu['requests']:.2f} ms, with bare `http.client`: {cpu['http.client']:.2f} ms)",
            cpu["operator"] <= CPU_GOAL,
        ),
        Row(
            "The same on one of the CPUs, as in a container with one: CPU time, and share of the ideal",
            "",
            f"{cpu['one CPU']:.2f} ms and {ideal / seconds['one CPU']:.1%}",
        ),
        Row(
            "The same: token exchanges of each run, while the token lives (30 min)",
            "at most 1",
            f"{total['tokens'] / ROUNDS:g}",
            total["tokens"] <= ROUNDS,
        ),
    ]


def many() -> list[Row]:
    """Ask about ten thousand records."""
    with bench(MANY, delay=MANY_DELAY, token_lifetime=MANY_TOKEN_SECONDS) as it:
        batch = it.operator()
        counts = it.org.counts()
        ideal = it.org.ideal(MANY)
        rows = it.statuses()
    # A token that lives so shortly is renewed after five eighths of its life at the earliest.
    lifetimes = math.ceil(batch["seconds"] / (MANY_TOKEN_SECONDS * 5 / 8))
    inside = batch["inside"]
    ledger = inside["append"]
    lost = MANY - rows["answered"]
    cpu = _cpu_ms(batch, MANY)
    return [
        Row(
            f"{MANY:,} records, 50 at once, {MANY_DELAY} s per call: most memory, with Airflow in it",
            "at most 300 MB",
            f"{batch['peak_mb']:.0f} MB (when the operator began: {batch['first_mb']:.0f} MB)",
            batch["peak_mb"] <= 300,
        ),
        Row(
            "The same: CPU time per conversation",
            "",
            f"{cpu:.2f} ms",
        ),
        Row(
            f"The same: share of the ideal {ideal:.1f} s, and of the time in which the ledger is synced",
            "at least 98 %",
            f"{ideal / batch['seconds']:.1%} ({batch['seconds']:.1f} s), and {ledger / batch['seconds']:.1%}",
            ideal / batch["seconds"] >= 0.98,
        ),
        Row(
            "The same: records without an answer, starts refused, messages sent twice",
            "0, 0 and 0",
            f"{lost}, {counts['refused']} and {counts['twice']}",
            not (lost or counts["refused"] or counts["twice"]),
        ),
        Row(
            f"The same, with a token that lives {MANY_TOKEN_SECONDS} s: exchanges",
            f"at most {lifetimes}",
            str(counts["tokens"]),
            counts["tokens"] <= lifetimes,
        ),
    ]


def cost_of_syncs() -> list[Row]:
    """Ask the same with and without syncs, alternately."""
    with bench(PAIR_RECORDS, delay=PAIR_DELAY) as it:
        runs: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for number in range(PAIRS):
            for syncs in (True, False) if number % 2 else (False, True):
                runs[syncs].append(it.operator(syncs=syncs, results=f"{number}-{syncs}"))
    ratios = [one["seconds"] / other["seconds"] - 1 for one, other in zip(*runs.values(), strict=True)]
    cost = statistics.median(ratios)
    with_it, without = (statistics.median(_cpu_ms(one, PAIR_RECORDS) for one in runs[key]) for key in runs)
    return [
        Row(
            f"{PAIR_RECORDS:,} records at {PAIR_DELAY} s per call: time with syncs against without, "
            f"median of {PAIRS} pairs",
            "",
            f"{cost:+.1%} (pairs: {', '.join(f'{one:+.1%}' for one in ratios)}; CPU per conversation "
            f"{with_it:.2f} against {without:.2f} ms)",
        )
    ]


def wrong_limit() -> list[Row]:
    """Ask an org that allows less than the connection says."""
    with bench(WRONG_RECORDS, cap=WRONG_CAP) as it:
        batch = it.operator(limits={"max_concurrent_sessions": 50})
        counts = it.org.counts()
        ideal = it.org.ideal(WRONG_RECORDS)
        rows = it.statuses()
    lost = WRONG_RECORDS - rows["answered"]
    return [
        Row(
            f"{WRONG_RECORDS} records where the org allows {WRONG_CAP} sessions and the connection says 50: "
            "records without an answer, messages sent twice, sessions left open",
            "0, 0 and 0",
            f"{lost}, {counts['twice']} and {counts['open']}",
            not (lost or counts["twice"] or counts["open"]),
        ),
        Row(
            f"The same: starts refused, and share of the ideal {ideal:.1f} s at {WRONG_CAP}",
            "",
            f"{counts['refused']} for {WRONG_RECORDS} sessions, and {ideal / batch['seconds']:.1%}",
        ),
    ]


def killed() -> list[Row]:
    """Kill the process amid its records, and run it again."""
    with bench(MANY, delay=KILL_DELAY) as it:
        process = it.begin()
        try:
            while it.org.counts()["messages"] < KILL_AT:
                assert process.poll() is None, "The operator ended before it was to be killed."
                time.sleep(0.05)
        finally:
            process.kill()
            process.communicate()
        time.sleep(10 * KILL_DELAY)
        before = it.org.counts()
        second = it.operator()
        after = it.org.counts()
        rows = it.statuses()
    lost = MANY - rows["answered"] - rows["unknown"]
    inside = second["inside"]
    return [
        Row(
            f"{MANY:,} records, killed (SIGKILL) after {KILL_AT:,} messages and run again: messages sent "
            "twice, records without a row",
            "0 and 0",
            f"{after['twice']} and {lost}",
            not after["twice"] and not lost,
        ),
        Row(
            "The same: records whose answer was lost (status `unknown`)",
            "at most 50",
            str(rows["unknown"]),
            rows["unknown"] <= 50,
        ),
        Row(
            f"The same: seconds until the second run continues, with {before['messages']:,} records done",
            "",
            f"{inside['open'] + inside['recover']:.2f} s (reading the ledger {inside['open']:.2f} s, "
            f"ending the sessions on record {inside['recover']:.2f} s)",
        ),
        Row(
            "The same: sessions left open by the kill, and after the second run",
            "",
            f"{before['open']} and {after['open']}",
        ),
    ]


def resumed() -> list[Row]:
    """Go on where all records are done, to see what a record costs in time and memory."""
    grown: dict[int, float] = {}
    for records in RESUMED:
        with bench(records) as it:
            done = it.resume()
            asked = it.org.counts()["messages"]
        grown[records] = done["peak_mb"] - done["first_mb"]
    most = RESUMED[-1]
    per_record = (grown[most] - grown[RESUMED[0]]) / (most - RESUMED[0])
    at_a_million = grown[most] + per_record * (1_000_000 - most)
    opened = done["inside"]["open"]
    return [
        Row(
            f"A try that finds {most:,} records done: seconds to read the ledger, and messages sent",
            "at most 3 s and 0",
            f"{opened:.2f} s and {asked} (with the input read and the results written: "
            f"{done['seconds']:.2f} s)",
            opened <= 3 and not asked,
        ),
        Row(
            f"The same: memory above the start at {most:,} records, and extrapolated to a million",
            "at most 120 and 350 MB",
            f"{grown[most]:.0f} and {at_a_million:.0f} MB "
            f"({', '.join(f'{size:,}: {mb:.0f}' for size, mb in grown.items())})",
            grown[most] <= 120 and at_a_million <= 350,
        ),
    ]


def tables() -> list[Row]:
    """Write the tables of batches whose records are all answered."""
    peaks: dict[int, float] = {}
    for records in (RESUMED[0], RESUMED[-1]):
        with bench(records) as it:
            done = it.resume(*FORMATS)
        peaks[records] = done["peak_mb"]
    seconds = {name: done["inside"][f"results.{name}"] for name in FORMATS}
    fewest, most = peaks
    grown = peaks[most] - peaks[fewest]
    return [
        Row(
            f"The tables of {most:,} rows: seconds to write {', '.join(FORMATS)}",
            "at most 5 s each",
            ", ".join(f"{one:.2f} s" for one in seconds.values()),
            max(seconds.values()) <= 5,
        ),
        Row(
            f"The same: memory above a batch with tables of {fewest:,} rows",
            "at most 40 MB",
            f"{grown:.0f} MB",
            grown <= 40,
        ),
    ]


def _cpu_ms(run: dict[str, Any], conversations: int) -> float:
    return float(run["cpu"]) * 1000 / conversations


def main() -> list[Row]:
    warm_up("loop", "requests", "http.client")
    return [*at_the_cap(), *wrong_limit(), *many(), *cost_of_syncs(), *killed(), *resumed(), *tables()]


if __name__ == "__main__":
    print(table(main()))
