import pytest
from emulator_caller import Caller

from airflow_provider_agentforce.emulator import Emulator


@pytest.fixture
def make_org():
    """Start emulators that are stopped with the test."""
    running = []

    def start(**settings):
        emulator = Emulator(**settings)
        emulator.start()
        running.append(emulator)
        return emulator

    yield start
    for emulator in running:
        emulator.stop()


@pytest.fixture
def make_caller(make_org):
    """Start an emulator and return a caller that is logged in to it."""
    callers = []

    def build(**settings):
        caller = Caller(make_org(**settings)).login()
        callers.append(caller)
        return caller

    yield build
    for caller in callers:
        caller.http.close()


@pytest.fixture(scope="session")
def shared_org():
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def caller(shared_org):
    """A caller of an emulator with default settings in which nothing else has happened."""
    shared_org.reset()
    with Caller(shared_org) as caller:
        yield caller.login()
    shared_org.reset()


@pytest.fixture
def org(caller):
    return caller.org
