"""Run the example Dags against the emulator, each with ``airflow dags test``, and show what was said.

Everything is written below the checkout: Airflow's home to ``.airflow-demo``, the results to ``out``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from airflow_provider_agentforce.emulator import Emulator, SessionRecord

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".airflow-demo"
OUT = ROOT / "out"
AIRFLOW = str(Path(sys.executable).with_name("airflow"))


def main() -> int:
    """Run the demo and return the exit status."""
    begun = time.monotonic()
    shutil.rmtree(HOME, ignore_errors=True)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    dags = sorted(path.stem for path in (ROOT / "example_dags").glob("example_*.py"))
    say(f"Setting up Airflow in {HOME.name}/ (SQLite, no server).")
    if not airflow({}, "db", "migrate", log=OUT / "migrate.log"):
        return 1
    # One after the other: each begins by storing every Dag of the folder, and two would collide in that.
    failed = [dag for dag in dags if not run_dag(dag)]
    if failed:
        say(f"Failed: {', '.join(failed)}. The logs are in {OUT}.")
        return 1
    show_results(time.monotonic() - begun)
    return 0


def run_dag(dag_id: str) -> bool:
    """Run one Dag with an org of its own and print the conversations that the org saw."""
    with Emulator() as org:
        env = {"AIRFLOW_CONN_AGENTFORCE_DEFAULT": org.connection(), "AGENTFORCE_EXAMPLE_OUTPUT": str(OUT)}
        worked = airflow(env, "dags", "test", dag_id, log=OUT / "logs" / f"{dag_id}.log")
        text = [f"\n━━ {dag_id} ━━", *(line for one in org.sessions.values() for line in conversation(one))]
        if org.open_sessions:
            text.append(f"  Sessions left open: {', '.join(org.open_sessions)}")
    say("\n".join(text))
    return worked and not org.open_sessions


def airflow(env: dict[str, str], *command: str, log: Path) -> bool:
    """Run an Airflow command, its output to *log*; show the end of it when it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "example_dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        **env,
    }
    with log.open("w") as output:
        code = subprocess.run(  # noqa: S603 - our own command
            [AIRFLOW, *command], env={**os.environ, **settings}, stdout=output, stderr=output, check=False
        ).returncode
    if code:
        say(f"airflow {' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    return code == 0


def conversation(session: SessionRecord) -> list[str]:
    """Return one session as lines for people."""
    lines = [
        f"  Session {session.session_id} ({'open' if session.open else 'ended: ' + str(session.end_reason)})"
    ]
    for turn in session.turns:
        lines += paragraph(f"    {turn.sequence_id}. Dag:   ", turn.text)
        for message in turn.messages:
            said = message.get("message") or "; ".join(message.get("errors", [])) or message["type"]
            lines += paragraph("       Agent: ", f"{said}  [{message['type']}]")
    return lines


def paragraph(label: str, text: str) -> list[str]:
    """Return *text* wrapped behind *label*."""
    return textwrap.wrap(text, 100, initial_indent=label, subsequent_indent=" " * len(label))


def show_results(seconds: float) -> None:
    """Print what was written and where."""
    for path in sorted(OUT.glob("agentforce_*")):
        say(f"\n━━ {path.relative_to(ROOT)} ━━\n{path.read_text().rstrip()}")
    say(f"\nDone in {seconds:.0f} s. Written: {OUT}")


def say(text: str) -> None:
    """Print at once, so that a waiting person sees it."""
    print(text, flush=True)  # noqa: T201 - this is a command


if __name__ == "__main__":
    sys.exit(main())
