"""An Airflow of many machines, all on this one: two Celery workers on PostgreSQL and Redis, and an S3 store.

Everything lies in one folder and listens on free ports of the loopback address. Each part leads a session of
processes, which stands for a machine: to lose it means to lose all of its processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import psutil
from cluster_services import BUCKET, POSTGRESQL, SERVICES, Services, find_packages
from process_guard import Guard, members
from real_airflow import RealAirflow, kill, until

WORKERS = ("worker-1", "worker-2")
_WRONG_CLOCK = Path(__file__).with_name("wrong_clock")
_WORKER = ("celery", "worker", "--skip-serve-logs", "--without-gossip", "--without-mingle")
_SETTINGS = {
    "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
    "AIRFLOW__CORE__PARALLELISM": "16",
    "AIRFLOW__CELERY__WORKER_CONCURRENCY": "3",
    "AIRFLOW__CELERY__SYNC_PARALLELISM": "1",
    # Redis delivers again what a worker has had for so long, whether it is lost or at work.
    "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "30",
    # A busy machine takes its time to hand a task to the broker.
    "AIRFLOW__CELERY__OPERATION_TIMEOUT": "10",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
    # The next triggerer takes over what one that is gone has left.
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
}


class Cluster(RealAirflow):
    """One Airflow with two Celery workers, and what they stand on.

    :param home: its folder, empty; removed in the end.
    :param dags: the folder with the Dags.
    :param environment: more environment variables for every process.
    :cvar store: the URI of a bucket that all workers reach.
    """

    parts: ClassVar = {
        **RealAirflow.parts,
        **{name: [*_WORKER, "--celery-hostname", name] for name in WORKERS},
    }
    at_start: ClassVar = ("api-server", "scheduler", "dag-processor", "triggerer", *WORKERS)
    run_tasks: ClassVar = WORKERS
    store = f"s3://aws_default@{BUCKET}"

    def __init__(self, home: Path, dags: Path, environment: dict[str, str]) -> None:
        home.chmod(0o711)  # PostgreSQL runs as another user
        self.services = Services(home)
        self._guard = Guard(home)
        # How its parts differ from how they are started normally.
        self._changes: dict[str, dict[str, str]] = {}
        self._printed: dict[str, int] = {}
        shared = {"AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"), "AGENTFORCE_STORE": self.store}
        super().__init__(home, dags, {**_SETTINGS, **self.services.settings(), **shared, **environment})

    # -- its parts

    def start(self, dag_ids: set[str]) -> None:
        """Start everything, and wait until it knows the Dags and the workers take tasks."""
        self.services.prepare()
        for name in SERVICES:
            self.start_part(name)
        for name in SERVICES:
            self.wait_for_part(name)
        super().start(dag_ids)
        for name in WORKERS:
            self.wait_for_part(name)

    def start_part(self, name: str, **environment: str) -> None:
        """Start one of its parts.

        :param environment: how its environment differs; a worker's folder is its ``AIRFLOW_HOME``.
        """
        self._changes[name] = environment
        out = self.home / f"{name}.out"
        self._printed[name] = out.stat().st_size if out.exists() else 0
        super().start_part(name)

    def wait_for_part(self, name: str) -> None:
        """Wait until a service answers, a worker takes tasks, another part reports that it is well."""
        if name in SERVICES:
            until(f"{name} answers", lambda: self.services.answers(name))
        elif name in WORKERS:
            until(f"{name} takes tasks", lambda: f"{name} ready." in self.printed(name))
        else:
            until(f"{name} is well", self._healthy)

    def printed(self, name: str) -> str:
        """Return what a part has printed since it was started."""
        body = (self.home / f"{name}.out").read_bytes()
        return body[self._printed[name] :].decode(errors="replace")

    def shut_down(self, name: str) -> subprocess.Popen[bytes]:
        """Have a part stop, as an operating system stops a service; do not wait for it."""
        process = self._processes[name]
        process.send_signal(self.services.signal_of(name))
        return process

    def restart(self, name: str) -> None:
        """Stop a part, and start it again."""
        self.shut_down(name).wait(300)
        self.start_part(name)
        self.wait_for_part(name)

    def lose(self, name: str) -> float:
        """Lose the machine of a part: kill all its processes. Return when."""
        at = kill(*self.processes_of(name))
        self._processes[name].wait(10)
        return at

    def freeze(self, name: str) -> None:
        """Stop all processes of a part where they are."""
        while any(one.status() != psutil.STATUS_STOPPED for one in self.processes_of(name)):
            kill(*self.processes_of(name), by=signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let a frozen part go on."""
        kill(*self.processes_of(name), by=signal.SIGCONT)

    def skew(self, name: str, offset: str) -> None:
        """Start a part, which must not run, with a clock that is wrong.

        :param offset: such as ``-5m``.
        """
        environment = {
            "LD_PRELOAD": str(find_packages()["libfaketime"]),
            "FAKETIME": offset,
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": os.pathsep.join([str(_WRONG_CLOCK), self._environment.get("PYTHONPATH", "")]),
        }
        self.start_part(name, **environment)
        self.wait_for_part(name)

    def heal(self) -> None:
        """Start what does not run, or runs in a changed environment, as a service manager does.

        Workers take tasks as soon as they are ready.
        """
        for parts in (SERVICES, self.at_start):
            ended = [name for name in parts if self._has_ended(name)]
            for name in ended:
                self.start_part(name)
            for name in ended:
                if name not in WORKERS:
                    self.wait_for_part(name)

    def _has_ended(self, name: str) -> bool:
        """Return whether a part does not run. One that runs in a changed environment is ended first."""
        if self._changes[name]:
            self.lose(name)
        return self._processes[name].poll() is not None

    def processes_of(self, name: str) -> list[psutil.Process]:
        """Return the processes of a part that are alive."""
        return members([self._processes[name].pid])

    def worker_of(self, process: psutil.Process) -> str:
        """Return the worker that a process belongs to."""
        session = os.getsid(process.pid)
        return next(name for name in WORKERS if self._processes[name].pid == session)

    def stop(self) -> None:
        """End everything that was started and everything that came of it."""
        self._guard.close()
        for process in self._processes.values():
            process.wait(10)
        self._http.close()

    def _command(self, name: str) -> list[str]:
        return self.services.command(name) if name in SERVICES else super()._command(name)

    def _folder_of(self, name: str) -> Path:
        if name not in WORKERS:
            return super()._folder_of(name)
        (self.home / name).mkdir(exist_ok=True)
        return self.home / name

    def _environment_of(self, name: str) -> dict[str, str]:
        own = {"AIRFLOW_HOME": str(self._folder_of(name))}
        return {**self._environment, **own, **self._changes.get(name, {})}

    def _spawn(self, name: str, command: list[str], out: Any, **options: Any) -> subprocess.Popen[bytes]:
        before = self._processes.get(name)
        if before is not None:
            self._guard.forget(before.pid)
        started = super()._spawn(name, command, out, **options, **self.services.options(name))
        # PostgreSQL leaves shared memory behind when it is killed.
        self._guard.watch(started.pid, by=signal.SIGQUIT if name == POSTGRESQL else signal.SIGKILL)
        return started
