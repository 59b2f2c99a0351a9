"""The command ``agentforce-emulator``: the stand-in org for people who do not start it from Python."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from airflow_provider_agentforce.emulator.emulator import Emulator
from airflow_provider_agentforce.emulator.errors import INACTIVE_AGENT
from airflow_provider_agentforce.emulator.settings import FEEDBACK_STATUSES, MODES

DEFAULT_PORT = 8765
_VARIABLE = "AIRFLOW_CONN_AGENTFORCE_DEFAULT"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM.

    :param argv: the arguments; None takes those of the process.
    :return: the exit code: 0 after a clean stop, 1 when it cannot run.
    """
    options = vars(_parser().parse_args(argv))
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        emulator = Emulator(**options)
        emulator.start()
    except (ModuleNotFoundError, OSError, ValueError) as error:
        sys.stderr.write(f"agentforce-emulator: {error}\n")
        return 1
    _announce(emulator)
    stopped.wait()
    emulator.stop()
    sys.stdout.write("Stopped.\n")
    return 0


def _announce(emulator: Emulator) -> None:
    sys.stdout.write(
        f"The stand-in org is running. Open {emulator.url}/ to watch it; Ctrl-C stops it.\n"
        "In the terminal that runs Airflow:\n\n"
        f"export {_VARIABLE}={shlex.quote(emulator.connection())}\n\n"
    )
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agentforce-emulator",
        description="A stand-in Salesforce org with Agentforce agents, for tests, demos and first steps. "
        "It listens on this machine only.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--port", type=int, default=DEFAULT_PORT, help=f"default {DEFAULT_PORT}; 0 picks a free one")
    add("--script", metavar="FILE", help="YAML or Python file with the answers; else a default agent")
    add("--mode", choices=MODES, help="answer shapes: official (default), or seed for the original guide")
    for name, kind, text in _SETTINGS:
        add(f"--{name}", type=kind, metavar="SECONDS" if kind is float else "N", help=text)
    add("--inactive-status", type=int, choices=tuple(INACTIVE_AGENT), help="how an inactive agent answers")
    add("--feedback-status", type=int, choices=FEEDBACK_STATUSES, help="default 201")
    for name, text in _SWITCHES:
        add(f"--{name}", action="store_true", help=text)
    return parser


_SETTINGS: tuple[tuple[str, Any, str], ...] = (
    ("token-lifetime", float, "until a token expires; default 1800"),
    ("latency", float, "that the agent takes for a message; default 0"),
    ("session-idle-timeout", float, "after which an unused session is gone; default never"),
    ("retry-after", float, "to send as Retry-After with 429; default none"),
    ("keep-alive", int, "seconds that an idle connection is kept open; default 5"),
    ("max-concurrent-sessions", int, "default 50"),
    ("max-sessions-per-hour", int, "default 1000"),
    ("max-messages-per-session", int, "default 100"),
)
_SWITCHES = (
    ("strict-sequence", "accept only the last sequenceId plus one"),
    ("opaque-tokens", "issue tokens that are no JWT; the Agent API answers them with a bare 404"),
)


if __name__ == "__main__":
    sys.exit(main())
