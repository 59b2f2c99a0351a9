"""Runs the example Dags, each with ``airflow dags test`` against a separate org; one needs a scheduler.

Two run side by side, each in a separate Airflow, since SQLite lets only one of them write.

A Dag that not every Airflow can load says so in its file, ``# needs: apache-airflow>=3.1`` for instance.
Where that is missing, the Dag is not run; its file still has to load without an error.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import scheduled
from packaging.requirements import Requirement

from airflow_provider_agentforce.emulator import Emulator, SessionRecord

sys.path.append(str(scheduled.ROOT / "tests"))
from airflow_commands import AIRFLOW, BUNDLES, bundles, start

PERSON = Path(__file__).with_name("person.py")
ASKS_PEOPLE = {"example_agentforce_enrichment_sample", "example_agentforce_person"}
# The model of an LLM task: pydantic-ai's own for tests, which calls every tool once and needs no key.
MODEL = '{"conn_type": "pydanticai", "extra": {"model": "test"}}'
# From one conversation to many records, then to what people and tests decide, then to what goes wrong.
STORY = (
    *("conversation", "session", "decorator", "branch", "structured", "report", "loop"),
    *("enrichment", "batch", "enrichment_sample", "salesforce"),
    *("person", "llm_agent", "tests", "published"),
    *("unknown_delivery", "session_trace"),
)
FOLDER = Path(__file__).resolve().parent.parent / "example_dags"
_NEEDS = re.compile(r"^# needs: (.+)$", re.MULTILINE)

_SIDE_BY_SIDE = 2


@dataclass(frozen=True)
class Run:
    """The result of one example Dag."""

    dag_id: str
    worked: bool
    missing: tuple[str, ...] = ()  # what its file needs and this environment lacks, so it was not run
    sessions: tuple[SessionRecord, ...] = ()
    left_open: tuple[str, ...] = ()
    output: str = field(default="", repr=False)


class Examples:
    """The example Dags, with separate Airflows beside the running Python.

    :param home: folder for the Airflows, emptied.
    :param out: folder for what the Dags write, and for the logs; emptied.
    """

    def __init__(self, home: Path, out: Path) -> None:
        self.home = home.resolve()
        self.out = out.resolve()

    def run(self) -> Iterator[Run]:
        """Run all of them, and yield them in the order of the story."""
        for folder in (self.home, self.out):
            shutil.rmtree(folder, ignore_errors=True)
        self.home.mkdir(parents=True)
        (self.out / "logs").mkdir(parents=True)
        story = sorted(FOLDER.glob("example_*.py"), key=_place)
        with ProcessPoolExecutor(
            _SIDE_BY_SIDE, multiprocessing.get_context("spawn"), _choose_airflow, (self.home,)
        ) as pool:
            # The one with a scheduler takes the longest, so it begins first.
            runs = {
                path: pool.submit(self._run, path)
                for path in sorted(story, key=lambda path: path.stem != scheduled.WRITES)
            }
            for path in story:
                yield runs[path].result()

    def _run(self, path: Path) -> Run:
        missing = tuple(one for one in _NEEDS.findall(path.read_text()) if not _is_there(Requirement(one)))
        if missing:
            return self._load(path, missing)
        if path.stem == scheduled.WRITES:
            return self._schedule(path.stem)
        return self._test(path.stem)

    def _test(self, dag_id: str) -> Run:
        if not _database().exists():
            worked, output = self._call({}, f"{_database().parent.name}.migrate", AIRFLOW, "db", "migrate")
            if not worked:
                return Run(dag_id, worked=False, output=output)
        with Emulator() as org, self._person(dag_id) as person:
            command = AIRFLOW, "dags", "test", dag_id
            env = {**self._settings(org), BUNDLES: bundles(FOLDER / f"{dag_id}.py")}
            worked, output = self._call(env, dag_id, *command, beside=person)
        return _run_in(org, dag_id, output, worked=worked)

    def _schedule(self, dag_id: str) -> Run:
        home = self.home / "scheduled"
        dags = home / "dags"  # without those that the scheduler would start by their own schedule
        dags.mkdir(parents=True)
        shutil.copy(FOLDER / f"{dag_id}.py", dags)
        with Emulator() as org:
            failure = scheduled.run_both(home, dags, self._settings(org))
        return _run_in(org, dag_id, failure, worked=not failure)

    def _settings(self, org: Emulator) -> dict[str, str]:
        return {
            "AIRFLOW_CONN_AGENTFORCE_DEFAULT": org.connection(),
            "AIRFLOW_CONN_PYDANTICAI_DEFAULT": MODEL,
            "AGENTFORCE_EXAMPLE_OUTPUT": str(self.out),
        }

    @contextmanager
    def _person(self, dag_id: str) -> Iterator[BaseProcess | None]:
        if dag_id not in ASKS_PEOPLE:
            yield None
            return
        log = self.out / "logs" / f"{dag_id}.person.log"
        person = start([str(PERSON), dag_id], {**os.environ}, log)
        try:
            yield person
        finally:
            person.terminate()
            person.join()

    def _load(self, path: Path, missing: tuple[str, ...]) -> Run:
        worked, output = self._call({}, path.stem, str(path))
        return Run(path.stem, worked, missing, output=output)

    def _call(
        self, env: dict[str, str], name: str, *command: str, beside: BaseProcess | None = None
    ) -> tuple[bool, str]:
        log = self.out / "logs" / f"{name}.log"
        process = start([*command], {**os.environ, **env}, log)
        if beside is not None:
            wait([process.sentinel, beside.sentinel])
            if not beside.is_alive():
                process.terminate()  # it would wait for an answer forever
        process.join()
        return process.exitcode == 0, log.read_text()


def _choose_airflow(home: Path) -> None:
    """Choose a separate Airflow for this process. Airflow reads the choice when it is first imported."""
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-", dir=home)
    os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(FOLDER)
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    os.environ["AIRFLOW__DATABASE__CHECK_MIGRATIONS"] = "False"
    os.environ.setdefault("PYTHONWARNINGS", "ignore")


def _database() -> Path:
    return Path(os.environ["AIRFLOW_HOME"], "airflow.db")


def _run_in(org: Emulator, dag_id: str, output: str, *, worked: bool) -> Run:
    left_open = tuple(org.open_sessions)
    return Run(dag_id, worked and not left_open, (), tuple(org.sessions.values()), left_open, output)


def _place(path: Path) -> tuple[int, str]:
    name = path.stem.removeprefix("example_agentforce_")
    return (STORY.index(name) if name in STORY else len(STORY)), name


def _is_there(needed: Requirement) -> bool:
    try:
        return needed.specifier.contains(version(needed.name), prereleases=True)
    except PackageNotFoundError:
        return False
