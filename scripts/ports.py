"""The ports of the commands that a person clicks around in, and what to do when one is in use."""

from __future__ import annotations

import os
import socket
import sys

HOST = "127.0.0.1"


def free_port(variable: str, default: int) -> int:
    """Return the port that an environment variable names, if no other program uses it.

    :param variable: such as ``AIRFLOW_PORT``.
    :param default: the port without that variable.
    :raises SystemExit: the port is in use, or the variable is not a port; the error says what to set.
    """
    chosen = os.environ.get(variable, str(default))
    try:
        port = int(chosen)
        with socket.create_server((HOST, port)):
            return port
    except OSError as error:
        reason = f"Port {chosen} cannot be used ({error.strerror})"
    except (ValueError, OverflowError):
        reason = f"{chosen} is not a port"
    sys.exit(f"{reason}. Choose another one with the variable {variable}, such as {variable}={default + 1}.")
