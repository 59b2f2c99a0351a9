"""The tests that docs/testing.md shows, in the Airflow of these tests; CI also runs them as a user does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTING = Path(__file__).resolve().parents[2] / "docs" / "snippets" / "testing"
sys.path.insert(0, str(TESTING))

from test_orders import *  # noqa: E402, F403 - the tests

pytest_plugins = ["airflow_provider_agentforce.emulator.pytest_plugin"]


@pytest.fixture(scope="session")
def agentforce_emulator_settings():
    return {"script": TESTING / "agent.yaml"}
