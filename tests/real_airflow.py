"""An Airflow of three processes, with LocalExecutor on SQLite: started, asked through REST, stopped.

For the tests that start one, which run only when asked for: by name, or by a variable.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

import psutil
import requests

BIN = Path(sys.executable).parent
DONE = ("success", "failed")
_POLL_S, _LONGEST_POLL_S = 0.1, 0.5
_STOP_S = 10

Found = TypeVar("Found")


def until(what: str, look: Callable[[], Found | None], *, timeout: float = 300) -> Found:
    """Look again and again until there is something to see; the only place in this suite that sleeps.

    The longer it takes, the less often: looking costs CPU time that what is waited for needs.
    """
    begun = time.monotonic()
    end = begun + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"Not within {timeout} s: {what}; last seen: {found!r}")
        time.sleep(min(_LONGEST_POLL_S, max(_POLL_S, (time.monotonic() - begun) / 20)))


@contextlib.contextmanager
def running(airflow: RealAirflow, dag_ids: set[str]) -> Iterator[RealAirflow]:
    """Have it run, with these Dags; stop it in any case, and show what it printed if it did not start."""
    try:
        airflow.start(dag_ids)
        yield airflow
    except TimeoutError as error:
        error.add_note(airflow.output()) if hasattr(error, "add_note") else None
        raise
    finally:
        airflow.stop()


def left_out(here: Path, variable: str, path: Path, config: Any) -> bool | None:
    """Answer ``pytest_ignore_collect`` for tests in *here* that run only when asked for.

    :param variable: that of the environment which asks for them with ``1``.
    """
    start = config.invocation_params.dir
    given = [Path(start, str(one).partition("::")[0]).resolve() for one in config.invocation_params.args]
    if os.environ.get(variable) == "1" or any(here in (one, *one.parents) for one in given):
        return None
    return True if here in (path, *path.parents) else None


class RealAirflow:
    """One Airflow for all tests.

    :param home: its folder, empty.
    :param dags: the folder with the Dags.
    :param environment: more environment variables for every process.
    :param path: what its address has behind the port.
    :cvar parts: the arguments of each of its processes.
    :cvar at_start: those that are started with it.
    :cvar run_tasks: those that tasks run below.
    """

    parts: ClassVar = {
        "api-server": ["api-server"],
        "scheduler": ["scheduler", "--skip-serve-logs"],
        "dag-processor": ["dag-processor"],
        "triggerer": ["triggerer", "--skip-serve-logs"],
    }
    at_start: ClassVar = ("api-server", "scheduler", "dag-processor")
    run_tasks: ClassVar = ("scheduler",)

    def __init__(self, home: Path, dags: Path, environment: dict[str, str], path: str = "") -> None:
        self.home = home
        self.url = f"http://127.0.0.1:{free_port()}{path}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._orphans: list[psutil.Process] = []
        self._http = requests.Session()
        self._environment = {**os.environ, **_settings(home, dags, self.url), **environment}

    # -- its processes

    def start(self, dag_ids: set[str]) -> None:
        """Start it and wait until it knows the Dags."""
        with (self.home / "migrate.out").open("wb") as out:
            self._spawn("db", [str(BIN / "airflow"), "db", "migrate"], out).wait(120)
        for name in self.at_start:
            self.start_part(name)
        until("the API server answers", self._log_in)
        until("its other parts run", self._healthy)
        until("the Dags are known", lambda: dag_ids <= self._dag_ids())

    def start_part(self, name: str) -> None:
        """Start one of its processes."""
        with (self.home / f"{name}.out").open("ab") as out:
            self._processes[name] = self._spawn(name, self._command(name), out)

    def stop_part(self, name: str) -> None:
        """Stop one of its processes with all that came of it, as an operating system stops a service."""
        parts = _with_descendants(self._processes[name].pid)
        kill(*parts, by=signal.SIGTERM)
        self._processes[name].wait(6 * _STOP_S)
        _, alive = psutil.wait_procs(parts, timeout=_STOP_S)
        assert not alive, alive

    def follow(self, process: psutil.Process) -> None:
        """Remember a process whose parent is about to be killed, so that it cannot be left behind."""
        self._orphans.append(process)

    def stop(self) -> None:
        """End everything that was started and everything that came of it."""
        family = self.family()
        for process in self._processes.values():
            process.terminate()
        # The scheduler waits for running tasks; what is still there after a while is killed.
        psutil.wait_procs(family, timeout=_STOP_S)
        for one in {*family, *self.family()}:
            if one.is_running():
                one.kill()
        for process in self._processes.values():
            process.wait(_STOP_S)
        self._http.close()

    def family(self) -> list[psutil.Process]:
        """Return the processes that are alive, with all their descendants."""
        parts = [one for process in self._processes.values() for one in _with_descendants(process.pid)]
        return [*parts, *(one for one in self._orphans if one.is_running())]

    def task_runner(self, ti_id: str) -> psutil.Process:
        """Return the process that runs the operator; its parent supervises it."""
        title = f"airflow worker -- {ti_id}"
        return until("the task's process", lambda: self._titled(title), timeout=10)

    def task_runners(self) -> list[psutil.Process]:
        """Return the processes of all running tasks."""
        pids = [self._processes[name].pid for name in self.run_tasks if name in self._processes]
        started = [one for pid in pids for one in _with_descendants(pid)]
        return [
            one
            for one in [*started, *self._orphans]
            if _title(one).startswith("airflow worker -- ") and "LocalExecutor" not in _title(one)
        ]

    def output(self, lines: int = 15) -> str:
        """Return the last lines that its processes printed, for a failed start."""
        parts = []
        for path in sorted(self.home.glob("*.out")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append(f"--- {path.name}\n" + "\n".join(tail))
        return "\n".join(parts)

    def _command(self, name: str) -> list[str]:
        return [str(BIN / "airflow"), *self.parts[name]]

    def _folder_of(self, name: str) -> Path:
        """Return the folder that one of its processes works in."""
        return self.home

    def _environment_of(self, name: str) -> dict[str, str]:
        """Return the environment of one of its processes."""
        return self._environment

    def _spawn(self, name: str, command: list[str], out: Any, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            env=self._environment_of(name),
            cwd=self._folder_of(name),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )

    def _titled(self, title: str) -> psutil.Process | None:
        return next((one for one in self.task_runners() if _title(one).startswith(title)), None)

    # -- its REST API

    def trigger(self, dag_id: str, **params: Any) -> Run:
        """Start a run of a Dag."""
        made = self.ask("POST", f"dags/{dag_id}/dagRuns", {"logical_date": None, "conf": params})
        return Run(self, dag_id, made["dag_run_id"])

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make one call."""
        answer = self._http.request(method, f"{self.url}/api/v2/{path}", json=body, timeout=60)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else {}

    def _log_in(self) -> bool:
        self._check_alive()
        try:
            answer = self._http.get(f"{self.url}/auth/token", timeout=30)
        except (requests.ConnectionError, requests.Timeout):
            return False
        if answer.ok:
            self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return answer.ok

    def _healthy(self) -> bool:
        self._check_alive()
        health = self.ask("GET", "monitor/health")
        asked = [name.replace("-", "_") for name in self.at_start if name != "api-server"]
        return all(health[part]["status"] == "healthy" for part in asked if part in health)

    def _dag_ids(self) -> set[str]:
        errors = self.ask("GET", "importErrors")["import_errors"]
        assert not errors, errors[0]["stack_trace"]
        return {dag["dag_id"] for dag in self.ask("GET", "dags")["dags"]}

    def _check_alive(self) -> None:
        for name, process in self._processes.items():
            assert process.poll() is None, f"{name} ended with {process.returncode}.\n{self.output()}"


class Run:
    """One run of a Dag."""

    def __init__(self, airflow: RealAirflow, dag_id: str, run_id: str) -> None:
        self.airflow = airflow
        self.dag_id = dag_id
        self.run_id = run_id
        self._path = f"dags/{dag_id}/dagRuns/{run_id}"

    def wait(self, timeout: float = 300, meanwhile: Callable[[], None] = lambda: None) -> str:
        """Wait for the end of the run and return its state.

        :param meanwhile: is called again and again until then.
        """

        def state() -> str | None:
            meanwhile()
            found = self.airflow.ask("GET", self._path)["state"]
            return found if found in DONE else None

        return until(f"{self.dag_id} has ended", state, timeout=timeout)

    def task(self, task_id: str) -> dict[str, Any]:
        """Return a task instance as the REST API shows it."""
        return self.airflow.ask("GET", f"{self._path}/taskInstances/{task_id}")

    def wait_for(self, task_id: str, *states: str, timeout: float = 300) -> dict[str, Any]:
        """Wait until a task is in one of the states."""

        def there() -> dict[str, Any] | None:
            found = self.task(task_id)
            return found if found["state"] in states else None

        return until(f"{task_id} is {' or '.join(states)}", there, timeout=timeout)

    def states(self) -> dict[str, str]:
        """Return the states of all tasks."""
        found = self.airflow.ask("GET", f"{self._path}/taskInstances")["task_instances"]
        return {one["task_id"]: one["state"] for one in found}

    def runner(self, task_id: str) -> psutil.Process:
        """Return the process that runs a task."""
        return self.airflow.task_runner(self.task(task_id)["id"])

    def asked(self, task_id: str, state: str = "awaiting_input") -> dict[str, Any]:
        """Wait until a task asks a person, and return what the person sees."""
        waiting = self.wait_for(task_id, state)
        # Airflow 3.3 fails a task that is answered before its scheduler has heard that the worker is free.
        key = f"TaskInstanceKey(dag_id='{self.dag_id}', task_id='{task_id}', run_id='{self.run_id}'"
        this_try = f"{key}, try_number={waiting['try_number']},"
        # Up to 3.3, from 3.4.
        heard = [f"with state success for task instance {one}" for one in (this_try, waiting["id"])]
        out = self.airflow.home / "scheduler.out"
        until("the scheduler has heard of the wait", lambda: any(one in out.read_text() for one in heard))
        return self.airflow.ask("GET", f"{self._path}/taskInstances/{task_id}/-1/hitlDetails")

    def answer(self, task_id: str, option: str, fields: dict[str, str]) -> None:
        """Answer what a task asks, as a person does."""
        path = f"{self._path}/taskInstances/{task_id}/-1/hitlDetails"
        self.airflow.ask("PATCH", path, {"chosen_options": [option], "params_input": fields})

    def mark_failed(self, task_id: str) -> None:
        """Mark a task failed, as a person does."""
        self.airflow.ask("PATCH", f"{self._path}/taskInstances/{task_id}", {"new_state": "failed"})

    def clear(self, task_id: str) -> None:
        """Clear one task, as a person does."""
        body = {
            "dry_run": False,
            "dag_run_id": self.run_id,
            "task_ids": [task_id],
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self.airflow.ask("POST", f"dags/{self.dag_id}/clearTaskInstances", body)

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        """Return a value that a task left."""
        answer = self.airflow.ask(
            "GET", f"{self._path}/taskInstances/{task_id}/xcomEntries/{key}?deserialize=true"
        )
        return answer["value"]

    def log(self, task_id: str, try_number: int) -> str:
        """Return what a try logged: the texts and the errors, a line each."""
        logs = self.airflow.home / "logs" / f"dag_id={self.dag_id}" / f"run_id={self.run_id}"
        path = logs / f"task_id={task_id}" / f"attempt={try_number}.log"
        return "\n".join(_words(line) for line in path.read_text().splitlines()) if path.exists() else ""


def kill(*processes: psutil.Process, by: signal.Signals = signal.SIGKILL) -> float:
    """Send a signal to the processes and return when."""
    at = time.time()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(by)
    return at


def named_in(log: str, org: Any) -> bool:
    """Tell whether every session that is open is one that the log names."""
    return all(f"Session {session_id} may still be open" in log for session_id in org.open_sessions)


def _with_descendants(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _words(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    errors = [f"{one['exc_type']}: {one['exc_value']}" for one in entry.get("error_detail") or []]
    return " | ".join([str(entry.get("event", "")), *errors])


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _settings(home: Path, dags: Path, url: str) -> dict[str, str]:
    sections = {
        "CORE": {
            "EXECUTOR": "LocalExecutor",
            "PARALLELISM": "2",
            "DAGS_FOLDER": str(dags),
            "LOAD_EXAMPLES": "False",
            "DAGS_ARE_PAUSED_AT_CREATION": "False",
            "SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            # The beta of Airflow 3.4 waits that long for each task that it stops, and its scheduler does not
            # survive one that is silent for longer than the heartbeat's timeout meanwhile.
            "KILLED_TASK_CLEANUP_TIME": "4",
            "EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "FERNET_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        },
        "API": {
            "HOST": "127.0.0.1",
            "PORT": str(urlsplit(url).port),
            "BASE_URL": url,
            "WORKERS": "1",
        },
        "API_AUTH": {"JWT_SECRET": secrets.token_hex(64)},
        # Each process would import the tools of migrations for it.
        "DATABASE": {"CHECK_MIGRATIONS": "False"},
        "DAG_PROCESSOR": {"MIN_FILE_PROCESS_INTERVAL": "3600"},
        # A task that is gone without a word is noticed within seconds.
        "SCHEDULER": {
            "SCHEDULER_HEARTBEAT_SEC": "1",
            "SCHEDULER_IDLE_SLEEP_TIME": "0.2",
            "TASK_INSTANCE_HEARTBEAT_TIMEOUT": "8",
            "TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
        },
        # On a busy machine the API server takes longer than the default of 5 s, which fails the task.
        "WORKERS": {"MIN_HEARTBEAT_INTERVAL": "1", "EXECUTION_API_TIMEOUT": "30"},
        "USAGE_DATA_COLLECTION": {"ENABLED": "False"},
    }
    options = {
        f"AIRFLOW__{section}__{name}": value
        for section, names in sections.items()
        for name, value in names.items()
    }
    # Airflow starts its parts by name.
    return {**options, "AIRFLOW_HOME": str(home), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
