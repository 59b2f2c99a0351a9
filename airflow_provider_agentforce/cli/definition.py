"""The names and arguments of the commands. Read by every ``airflow`` command, so it imports little."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.cli.cli_config import CLICommand

HELP = "Check a connection to Salesforce Agentforce step by step"
# As argparse takes them, and Airflow's Arg.
ARGUMENTS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("conn_id",),
        {"nargs": "?", "default": "agentforce_default", "help": "the connection (default: %(default)s)"},
    ),
    (
        ("--start-session",),
        {
            "action": "store_true",
            "help": "also start a session with the default agent and end it; Salesforce may charge for it",
        },
    ),
    (("--json",), {"action": "store_true", "help": "print JSON"}),
)


def get_agentforce_cli_commands() -> list[CLICommand]:
    """Return the commands for Airflow 3.2 and later, which finds this function in the provider info."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand, lazy_load_command  # noqa: PLC0415

    argument: Any = Arg  # Airflow gives it no types
    check = ActionCommand(
        name="check",
        help=HELP,
        func=lazy_load_command("airflow_provider_agentforce.cli.check.check"),
        args=tuple(argument(flags=flags, **options) for flags, options in ARGUMENTS),
    )
    return [GroupCommand(name="agentforce", help="Salesforce Agentforce", subcommands=(check,))]
