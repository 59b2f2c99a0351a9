"""Run the tests that docs/testing.md shows, in a separate process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent / "testing"

if __name__ == "__main__":
    # A copy, so that the settings of this project's own tests do not apply.
    copy = shutil.copytree(TESTS, Path.cwd() / "dag_tests", ignore=shutil.ignore_patterns("__pycache__"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(copy)]
    done = subprocess.run(  # noqa: S603 - our own command
        command, cwd=copy, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    print(done.stdout[-5000:])
    if done.returncode:
        raise RuntimeError(done.stdout[-5000:] + done.stderr[-5000:])
