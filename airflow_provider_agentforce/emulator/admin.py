"""The page and the ``/emulator`` routes, for people who watch or steer the org without Python.

They never show a token or the secret.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from airflow_provider_agentforce.emulator.org import Org

Endpoint = Callable[[Request], Awaitable[Response]]


def routes(_org: Org) -> list[tuple[str, str, Endpoint]]:
    """Return method, path and endpoint of every route."""
    return []
