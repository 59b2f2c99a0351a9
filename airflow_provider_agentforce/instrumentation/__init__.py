"""Metrics, spans and lineage of the tasks.

``metrics`` counts calls for Airflow's statsd or OpenTelemetry; ``tracing`` makes spans where OpenTelemetry is
installed. Both are observers of a hook's client: they receive a ``CallEvent`` for each call and change
nothing. ``session_spans`` exports the org's own traces, and ``lineage`` describes what a task reads and
writes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from airflow_provider_agentforce._compat import conf
from airflow_provider_agentforce.instrumentation.metrics import count_calls

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.call_events import Observer
    from airflow_provider_agentforce.client.session_trace import SessionTrace

log = logging.getLogger(__name__)

# Each turns on a backend of Airflow's metrics.
_BACKENDS = ("statsd_datadog_enabled", "statsd_on", "otel_on")


def observers() -> list[Observer]:
    """Return the observers for a client: only those whose metrics or spans this process sends.

    Make them where the task's span is the current one.
    """
    found: list[Observer] = [count_calls] if any(_is_on("metrics", name) for name in _BACKENDS) else []
    with suppress(ImportError):
        from airflow_provider_agentforce.instrumentation.tracing import Spans, are_made  # noqa: PLC0415

        if are_made():
            found.append(Spans(capture_content=_is_on("agentforce", "capture_content")))
    return found


def trace_exporter() -> Callable[[SessionTrace], None] | None:
    """Return a function that exports the org's trace of a session, ``None`` without OpenTelemetry."""
    try:
        from airflow_provider_agentforce.instrumentation.session_spans import export_trace  # noqa: PLC0415
    except ImportError:
        log.warning("OpenTelemetry is not installed; no spans are exported.")
        return None
    return partial(export_trace, capture_content=_is_on("agentforce", "capture_content"))


def _is_on(section: str, option: str) -> bool:
    try:
        return bool(conf.getboolean(section, option, fallback=False))
    except Exception:  # noqa: BLE001 - Airflow's error for a value that is not a boolean differs by version
        log.warning("[%s] %s is neither True nor False, and counts as False.", section, option)
        return False
