"""Checks a connection and prints the findings."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from airflow_provider_agentforce._compat import stored_connection
from airflow_provider_agentforce.cli.definition import ARGUMENTS, HELP
from airflow_provider_agentforce.hooks.agentforce import AgentforceHook


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``python -m airflow_provider_agentforce``.

    :raises SystemExit: with 0 if the connection is good, 1 if it is not, 2 if the arguments are wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_agentforce")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("check", help=HELP, description=f"{HELP}.")
    for flags, options in ARGUMENTS:
        command.add_argument(*flags, **options)
    check(parser.parse_args(argv))


def check(args: argparse.Namespace) -> None:
    """Check a connection, print the list, and exit.

    :param args: ``conn_id``, ``start_session``, ``json``.
    :raises SystemExit: with 0 if the connection is good, else 1.
    """
    # Airflow logs to standard output, which is reserved for the result.
    with contextlib.redirect_stdout(sys.stderr):
        found = _Hook(args.conn_id).diagnose(start_session=args.start_session)
    if args.json:
        print(json.dumps({"connection": args.conn_id, **found.to_dict()}, indent=2, ensure_ascii=False))  # noqa: T201
    else:
        print(f"Connection {args.conn_id}\n{found}")  # noqa: T201 - a command
    sys.exit(0 if found.good else 1)


class _Hook(AgentforceHook):
    """A hook that also finds the connections in Airflow's database, which a task gets from its supervisor."""

    @classmethod
    def get_connection(cls, conn_id: str) -> Any:
        """Return the connection."""
        return stored_connection(conn_id)
