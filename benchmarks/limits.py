"""What it costs to share an org's limits and its login, and how well both are held.

Needs Debian's package redis-server. Run with arguments, this is one of the processes that share the org.
"""

from __future__ import annotations

import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import redis
from report import Row, table

from airflow_provider_agentforce.client import AgentforceClient, Settings
from airflow_provider_agentforce.client.concurrency_limiter import ConcurrencyLimiter
from airflow_provider_agentforce.client.limits_store import LimitsStore
from airflow_provider_agentforce.client.shared_limiter import SharedLimiter
from airflow_provider_agentforce.emulator import Emulator
from airflow_provider_agentforce.exceptions import RateLimitedError

_ROUNDS = 2_000
_CAP = 20
_PROCESSES = 2
_CONVERSATIONS = 500
_ANSWER_SECONDS = 0.5
_TASKS = 12
# After its start a Redis might have lost what others hold.
_SETTLED_SECONDS = 11.0


@contextmanager
def redis_server() -> Iterator[int]:
    """Run a Redis on a free port, and yield that."""
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("This benchmark needs Debian's package redis-server: apt-get install redis-server")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603
        try:
            time.sleep(_SETTLED_SECONDS)
            yield port
        finally:
            process.kill()
            process.wait()


def cost(limiter: ConcurrencyLimiter) -> tuple[float, float]:
    """Return what a start and an end cost in milliseconds: the median, and the 99th percentile."""
    taken = []
    for number in range(_ROUNDS):
        began = time.perf_counter()
        slot = limiter.acquire(most_open=1_000, most_per_hour=10 * _ROUNDS, wait=5.0)
        limiter.started(slot, str(number))
        limiter.ended(str(number))
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken), statistics.quantiles(taken, n=100)[98]


def share_an_org(port: int | None) -> tuple[int, int, float]:
    """Let processes hold conversations in an org that allows them *_CAP* sessions together.

    :param port: of the Redis by which they share it.
    :returns: how many starts the org refused, how many it granted, and the share of the ideal time.
    """
    with Emulator(max_concurrent_sessions=_CAP, max_sessions_per_hour=100_000) as org:
        org.fail("send", delay=_ANSWER_SECONDS, times=_PROCESSES * _CONVERSATIONS)
        given = {**_fields(org), "port": port, "conversations": _CONVERSATIONS, "threads": _CAP}
        began = time.monotonic()
        _run([{**given, "group": f"dag-{number}"} for number in range(_PROCESSES)])
        taken = time.monotonic() - began
        starts = [request.status for request in org.requests if request.operation == "start"]
        ideal = _PROCESSES * _CONVERSATIONS * _ANSWER_SECONDS / _CAP
        return starts.count(429), starts.count(200), ideal / taken


def log_in(*, share_token: bool) -> int:
    """Let as many processes as mapped tasks hold a conversation each, and return how often they logged in."""
    with Emulator() as org, tempfile.TemporaryDirectory() as folder:
        given = {
            **_fields(org),
            "share_token": share_token,
            "conversations": 1,
            "threads": 1,
            "folder": folder,
        }
        _run([given] * _TASKS)
        return org.tokens_issued


def _fields(org: Emulator) -> dict[str, Any]:
    return {
        "host": org.url,
        "consumer_key": org.consumer_key,
        "consumer_secret": org.consumer_secret,
        "agent_id": org.agent_id,
        "api_url": org.url,
    }


def _run(given: list[dict[str, Any]]) -> None:
    processes = [
        subprocess.Popen([sys.executable, __file__, json.dumps(one)])  # noqa: S603
        for one in given
    ]
    assert [process.wait() for process in processes] == [0] * len(given)


def _child(given: dict[str, Any]) -> None:
    tempfile.tempdir = given.pop("folder", None)
    port, group = given.pop("port", None), given.pop("group", "")
    conversations, threads = given.pop("conversations"), given.pop("threads")
    limits = port and LimitsStore(redis.Redis(port=port), "org", group=group)
    settings = replace(Settings(**given), max_concurrent_sessions=_CAP, max_sessions_per_hour=100_000)
    client = AgentforceClient(settings, limits=limits or None)

    def talk(_number: int) -> None:
        done = False
        while not done:
            with suppress(RateLimitedError), client.conversation() as chat:
                chat.send("Hello")
                done = True

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(talk, range(conversations)))


def main() -> list[Row]:
    """Measure, and return the rows of the report."""
    with redis_server() as port:
        alone = cost(ConcurrencyLimiter())
        shared = cost(SharedLimiter(LimitsStore(redis.Redis(port=port), "cost")))
        refused, granted, efficiency = share_an_org(port)
    refused_alone, granted_alone, efficiency_alone = share_an_org(None)
    logins, logins_alone = log_in(share_token=True), log_in(share_token=False)
    in_all = _PROCESSES * _CONVERSATIONS
    return [
        Row(
            "Limits shared in Redis on loopback: a session's start and end, median and 99th percentile",
            "",
            f"{shared[0]:.2f} and {shared[1]:.2f} ms (in the process alone: {alone[0]:.3f} and "
            f"{alone[1]:.3f} ms)",
        ),
        Row(
            f"{_PROCESSES} processes of two Dags on an org that allows {_CAP} sessions, {in_all:,} "
            "conversations: starts refused",
            "at most 1 of 1,000",
            f"{refused} of {granted + refused:,} (without Redis: {refused_alone} of "
            f"{granted_alone + refused_alone:,})",
            reached=refused <= in_all / 1000,
        ),
        Row(
            "The same: share of the time in which no session is free",
            "",
            f"{efficiency:.1%} (without Redis: {efficiency_alone:.1%})",
        ),
        Row(
            f"Logins of {_TASKS} processes that begin at once, with `share_token`",
            "1",
            f"{logins} (without: {logins_alone})",
            reached=logins == 1,
        ),
    ]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _child(json.loads(sys.argv[1]))
    else:
        print(table(main()))
