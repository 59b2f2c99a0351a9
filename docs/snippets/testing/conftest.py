"""Give the tests their own Airflow, and an org."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

# [START fixtures]
pytest_plugins = ["airflow_provider_agentforce.emulator.pytest_plugin"]

HERE = Path(__file__).parent
# Airflow reads these when it is imported for the first time.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp()
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(HERE)


@pytest.fixture(scope="session")
def airflow_db():
    """Make the SQLite database that ``dag.test()`` needs."""
    subprocess.run(["airflow", "db", "migrate"], check=True)


@pytest.fixture(scope="session")
def agentforce_emulator_settings():
    """Answer as the agent of these tests does."""
    return {"script": HERE / "agent.yaml"}


# [END fixtures]
