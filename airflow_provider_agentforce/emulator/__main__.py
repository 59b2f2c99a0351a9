"""The command ``agentforce-emulator``: the stand-in org for people who do not start it from Python."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import inspect
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args, get_origin, get_type_hints

from airflow_provider_agentforce.emulator.emulator import Emulator
from airflow_provider_agentforce.emulator.org import EmulatorSettings

DEFAULT_PORT = 8765
_STOPS = (signal.SIGINT, signal.SIGTERM)
_PORT = "EMULATOR_PORT"
_VARIABLE = "AIRFLOW_CONN_AGENTFORCE_DEFAULT"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM; another one of these ends the process at once.

    :param argv: the arguments; None takes those of the process.
    :return: the exit code: 0 after a clean stop, 1 when it cannot run.
    """
    options = vars(_parser().parse_args(argv))
    with _stops_kept():
        try:
            emulator = Emulator(**options)
            emulator.start()
        except (ModuleNotFoundError, OSError, ValueError) as error:
            in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            way_out = f". Choose another port with --port or the variable {_PORT}." if in_use else ""
            sys.stderr.write(f"agentforce-emulator: {error}{way_out}\n")
            return 1
        _announce(emulator)
        signal.sigwait(_STOPS)
    emulator.stop()
    sys.stdout.write("Stopped.\n")
    return 0


@contextmanager
def _stops_kept() -> Iterator[None]:
    """Have the kernel keep the signals that stop the command until they are waited for.

    A Python handler would run only between two steps of the main thread. A signal that arrives right before
    that thread waits for one, or in the server's thread, would not wake it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    # A shell that starts the command in the background has them ignored, and some systems drop those.
    for number in _STOPS:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        # Whatever the parent's mask, which it passes on.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def _announce(emulator: Emulator) -> None:
    proxy = f"Proxy for Salesforce's hosts: HTTPS_PROXY={emulator.proxy_url}\n" if emulator.proxy_url else ""
    sys.stdout.write(
        f"The stand-in org is running. Open {emulator.url}/ to watch it; Ctrl-C stops it.\n"
        f"{proxy}In the terminal that runs Airflow:\n\n"
        f"export {_VARIABLE}={shlex.quote(emulator.connection())}\n\n"
    )
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agentforce-emulator",
        description="A stand-in Salesforce org with Agentforce agents, for tests, demos and first steps. "
        "It listens on this machine only.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    script = "YAML or Python file with the answers; None: the default agent"
    parser.add_argument("--script", metavar="FILE", help=script)
    kinds = get_type_hints(EmulatorSettings)
    texts = dict(
        re.findall(r":param (\w+): (.+?)\.\n(?=:)", inspect.getdoc(EmulatorSettings) or "", re.DOTALL)
    )
    for setting in dataclasses.fields(EmulatorSettings):
        option = f"--{setting.name.replace('_', '-')}"
        text = " ".join(texts.get(setting.name, "").replace("`", "").split())
        parser.add_argument(option, default=setting.default, help=text, **_taken(kinds[setting.name]))
    # A fixed address, so that the connection of yesterday is good today.
    parser.set_defaults(port=os.environ.get(_PORT, DEFAULT_PORT))
    return parser


def _taken(kind: Any) -> dict[str, Any]:
    """Return what ``argparse`` has to know of an option whose setting has the type ``kind``."""
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is Literal:
        return {"type": type(get_args(kind)[0]), "choices": get_args(kind)}
    # `float | None` is given as a number, or not at all.
    value = (get_args(kind) or (kind,))[0]
    return {"type": value, "metavar": "N" if value is not str else "NAME"}


if __name__ == "__main__":
    sys.exit(main())
