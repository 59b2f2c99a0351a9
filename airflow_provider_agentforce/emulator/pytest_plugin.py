"""Fixtures for the tests of people who write Dags.

Opt in from a ``conftest.py``::

    pytest_plugins = ["airflow_provider_agentforce.emulator.pytest_plugin"]

A test that programs a fault which no request meets does not test what it claims, so it fails.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from airflow_provider_agentforce.emulator import Emulator

_USED: pytest.StashKey[Emulator] = pytest.StashKey()


@pytest.fixture(scope="session")
def agentforce_emulator_settings() -> dict[str, Any]:
    """Keyword arguments of the session's :class:`Emulator`; override it to set a script or limits."""
    return {}


@pytest.fixture(scope="session")
def _agentforce_emulator_server(agentforce_emulator_settings: dict[str, Any]) -> Iterator[Emulator]:
    with Emulator(**agentforce_emulator_settings) as emulator:
        yield emulator


@pytest.fixture
def agentforce_emulator(
    request: pytest.FixtureRequest, _agentforce_emulator_server: Emulator
) -> Iterator[Emulator]:
    """Provide an org in which nothing has happened yet. All tests of a run share one server."""
    _agentforce_emulator_server.reset()
    request.node.stash[_USED] = _agentforce_emulator_server
    yield _agentforce_emulator_server
    _agentforce_emulator_server.reset()


@pytest.fixture
def agentforce_connection(agentforce_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> str:
    """Point the Airflow connection ``agentforce_default`` at the emulator; return the connection id."""
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", agentforce_emulator.connection())
    return "agentforce_default"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a passing test that left a programmed fault unused."""
    result = yield
    emulator = item.stash.get(_USED, None)
    unused = emulator.unused_faults() if emulator is not None else []
    if unused:
        pytest.fail(f"Programmed faults that no request met: {unused}", pytrace=False)
    return result
