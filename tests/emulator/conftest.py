import pytest
from emulator_caller import Caller


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
