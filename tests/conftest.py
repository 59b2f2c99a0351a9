"""What all tests share: quick waits, orgs, and clients of them.

The folder of this file is on the path, so that every test can import ``wire``, ``quick`` and ``stand_ins``.
"""

import gc
import signal

import pytest
from hypothesis import settings
from quick import fields_of, quick_process, watched_client
from real_airflow import RealAirflow

from airflow_provider_agentforce.client import Settings
from airflow_provider_agentforce.emulator import Emulator

settings.register_profile("tests", database=None, deadline=None, derandomize=True)
settings.load_profile("tests")
# Collecting makes hardly any garbage, and much that the garbage collector would visit again and again.
gc.disable()
# What runs the tests may block these; the tests, and the processes that they start, need them.
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})

PROXIES_AND_AUTHORITIES = (
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("requests_ca_bundle", "curl_ca_bundle"),
)


def pytest_collection_finish():
    """Keep the garbage collector from visiting what Airflow and all tests consist of, again and again."""
    gc.enable()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Show with a failure what the processes of a real Airflow printed."""
    report = yield
    if report.failed:
        for name, used in getattr(item, "funcargs", {}).items():
            if isinstance(used, RealAirflow):
                report.sections.append((name, used.output(lines=60)))
    return report


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Wait a moment instead of seconds between attempts, and forget the limits that other tests used up."""
    for name in PROXIES_AND_AUTHORITIES:
        for spelling in (name, name.upper()):
            monkeypatch.delenv(spelling, raising=False)
    with quick_process():
        yield


@pytest.fixture(scope="session")
def shared_org():
    """The emulator that the tests of a folder share."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def org(shared_org):
    """An org in which nothing has happened; every fault a test programs has to be met."""
    shared_org.reset()
    yield shared_org
    unused = shared_org.unused_faults()
    shared_org.reset()
    assert unused == []


@pytest.fixture
def make_org():
    """Start emulators that are stopped with the test; every fault that is programmed has to be met."""
    running = []

    def start(**settings):
        emulator = Emulator(**settings)
        emulator.start()
        running.append(emulator)
        return emulator

    yield start
    unused = [fault for emulator in running for fault in emulator.unused_faults()]
    for emulator in running:
        emulator.stop()
    assert unused == []


@pytest.fixture
def make_client(shared_org):
    """Build clients of an emulator; keyword arguments replace settings. They are closed with the test."""
    built = []

    def build(org=shared_org, *, on_secret=lambda _: None, observers=(), timing=None, **replaced):
        chosen = Settings(**fields_of(org, **replaced))
        client = watched_client(chosen, on_secret=on_secret, observers=observers, timing=timing)
        built.append(client)
        return client

    yield build
    for client in built:
        client.close()


@pytest.fixture
def client(org, make_client):
    return make_client(org)
