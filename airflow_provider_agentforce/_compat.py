"""The names of Airflow that have moved between 2.11 and 3.3. Nothing else of the package knows about it."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import BaseHook, BaseOperator, Context
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
else:
    try:
        from airflow.sdk import BaseOperator
    except ImportError:
        from airflow.models import BaseOperator
    try:
        from airflow.sdk import BaseHook
    except ImportError:
        from airflow.hooks.base import BaseHook
    try:
        from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
    except ImportError:
        from airflow.exceptions import AirflowFailException, AirflowSkipException

    Context = dict

# Airflow 3.1 and later, 3.0, 2.
_MASKERS = (
    "airflow.sdk.log",
    "airflow.sdk.execution_time.secrets_masker",
    "airflow.utils.log.secrets_masker",
)

# Airflow 3.2 and later, up to 3.1.
_STATS = ("airflow.sdk.observability.stats", "airflow.stats")

__all__ = [
    "AirflowFailException",
    "AirflowSkipException",
    "BaseHook",
    "BaseOperator",
    "Context",
    "mask_secret",
    "stats",
]


def mask_secret(secret: str) -> None:
    """Mask *secret* in everything that the task logs from now on."""
    for name in _MASKERS:
        try:
            mask = import_module(name).mask_secret
        except (ImportError, AttributeError):
            continue
        mask(secret)
        return


@cache
def stats() -> Any:
    """Return Airflow's ``Stats``, or ``None`` where it is not found. Looked up at the first use."""
    for name in _STATS:
        try:
            found = import_module(name).Stats
        except (ImportError, AttributeError):
            continue
        return found
    return None
