"""Follow docs/first-steps.md to the letter, with a wheel in place of the package index.

Its ``bash`` blocks run in one shell, one after the other. A comment above a block says that it keeps running,
has to fail, or is left to a person. Each line of a ``text`` block has to appear in the output of the block
before it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "first-steps.md"
VENV, INSTALL, EMULATOR, PORT = (
    "python3 -m venv .venv",
    "pip install '/path/to/checkout[emulator]'",
    "agentforce-emulator\n",
    "8765",
)
BLOCK = re.compile(r"(?:<!-- (?P<note>.+?) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)
PROLOGUE = """
set -e
printed() {
    for _ in $(seq 150); do
        grep -qF -- "$1" "$out" && return
        sleep 0.2
    done
    echo "Not printed: $1"
    return 1
}
"""


def follow(wheel: Path, folder: Path) -> Path:
    """Do what the page says, in *folder*; leave with the output of the block that goes wrong.

    :return: the Python of the environment that the page makes, beside the Airflow home of the page.
    """
    folder.mkdir()
    steps = [
        _step(folder / f"{number}.out", block) for number, block in enumerate(BLOCK.finditer(_page(wheel)))
    ]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    shell = subprocess.Popen(  # noqa: S603 - the page's own commands
        [shutil.which("bash") or "bash", "-c", "\n".join([PROLOGUE, *steps])],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = shell.communicate()
    finally:
        # What keeps running is in the shell's process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGTERM)
    if shell.returncode:
        last = max(folder.glob("*.out"), key=lambda path: path.stat().st_mtime).read_text()
        sys.exit(f"{PAGE.name} does not work:\n{last[-3000:]}\n{said}")
    return folder / "first-steps" / ".venv" / "bin" / "python"


def _page(wheel: Path) -> str:
    page = PAGE.read_text(encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for said, done in (
        (VENV, f"{VENV} --without-pip"),  # as uv installs
        (INSTALL, f"uv pip install '{wheel}[emulator]'"),
        (EMULATOR, f"agentforce-emulator --port {port}\n"),
        (PORT, port),
    ):
        if said not in page:
            sys.exit(f"{PAGE.name} no longer has: {said}")
        page = page.replace(said, done)
    return page


def _step(out: Path, block: re.Match[str]) -> str:
    note, kind, text = block["note"] or "", block["kind"], block["text"]
    if kind == "text":
        return "\n".join(f"printed {shlex.quote(line)}" for line in text.splitlines())
    if kind == "python":
        source = ROOT / note.removeprefix("source: ")
        return f"mkdir -p airflow/dags && cp {source} airflow/dags"
    run = f"{{\n{text}}} > $out 2>&1"
    ways = {
        "keeps running": f"{run} &",
        "fails": f"if {run}; then echo 'That should fail.'; exit 1; fi",
        "by hand": "",
    }
    return f"out={out}\n{ways.get(note, run)}"


if __name__ == "__main__":
    follow(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
