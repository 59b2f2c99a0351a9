"""A Redis for these tests, empty for each of them.

They need Debian's package ``redis-server``, so they run with ``make test-cluster``; without it they fail.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from real_airflow import left_out  # noqa: E402
from redis_and_takers import BEAT, LEASE, Redis, Taker, until  # noqa: E402


def pytest_ignore_collect(collection_path, config):
    return left_out(HERE, "AGENTFORCE_CLUSTER_TESTS", collection_path, config)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    server = Redis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()
    server.client.close()


@pytest.fixture
def store(redis_server):
    """The Redis, empty, and up for so long that it lets sessions start at once."""
    redis_server.empty()
    until(lambda: redis_server.up_for() >= 3 * BEAT)
    yield redis_server
    redis_server.signal(signal.SIGCONT)
    redis_server.start()


@pytest.fixture
def taker(store, tmp_path):
    started = []

    def start(**asked):
        given = {"port": store.port, "lease": LEASE, "beat": BEAT, "group": "a", "threads": 4, "hold": 0.05}
        started.append(Taker(tmp_path / f"taker-{len(started)}.log", {**given, **asked}))
        return started[-1]

    yield start
    for one in started:
        one.process.send_signal(signal.SIGCONT)
        one.process.kill()
        one.process.wait()
        one.process.stdin.close()
