"""What a cluster has started ends with it, also when it is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from process_guard import members
from real_airflow import until

TESTS = Path(__file__).resolve().parent.parent
# Starts a process that starts another one, each of which would outlive it, and says which.
STARTS = """
import subprocess, sys, time
from pathlib import Path
from process_guard import Guard
guard = Guard(Path(sys.argv[1]))
ignores = "import signal, subprocess as s, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
outlives = ignores + "s.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)"
started = subprocess.Popen([sys.executable, "-c", outlives], start_new_session=True)
guard.watch(started.pid)
print(started.pid, flush=True)
time.sleep(600)
"""


def test_what_was_started_ends_with_a_killed_process(tmp_path):
    folder = tmp_path / "cluster"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", STARTS, str(folder)], stdout=subprocess.PIPE, text=True, cwd=TESTS
    ) as program:
        session = int(program.stdout.readline())
        until("both run", lambda: len(members([session])) == 2)
        program.kill()
    until("both have ended", lambda: members([session]) == [])
    until("their folder is gone", lambda: not folder.exists())
