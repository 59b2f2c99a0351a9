"""Makes errors that a retry cannot mend, or that a retry would make worse, end the Airflow task at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from airflow_provider_agentforce._compat import AirflowFailException
from airflow_provider_agentforce.exceptions import AgentforceError, DeliveryUnknownError


@contextmanager
def airflow_errors(*, resend_unknown: bool = False) -> Iterator[None]:
    """Let every final error be an ``AirflowFailException`` too, which ends a task whatever its ``retries``.

    The client knows no Airflow, so its errors become both here. They stay what they are for ``except``,
    callbacks and retry rules.

    :param resend_unknown: leave :class:`DeliveryUnknownError` to the task's retries.
    """
    try:
        yield
    except AgentforceError as error:
        left_to_retries = error.retryable or (resend_unknown and isinstance(error, DeliveryUnknownError))
        if not left_to_retries and not isinstance(error, AirflowFailException):
            error.__class__ = _final(type(error))  # type: ignore[arg-type]
        raise


@cache
def _final(kind: type[AgentforceError]) -> type[AgentforceError]:
    names = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind, AirflowFailException), names)
