"""Start Airflow with the example Dags, and the emulator as their org, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from examples import MODEL
from ports import HOST, free_port

from airflow_provider_agentforce.emulator import Emulator

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
HOME = ROOT / ".airflow"


def main() -> int:
    """Run both and return Airflow's exit status."""
    # A plain kill must not leave Airflow behind: it ends like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    port = free_port("AIRFLOW_PORT", 8080)
    url = f"http://{HOST}:{port}"
    with Emulator(port=free_port("EMULATOR_PORT", 8765)) as org:
        settings = {
            "AIRFLOW_HOME": str(HOME),
            "AIRFLOW_CONN_AGENTFORCE_DEFAULT": org.connection(),
            "AIRFLOW_CONN_PYDANTICAI_DEFAULT": MODEL,
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "example_dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            # Only this machine reaches it, and there is nothing to protect.
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__API__HOST": HOST,
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AGENTFORCE_EXAMPLE_OUTPUT": str(ROOT / "out"),
            # Airflow starts its parts by name.
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }
        # A separate group, so that all its parts can be stopped together.
        process = subprocess.Popen(  # noqa: S603
            [str(BIN / "airflow"), "standalone"], env={**os.environ, **settings}, start_new_session=True
        )
        print(f"Airflow: {url} (ready in half a minute)\nThe agent's side: {org.url}\n", flush=True)  # noqa: T201
        try:
            return process.wait()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGTERM)
            return process.wait(30)


if __name__ == "__main__":
    sys.exit(main())
