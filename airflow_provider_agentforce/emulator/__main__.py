"""The command ``agentforce-emulator``: the emulated org, and the recorder of a real one."""

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

from airflow_provider_agentforce.emulator.emulator import Emulator, require_extra
from airflow_provider_agentforce.emulator.org import EmulatorSettings

if TYPE_CHECKING:
    from airflow_provider_agentforce.emulator.recorder import Recorder

DEFAULT_PORT = 8765
RECORDER_PORT = 8766
_STOPS = (signal.SIGINT, signal.SIGTERM)
_PORT = "EMULATOR_PORT"
_FILES = {"tls", "certificate"}
_VARIABLE = "AIRFLOW_CONN_AGENTFORCE_DEFAULT"


class _Stoppable(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...


_Server = TypeVar("_Server", bound=_Stoppable)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM; another one of these ends the process at once.

    :param argv: the arguments; None takes those of the process.
    :return: the exit code: 0 after a clean stop, 1 when it cannot run.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["record"]:
        return _record(vars(_record_parser().parse_args(arguments[1:])))
    if arguments[:1] == ["replay"]:
        arguments[0] = "--script"
    options = vars(_parser().parse_args(arguments))
    return _serve(
        lambda: Emulator(**options),
        _announcement,
        lambda _: "Stopped.",
        port_from=f"--port or the variable {_PORT}",
    )


def _serve(
    make: Callable[[], _Server],
    announcement: Callable[[_Server], str],
    farewell: Callable[[_Server], str],
    *,
    port_from: str,
) -> int:
    """Run a server until a signal stops it, and return the exit code.

    :param make: creates the server.
    :param announcement: returns the text to print once it runs.
    :param farewell: returns the text to print after it has stopped.
    :param port_from: what sets its port.
    """
    with _stops_kept():
        try:
            server = make()
            server.start()
        except (ModuleNotFoundError, OSError, ValueError) as error:
            in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            way_out = f". Choose another port with {port_from}." if in_use else ""
            sys.stderr.write(f"agentforce-emulator: {error}{way_out}\n")
            return 1
        sys.stdout.write(announcement(server))
        sys.stdout.flush()
        signal.sigwait(_STOPS)
    server.stop()
    sys.stdout.write(f"{farewell(server)}\n")
    return 0


def _record(options: dict[str, Any]) -> int:
    require_extra()
    from airflow_provider_agentforce.emulator.recorder import Recorder, Upstream  # noqa: PLC0415

    def make() -> Recorder:
        named = options["conn"]
        upstream = (
            Upstream(options["upstream"], options["api"])
            if named is None
            else Upstream.of_connection(_connection(named))
        )
        return Recorder(upstream, options["output"], port=int(options["port"]))

    def announcement(recorder: Recorder) -> str:
        return (
            f"Recording to {options['output']}; Ctrl-C stops it.\n"
            f"In a copy of the Airflow connection, set the host and the extra api_url to {recorder.url}, "
            "and run the Dag with it.\n"
        )

    def farewell(recorder: Recorder) -> str:
        script = recorder.script
        refused = "".join(
            f" Left out: {number} with status {status}." for status, number in sorted(script.refused.items())
        )
        replay = f"agentforce-emulator replay {shlex.quote(options['output'])}"
        return f"Recorded {script.answers} answers.{refused} Read the file, then run: {replay}"

    return _serve(make, announcement, farewell, port_from="--port")


def _connection(given: str) -> str:
    """Return the JSON of a connection, given as JSON or by its id.

    :raises ValueError: Airflow's variable for the id is not set.
    """
    variable = f"AIRFLOW_CONN_{given.upper()}"
    if not given.lstrip().startswith("{") and variable not in os.environ:
        raise ValueError(
            f"--conn: the variable {variable} is not set. Give the connection as JSON, or use --upstream."
        )
    return os.environ.get(variable, given)


@contextmanager
def _stops_kept() -> Iterator[None]:
    """Block the signals that stop the command, so that they are pending until the command waits for them.

    A Python handler would run only between two steps of the main thread. A signal that arrives right before
    that thread waits for one, or in the server's thread, would not wake it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    # A shell that starts the command in the background ignores them, and some systems drop ignored signals.
    for number in _STOPS:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        # Also if the parent process has blocked them, as a child inherits its signal mask.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def _announcement(emulator: Emulator) -> str:
    proxy = f"Proxy for Salesforce's hosts: HTTPS_PROXY={emulator.proxy_url}\n" if emulator.proxy_url else ""
    return (
        f"The emulated org is running. Open {emulator.url}/ to watch it; Ctrl-C stops it.\n"
        f"{proxy}In the terminal that runs Airflow:\n\n"
        f"export {_VARIABLE}={shlex.quote(emulator.connection())}\n\n"
    )


def _record_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agentforce-emulator record",
        description="Pass calls on to an org, and write what its agent answers as a script for the emulator, "
        "without secrets and ids. It listens on this machine only.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    org = parser.add_mutually_exclusive_group(required=True)
    org.add_argument("--upstream", metavar="URL", help="My Domain of the org, or another emulator")
    org.add_argument(
        "--conn", metavar="CONN", help="its Airflow connection: JSON, or the id in AIRFLOW_CONN_…"
    )
    parser.add_argument("--api", metavar="URL", default="", help="Agent API of the org; empty: Salesforce's")
    parser.add_argument("--output", metavar="FILE", default="recorded.yaml", help="the script")
    parser.add_argument("--port", metavar="N", type=int, default=RECORDER_PORT, help="0 chooses a free one")
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agentforce-emulator",
        description="A stand-in Salesforce org with Agentforce agents, for tests, demos and first steps. "
        "It listens on this machine only.",
        epilog="Also: `agentforce-emulator record --help` records the answers of a real org, and "
        "`agentforce-emulator replay FILE` answers with them; it takes the options above.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    script = "YAML or Python file with the answers; default: the built-in agent"
    parser.add_argument("--script", metavar="FILE", default=argparse.SUPPRESS, help=script)
    kinds = get_type_hints(EmulatorSettings)
    texts = dict(
        re.findall(r":param (\w+): (.+?)\.\n(?=:)", inspect.getdoc(EmulatorSettings) or "", re.DOTALL)
    )
    for setting in dataclasses.fields(EmulatorSettings):
        option = f"--{setting.name.replace('_', '-')}"
        text = " ".join(texts.get(setting.name, "").replace("`", "").split())
        arguments = _option_arguments(setting.name, kinds[setting.name])
        parser.add_argument(option, default=setting.default, help=text, **arguments)
    # A fixed address, so that a connection still works after a restart.
    parser.set_defaults(port=os.environ.get(_PORT, DEFAULT_PORT))
    return parser


def _option_arguments(name: str, kind: Any) -> dict[str, Any]:
    """Return the ``argparse`` arguments of the option for a setting of the type ``kind``."""
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is Literal:
        return {"type": type(get_args(kind)[0]), "choices": get_args(kind)}
    # An option of the type `float | None` is a number, or is not given.
    value = (get_args(kind) or (kind,))[0]
    text = "FILE" if name in _FILES else "NAME"
    return {"type": value, "metavar": text if value is str else "N"}


if __name__ == "__main__":
    sys.exit(main())
