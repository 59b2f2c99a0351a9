"""Runs the example Dags, each with ``airflow dags test`` against an org of its own.

A Dag that not every Airflow can load says so in its file, ``# needs: apache-airflow>=3.1`` for instance.
Where that is missing, the Dag is not run; its file still has to load without an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

from airflow_provider_agentforce.emulator import Emulator, SessionRecord

FOLDER = Path(__file__).resolve().parent.parent / "example_dags"
_NEEDS = re.compile(r"^# needs: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """What became of one example Dag."""

    dag_id: str
    worked: bool
    missing: tuple[str, ...] = ()  # what its file needs and this environment has not, so it was not run
    sessions: tuple[SessionRecord, ...] = ()
    left_open: tuple[str, ...] = ()
    output: str = field(default="", repr=False)


class Examples:
    """The example Dags, with an Airflow of their own beside the running Python.

    :param home: folder for Airflow, emptied.
    :param out: folder for what the Dags write, and for the logs; emptied.
    """

    def __init__(self, home: Path, out: Path) -> None:
        self.home = home.resolve()
        self.out = out.resolve()

    def set_up(self) -> Run:
        """Make Airflow's database."""
        for folder in (self.home, self.out):
            shutil.rmtree(folder, ignore_errors=True)
        (self.out / "logs").mkdir(parents=True)
        worked, output = self._call({}, "migrate", "airflow", "db", "migrate")
        return Run("airflow db migrate", worked, output=output)

    def run(self) -> Iterator[Run]:
        """Run one after the other: each stores every Dag of the folder, and two at once collide in that."""
        for path in sorted(FOLDER.glob("example_*.py")):
            missing = tuple(
                one for one in _NEEDS.findall(path.read_text()) if not _is_there(Requirement(one))
            )
            yield self._load(path, missing) if missing else self._test(path.stem)

    def _test(self, dag_id: str) -> Run:
        with Emulator() as org:
            env = {
                "AIRFLOW_CONN_AGENTFORCE_DEFAULT": org.connection(),
                "AGENTFORCE_EXAMPLE_OUTPUT": str(self.out),
            }
            worked, output = self._call(env, dag_id, "airflow", "dags", "test", dag_id)
        left_open = tuple(org.open_sessions)
        return Run(
            dag_id,
            worked and not left_open,
            sessions=tuple(org.sessions.values()),
            left_open=left_open,
            output=output,
        )

    def _load(self, path: Path, missing: tuple[str, ...]) -> Run:
        worked, output = self._call({}, path.stem, "python", str(path))
        return Run(path.stem, worked, missing=missing, output=output)

    def _call(self, env: dict[str, str], name: str, program: str, *arguments: str) -> tuple[bool, str]:
        settings = {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(FOLDER),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            **env,
        }
        command = [str(Path(sys.executable).with_name(program)), *arguments]
        log = self.out / "logs" / f"{name}.log"
        with log.open("w") as output:
            code = subprocess.run(  # noqa: S603 - our own command
                command, env={**os.environ, **settings}, stdout=output, stderr=output, check=False
            ).returncode
        return code == 0, log.read_text()


def _is_there(needed: Requirement) -> bool:
    try:
        return needed.specifier.contains(version(needed.name), prereleases=True)
    except PackageNotFoundError:
        return False
