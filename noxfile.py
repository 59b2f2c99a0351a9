"""The versions that the package is run on: ``make matrix``, or one of ``nox --list``.

``smoke`` runs the example Dags, and the tests of what differs between Airflows, on each pair of Airflow and
Python; ``deliveries`` loses replies on an old Airflow, the newest and the next one; ``tests`` runs the whole
suite on the newest Airflow; ``processes`` kills and clears tasks of the next one; ``constraints`` installs
the package with Airflow's constraints file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["smoke"]

ROOT = Path(__file__).resolve().parent
NEWEST = "3.3.2"
# The next one, of which the index has a beta only; an installer takes that where it is named.
NEXT = "3.4.0b2"
BETA = (f"apache-airflow-core=={NEXT}", "apache-airflow-task-sdk==1.4.0b2")
# An older Airflow works with what was on the package index then, not with what is there now.
PAIRS = [
    ("3.10", "2.11.0", "2025-06-10"),
    ("3.11", "2.11.2", "2026-04-01"),
    ("3.12", "3.1.8", "2026-04-01"),
    ("3.13", "3.2.2", "2026-06-20"),
    *((python, NEWEST, None) for python in ("3.10", "3.11", "3.12", "3.13")),
    *((python, NEXT, None) for python in ("3.11", "3.13")),
]
CONSTRAINED = [("3.10", "2.11.0"), ("3.11", NEWEST)]
BORDERS, DELIVERIES = (
    ROOT / "tests" / "provider" / f"test_{name}.py" for name in ("borders", "unknown_delivery_table")
)
# What these tests need besides the package.
TESTING = ("hypothesis", "pytest", "trustme")
SMOKE = [nox.param(*pair, id=f"airflow-{pair[1]}-python-{pair[0]}") for pair in PAIRS]
# Of each Airflow that differs in what can be done about an unknown delivery.
DIFFERENT = [param for param, pair in zip(SMOKE, PAIRS, strict=True) if pair[0] == "3.11"]

if pyenv := shutil.which("pyenv"):  # It hides all Pythons but the chosen one.
    known = subprocess.check_output([pyenv, "versions", "--bare"], text=True)  # noqa: S603 - a fixed command
    os.environ["PYENV_VERSION"] = ":".join(known.split())


@nox.session
@nox.parametrize("python,airflow,day", SMOKE)
def smoke(session: nox.Session, airflow: str, day: str | None) -> None:
    """Run every example Dag against the emulator, then the tests; what was run goes to .nox/results."""
    # Some examples use what only the newest versions have; the others say that they were not run, and why.
    newest = airflow in (NEWEST, NEXT) and session.python != "3.10"
    package = ".[common-ai,emulator,structured]" if newest else ".[emulator,structured]"
    install(session, airflow, package, *TESTING, day=day)
    demo, home = ROOT / "scripts" / "demo.py", Path(session.create_tmp()).resolve() / "airflow"
    results = result_folder(airflow, str(session.python))
    session.chdir(home.parent)  # where Python finds the package that is installed, not that of the checkout
    session.run("python", demo, f"--home={home}", f"--out={results}", success_codes=[0, 1])
    # An older Airflow's libraries warn of each other.
    borders = ("pytest", "-q", "-W", "default", str(BORDERS))
    session.run(*borders, f"--junitxml={results / 'borders.xml'}")


@nox.session
@nox.parametrize("python,airflow,day", DIFFERENT)
def deliveries(session: nox.Session, airflow: str, day: str | None) -> None:
    """Lose replies, kill the task at each of its records, and count what the agent did."""
    install(session, airflow, ".[emulator,structured]", *TESTING, day=day)
    session.chdir(session.create_tmp())  # as above
    session.run("pytest", "-q", "-W", "default", str(DELIVERIES), *session.posargs)


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the whole suite on the newest Airflow."""
    install(session, NEWEST, ".", "--group", "dev")
    session.run("python", "-m", "pytest", "-q", "-n", "2", *session.posargs)


@nox.session
@nox.parametrize("python,airflow", [nox.param(*pair, id=f"airflow-{pair[1]}") for pair in CONSTRAINED])
def constraints(session: nox.Session, airflow: str) -> None:
    """Install with Airflow's own constraints file, which is on GitHub."""
    url = "https://raw.githubusercontent.com/apache/airflow"
    file = f"{url}/constraints-{airflow}/constraints-{session.python}.txt"
    session.install("--constraint", file, f"apache-airflow=={airflow}", ".[structured]")
    session.run("airflow", "providers", "get", "airflow-provider-agentforce", silent=True)


@nox.session(python="3.13")
def processes(session: nox.Session) -> None:
    """Kill, stop and clear tasks of a running Airflow: the next one."""
    install(session, NEXT, ".[common-ai,emulator,structured]", *TESTING, "opentelemetry-sdk", "psutil")
    session.run("pytest", "-q", "-W", "default", str(ROOT / "tests" / "processes"), *session.posargs)


def install(session: nox.Session, airflow: str, *packages: str, day: str | None = None) -> None:
    """Install *packages* with this Airflow, and with what the package index had on that *day*."""
    until = ["--exclude-newer", day] if day else []
    session.install(*until, f"apache-airflow=={airflow}", *(BETA if airflow == NEXT else ()), *packages)


def result_folder(airflow: str, python: str) -> Path:
    """Return where the result of a pair is left."""
    return ROOT / ".nox" / "results" / f"airflow-{airflow}-python-{python}"
