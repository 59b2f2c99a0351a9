import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from quick import fields_of

from airflow_provider_agentforce.client.org_state import forget_orgs

PATIENT = {"timeout": 20.0}


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


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def make_org(make_org, gate):
    """Start emulators whose agent answers through the gate."""
    usual = {"script": gate.answer, "max_sessions_per_hour": 100_000}
    return lambda **settings: make_org(**{**usual, **settings})


@pytest.fixture
def org(make_org):
    return make_org()


@pytest.fixture
def fields(org):
    return fields_of(org, **PATIENT)


@pytest.fixture
def make_client(make_client, org):
    def build(of=None, **replaced):
        # A process has one client; another one here stands for another process.
        forget_orgs()
        return make_client(of or org, **{**PATIENT, **replaced})

    return build


@pytest.fixture
def client(make_client):
    return make_client()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results"
