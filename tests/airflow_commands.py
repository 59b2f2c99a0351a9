"""Runs commands of Airflow in processes that are forked from one that has imported it, for a quick start."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest.mock import patch

AIRFLOW = str(Path(sys.executable).with_name("airflow"))
BUNDLES = "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["warm_airflow"])


def bundles(*paths: Path) -> str:
    """Return the value of ``BUNDLES`` for files and folders. A run parses and stores every Dag of one."""
    kind = "airflow.dag_processing.bundles.local.LocalDagBundle"
    return json.dumps(
        [{"name": f"tests-{path.stem}", "classpath": kind, "kwargs": {"path": str(path)}} for path in paths]
    )


def start(command: list[str], environment: dict[str, str], log: Path) -> BaseProcess:
    """Start a Python program, with its arguments; all that it prints goes to a file.

    :param environment: all its variables. Airflow's home is that of the first command of this process.
    """
    process = _PROCESSES.Process(target=_run, args=(command, environment, log))
    found = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(found)):  # where warm_airflow is
        process.start()
    return process


def _run(command: list[str], environment: dict[str, str], log: Path) -> None:
    with log.open("wb") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [*command]
    runpy.run_path(command[0], run_name="__main__")
