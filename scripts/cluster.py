"""Start a cluster with the example Dags, and the emulator as their org, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from pathlib import Path

from examples import FOLDER, MODEL
from ports import free_port

from airflow_provider_agentforce.emulator import Emulator

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))
from cluster_services import MissingPackagesError  # noqa: E402 - found by the line before
from real_cluster import WORKERS, Cluster  # noqa: E402


def main() -> int:
    """Run both until this is stopped, and return the exit status."""
    # A plain kill must not leave it behind: it ends like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        # Not in the checkout: PostgreSQL runs as another user, who may not get there.
        with (
            tempfile.TemporaryDirectory(prefix="agentforce-cluster-") as folder,
            Emulator(port=free_port("EMULATOR_PORT", 8765)) as org,
        ):
            return run(Path(folder), org)
    except MissingPackagesError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return 0


def run(home: Path, org: Emulator) -> int:
    """Run a cluster in *home* until Ctrl-C."""
    settings = {
        "AIRFLOW_CONN_AGENTFORCE_DEFAULT": org.connection(),
        "AIRFLOW_CONN_PYDANTICAI_DEFAULT": MODEL,
        "AGENTFORCE_EXAMPLE_OUTPUT": str(ROOT / "out"),
    }
    cluster = Cluster(home, FOLDER, settings)
    say(f"Starting a cluster in {home}: a minute.")
    try:
        cluster.start(set())
        say(f"Airflow: {cluster.url}")
        say(f"The agent's side: {org.url}")
        for name, address in cluster.services.addresses.items():
            say(f"{name}: {address}")
        say(f"A bucket for results: {cluster.store}")
        say(f"Workers: {', '.join(WORKERS)}; what each part prints is in {home}/*.out")
        threading.Event().wait()
    except TimeoutError as error:
        return fail(f"{error}\n{cluster.output()}")
    finally:
        cluster.stop()
    return 0


def say(text: str) -> None:
    """Print at once, so that a waiting person sees it."""
    print(text, flush=True)  # noqa: T201 - this is a command


def fail(text: str) -> int:
    """Print why it ends, and return the exit status."""
    sys.stderr.write(f"{text}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
