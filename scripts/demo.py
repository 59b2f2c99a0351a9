"""Run the example Dags against the emulator, each with ``airflow dags test``, and show what was said.

By default everything is written below the checkout: the homes of Airflow to ``.airflow-demo``, the results to
``out``. Each Dag gets an emulated org on a free port.
"""

from __future__ import annotations

import argparse
import ast
import json
import platform
import sys
import textwrap
import time
from importlib.metadata import version
from pathlib import Path

from examples import FOLDER, Examples, Run

from airflow_provider_agentforce.emulator import SessionRecord

ROOT = Path(__file__).resolve().parent.parent
MOST_SESSIONS = 4
MOST_LINES = 20


def main() -> int:
    """Run the demo and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--home", type=Path, default=ROOT / ".airflow-demo", help="folder for Airflow; emptied"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="folder for the results; emptied")
    options = parser.parse_args()
    examples = Examples(options.home, options.out)
    begun = time.monotonic()
    say(f"Setting up Airflow {version('apache-airflow')} in {options.home.name}/ (SQLite, no server).")
    runs = []
    for run in examples.run():
        say(story(run))
        runs.append(run)
    write_result(runs, options.out / "result.json")
    failed = [run for run in runs if not run.worked]
    for run in failed:
        say(f"\n{run.dag_id} failed:\n{run.output[-3000:]}")
    if failed:
        say(f"Failed: {', '.join(run.dag_id for run in failed)}. The logs are in {options.out / 'logs'}.")
        return 1
    show_files(options.out)
    say(totals(runs))
    say(f"\nDone in {time.monotonic() - begun:.0f} s. Written: {options.out}")
    return 0


def story(run: Run) -> str:
    """Return what the Dag is about, and the conversations that its org saw."""
    about = ast.get_docstring(ast.parse((FOLDER / f"{run.dag_id}.py").read_text(encoding="utf-8")))
    text = [f"\n━━ {run.dag_id} ━━", *paragraph("  ", about or "")]
    text += [line for one in run.sessions[:MOST_SESSIONS] for line in conversation(one)]
    if len(run.sessions) > MOST_SESSIONS:
        text.append(f"  … and {len(run.sessions) - MOST_SESSIONS} more sessions.")
    if run.missing:
        text.append(f"  Not run: needs {', '.join(run.missing)}.")
    if run.left_open:
        text.append(f"  Sessions left open: {', '.join(run.left_open)}")
    return "\n".join(text)


def conversation(session: SessionRecord) -> list[str]:
    """Return one session as lines for people."""
    lines = [
        f"  Session {session.session_id} ({'open' if session.open else 'ended: ' + str(session.end_reason)})"
    ]
    for turn in session.not_acted:
        lines += paragraph(f"    {turn.sequence_id}. Dag:   ", turn.text)
        lines.append("       Lost on purpose before the agent acted.")
    for turn in session.turns:
        lines += paragraph(f"    {turn.sequence_id}. Dag:   ", turn.text)
        for message in turn.messages:
            said = message.get("message") or "; ".join(message.get("errors", [])) or message["type"]
            lines += paragraph("       Agent: ", f"{said}  [{message['type']}]")
        if turn.got_instead:
            lines.append("       Lost on purpose after the agent acted.")
    return lines


def totals(runs: list[Run]) -> str:
    """Return what all Dags did together, and what went wrong on purpose."""
    sessions = [session for run in runs for session in run.sessions]
    turns = [turn for session in sessions for turn in session.turns]
    acted = sum(turn.got_instead is not None for turn in turns)
    not_acted = sum(len(session.not_acted) for session in sessions)
    twice = sum(turn.applied - 1 for turn in turns)
    ran = sum(not run.missing for run in runs)
    return (
        f"\n━━ Totals ━━\n"
        f"  Dags:      {ran} ran and succeeded, {len(runs) - ran} not run\n"
        f"  Sessions:  {len(sessions)} started, {sum(one.open for one in sessions)} left open\n"
        f"  Messages:  {len(turns)} answered by an agent, {twice} sent twice\n"
        f"  Wrong on purpose: {acted + not_acted} replies lost. The agent had acted on {acted} of these\n"
        f"             messages; the Dags found out which."
    )


def paragraph(label: str, text: str) -> list[str]:
    """Return *text* wrapped behind *label*."""
    return textwrap.wrap(text, 100, initial_indent=label, subsequent_indent=" " * len(label))


def show_files(out: Path) -> None:
    """Print what the Dags wrote."""
    for path in sorted(path for path in out.glob("agentforce_*") if path.is_file()):
        lines = path.read_text().rstrip().split("\n")
        more = [f"… and {len(lines) - MOST_LINES} more lines."] if len(lines) > MOST_LINES else []
        say("\n".join([f"\n━━ {path.name} ━━", *lines[:MOST_LINES], *more]))


def write_result(runs: list[Run], path: Path) -> None:
    """Write what was run on which versions, for the table of versions."""
    result = {
        "airflow": version("apache-airflow"),
        "python": platform.python_version(),
        "runs": {run.dag_id: {"worked": run.worked, "missing": run.missing} for run in runs},
    }
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def say(text: str) -> None:
    """Print at once, so that a waiting person sees it."""
    print(text, flush=True)  # noqa: T201 - this is a command


if __name__ == "__main__":
    sys.exit(main())
