"""Build both distributions, run tests from the sdist, and use the wheel as a user would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import first_steps

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = "https://github.com/example/airflow-provider-agentforce"
TESTS = ("tests/client/test_sse.py", "tests/test_docs.py", "tests/test_language.py")

USE_IT = """
import importlib.metadata, importlib.resources, pathlib
import airflow_provider_agentforce
from airflow_provider_agentforce.operators import ConversationOperator
home = pathlib.Path(airflow_provider_agentforce.__file__).parent
assert "site-packages" in home.parts, home
dags = sorted(path.name for path in (home / "example_dags").glob("*.py"))
assert dags, "no example Dags in the wheel"
assert (home / "example_dags" / "agentforce_accounts.csv").exists()
assert list((home / "example_dags" / "agentforce_conversations").glob("*.yaml"))
assert (home / "py.typed").exists()
assert {"index.html", "agentforce.js"} <= {path.name for path in (home / "plugins" / "static").iterdir()}
(plugin,) = importlib.metadata.entry_points(group="airflow.plugins", name="agentforce")
assert plugin.load().external_views
needed = [r for r in importlib.metadata.requires("airflow-provider-agentforce") if "extra ==" not in r]
assert {r.split(">")[0] for r in needed} == {
    "apache-airflow", "cryptography", "h11", "psutil", "pyjwt", "pyyaml", "requests", "tenacity"
}, needed
from airflow_provider_agentforce.client import AgentforceClient, Settings
from airflow_provider_agentforce.emulator import Emulator
with Emulator() as org:
    client = AgentforceClient(Settings(org.url, org.consumer_key, org.consumer_secret, org.agent_id))
    with client.conversation() as chat:
        assert chat.send("What is the status of order 7?").text
    assert not org.open_sessions
print("The wheel talks to the emulator and brings", ", ".join(dags))
"""


def main() -> None:
    """Run the check; a failing step ends it with that step's output."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        address = {"REPOSITORY_URL": REPOSITORY}
        build = ("build", "--installer", "uv", "--outdir", str(work), str(ROOT))
        run(sys.executable, "-m", *build, env=address, quiet=True)
        use_sdist(next(work.glob("*.tar.gz")), work)
        wheel = next(work.glob("*.whl"))
        check_links(wheel)
        python = first_steps.follow(wheel, work / "first-steps")
        print("docs/first-steps.md works as it is written.")  # noqa: T201 - this is a command
        env = {"AIRFLOW_HOME": str(python.parents[2] / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "True"}
        run(str(python), "-c", USE_IT, cwd=work, env=env)
        run(str(python.with_name("agentforce-emulator")), "--help", cwd=work, quiet=True)
        airflow = str(python.with_name("airflow"))
        bundle = ("--local", "--bundle-name", "airflow-provider-agentforce-example-dags")
        listed = run(airflow, "dags", "list", *bundle, "-o", "plain", cwd=work, env=env, quiet=True)
        if "example_agentforce_conversation" not in listed:
            sys.exit(f"Airflow does not list the example Dags:\n{listed}")
    print("Airflow lists the example Dags.")  # noqa: T201 - this is a command


def use_sdist(sdist: Path, work: Path) -> None:
    """Unpack it and run some of its tests."""
    shutil.unpack_archive(sdist, work, filter="data")
    folder = work / sdist.name.removesuffix(".tar.gz")
    # Airflow and the tools are those of this environment, the package is that of the folder.
    run(sys.executable, "-m", "pytest", "-q", *TESTS, "-k", "not snippet", cwd=folder, quiet=True)
    print("Tests run from the sdist.")  # noqa: T201 - this is a command


def check_links(wheel: Path) -> None:
    """Leave when the package's page on the index would have a link that leads nowhere."""
    with zipfile.ZipFile(wheel) as files:
        (name,) = (one for one in files.namelist() if one.endswith(".dist-info/METADATA"))
        page = files.read(name).decode()
    relative = [target for target in re.findall(r"\]\(([^)\s]+)\)", page) if target[0] not in "#h"]
    if relative or f"Project-URL: Source, {REPOSITORY}\n" not in page:
        sys.exit(f"The page on the index has no addresses, or these links: {relative}")


def run(
    *command: str, cwd: Path | None = None, env: dict[str, str] | None = None, quiet: bool = False
) -> str:
    """Run *command* and return what it printed; leave with its output when it fails."""
    done = subprocess.run(  # noqa: S603 - our own command
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} … failed:\n{done.stdout[-4000:]}")
    if not quiet and done.stdout.strip():
        print(done.stdout.strip())  # noqa: T201 - this is a command
    return done.stdout


if __name__ == "__main__":
    main()
