"""An Airflow of its own for these tests, in a temporary folder, and an org that every test starts afresh."""

from __future__ import annotations

import ast
import atexit
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from airflow_commands import AIRFLOW, BUNDLES, bundles, start
from stand_ins import RequiredActions, Task, TaskInstance

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TESTING = ROOT / "docs" / "snippets" / "testing"
# Airflow reads these when it is imported for the first time.
assert "airflow.configuration" not in sys.modules, "A module of another folder imports Airflow."
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="agentforce-tests-")
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ[BUNDLES] = bundles(HERE / "dags", HERE / "llm_dags", ROOT / "example_dags", TESTING)
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"
os.environ["AIRFLOW__USAGE_DATA_COLLECTION__ENABLED"] = "False"
# Every command would import the tools of migrations for it.
os.environ["AIRFLOW__DATABASE__CHECK_MIGRATIONS"] = "False"

from airflow_provider_agentforce._compat import mask_secret  # noqa: E402
from airflow_provider_agentforce.hooks import agentforce  # noqa: E402
from airflow_provider_agentforce.operators import StartSessionOperator  # noqa: E402


def pytest_collection_modifyitems(items):
    """Run Dags first: the first tests go to the same worker of xdist, so that one alone prepares Airflow."""
    items.sort(key=lambda item: "airflow_db" not in item.fixturenames)


@pytest.fixture(scope="session")
def airflow_db():
    """A migrated SQLite database."""
    done = subprocess.run([AIRFLOW, "db", "migrate"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return os.environ["AIRFLOW_HOME"]


@pytest.fixture
def environment(tmp_path):
    """Return the environment variables of a Dag run against an org."""
    return lambda org, **variables: {
        "AIRFLOW_CONN_AGENTFORCE_DEFAULT": org.connection(),
        "AGENTFORCE_EXAMPLE_OUTPUT": str(tmp_path),
        **variables,
    }


@pytest.fixture
def dag_bag(airflow_db):
    """Load Dags from a folder or a file. Airflow is imported here, after its environment is set."""
    try:
        from airflow.dag_processing.dagbag import DagBag  # noqa: PLC0415
    except ImportError:  # Airflow 2 and 3.0
        from airflow.models import DagBag  # noqa: PLC0415
    return DagBag


@pytest.fixture(scope="session")
def files():
    """Return the file of each Dag, by folder. Loading a file is a matter of seconds where there are many."""
    return {}


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """The folder whose Dags a run stores. Airflow 3.4 reads its name once in a process."""
    return tmp_path_factory.mktemp("bundle")


def alone(dag_id, file):
    """Return the source of a Dag, without most of the others of its file: a run stores all that are there."""
    source = ast.parse(file.read_text())

    def is_another(node):
        match node:
            case ast.With(items=[ast.withitem(ast.Call(ast.Name("DAG"), [ast.Constant(name), *_]))]):
                return name != dag_id
        return False

    source.body = [node for node in source.body if not is_another(node)]
    return ast.unparse(source)


@cache
def keep_loaded():
    """Keep the garbage collector from visiting what the first run has loaded, again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def dag_test(dag_bag, environment, files, bundle, monkeypatch, capfd):
    """Run a Dag in this process against an org, and give its exit status and output."""

    def run(dag_id, org, folder=HERE / "dags", conf=None, **variables):
        if folder not in files:
            bag = dag_bag(folder)
            assert bag.import_errors == {}
            files[folder] = {dag.dag_id: dag.fileloc for dag in bag.dags.values()}
        for stored_before in bundle.glob("*.py"):
            stored_before.unlink()
        file, stored = Path(files[folder][dag_id]), bundle / f"{dag_id}.py"
        if file.is_relative_to(HERE / "dags"):
            stored.write_text(alone(dag_id, file))
            file = stored
        else:
            stored.symlink_to(file)
        for name, value in {**environment(org, **variables), BUNDLES: bundles(bundle)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(agentforce, "mask_secret", mask_secret)
        bag = dag_bag(file)
        capfd.readouterr()
        with warnings.catch_warnings():
            # Airflow leaves an event loop, with a pair of sockets, to the garbage collector.
            warnings.filterwarnings("ignore", r"unclosed (event loop|.* family=1,)", ResourceWarning)
            state = bag.dags[dag_id].test(run_conf=conf).state
            keep_loaded()
            output = "".join(capfd.readouterr())
            if "running trigger in line" in output:
                gc.collect()
        return int(state != "success"), output

    return run


@pytest.fixture
def command(tmp_path):
    """Run a Python program, such as an Airflow command, to its end; give its exit status and output."""

    def run(*command, **environment):
        environment = {**os.environ, **environment}
        if any(name.startswith("AIRFLOW__METRICS__") for name in environment):
            # Airflow reads these when it is imported.
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout + done.stderr
        log = tmp_path / f"{uuid.uuid4()}.log"
        process = start([*command], environment, log)
        process.join()
        output = log.read_text()
        log.unlink()
        return process.exitcode, output

    return run


@pytest.fixture
def dag_command(airflow_db, environment, command):
    """Run ``airflow dags test`` against an org, and give its exit status and output.

    ``path`` is a file or a folder with the Dag.
    """

    def run(dag_id, org, path=HERE / "dags" / "dags.py", conf=None, **variables):
        more = ["-c", json.dumps(conf)] if conf else []
        env = {**environment(org, **variables), BUNDLES: bundles(path)}
        return command(AIRFLOW, "dags", "test", dag_id, *more, **env)

    return run


@pytest.fixture
def org(org, monkeypatch):
    """The org of the connection ``agentforce_default``."""
    monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection())
    return org


@pytest.fixture
def task_folder(tmp_path, monkeypatch):
    """Where stand-ins of tasks keep what Airflow does."""
    monkeypatch.setattr(Task, "folder", tmp_path, raising=False)


@pytest.fixture
def session(org, task_folder):
    """The output of a task that has started a session."""
    return Task(StartSessionOperator).run()


@pytest.fixture(autouse=True)
def same_environment():
    """Take back what a Dag that runs in this process leaves in the environment."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True)
def unmasked(monkeypatch):
    """Spare Airflow's masker the secrets of all tests: it compiles one pattern of all of them for each."""
    if masker := sys.modules.get("airflow.sdk._shared.secrets_masker"):  # not in Airflow 2
        masker.reset_secrets_masker()
    monkeypatch.setattr(agentforce, "mask_secret", lambda _secret: None)


@pytest.fixture
def actions(tmp_path, monkeypatch):
    """Stand in for the Required Actions."""
    from airflow.sdk.execution_time import task_runner  # noqa: PLC0415 - Airflow 3

    monkeypatch.setattr(Task, "folder", tmp_path, raising=False)
    actions = RequiredActions(tmp_path)
    # The process of a task has it; this one is none.
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", actions, raising=False)
    return actions


@pytest.fixture
def run():
    """Run an operator's ``execute`` and give its result and the XComs it pushed itself."""

    def execute(operator, context=None, **task_instance):
        ti = TaskInstance(**task_instance)
        value = error = None
        try:
            value = operator.execute({**(context or {}), "ti": ti})
        except Exception as raised:  # noqa: BLE001 - the test looks at it
            error = raised
        return SimpleNamespace(**vars(ti), value=value, error=error)

    return execute
