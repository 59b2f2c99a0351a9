import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import batches
from quick import quick_process

from airflow_provider_agentforce.client.org_state import forget_orgs
from airflow_provider_agentforce.emulator import Emulator


class Gate:
    """An agent that answers at once until it has been asked so often; then it waits."""

    def __init__(self):
        self.reached = threading.Event()
        self.open = threading.Event()
        self.after = None
        self.asked = 0
        self._lock = threading.Lock()

    def answer(self, turn):
        with self._lock:
            self.asked += 1
            shut = self.after is not None and self.asked > self.after
        if shut:
            self.reached.set()
            assert self.open.wait(60)
        return f"This is about: {turn.text}"


@pytest.fixture(autouse=True)
def quick():
    """Wait a moment instead of seconds, and forget the limits that other tests used up."""
    with quick_process():
        yield


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def make_org(gate):
    """Start emulators; a fault that no request met fails the test."""
    running = []

    def start(**settings):
        emulator = Emulator(**{"script": gate.answer, "max_sessions_per_hour": 100_000, **settings})
        emulator.start()
        running.append(emulator)
        return emulator

    yield start
    unused = [fault for emulator in running for fault in emulator.unused_faults()]
    for emulator in running:
        emulator.stop()
    assert unused == []


@pytest.fixture
def org(make_org):
    return make_org()


@pytest.fixture
def fields(org):
    return batches.Org(org).fields()


@pytest.fixture
def make_client(org):
    built = []

    def build(of=None, **replaced):
        # A process has one client; another one here stands for another process.
        forget_orgs()
        client = batches.client_of(batches.Org(of or org).fields(**replaced))
        built.append(client)
        return client

    yield build
    for client in built:
        client.close()


@pytest.fixture
def client(make_client):
    return make_client()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results"
