"""Metrics, spans and lineage of the tasks.

``metrics`` counts calls for Airflow's statsd or OpenTelemetry; ``tracing`` makes spans where OpenTelemetry is
installed. Both are observers of a hook's client: they receive a ``CallEvent`` for each call and change
nothing. ``session_spans`` exports the org's own traces, and ``lineage`` describes what a task reads and
writes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from airflow_provider_agentforce._compat import conf
from airflow_provider_agentforce.instrumentation.metrics import count_calls

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.call_events import Observer
    from airflow_provider_agentforce.client.session_trace import SessionTrace

log = logging.getLogger(__name__)


def observers() -> list[Observer]:
    """Return the observers for a client. Make them where the task's span is the current one."""
    try:
        from airflow_provider_agentforce.instrumentation.tracing import Spans  # noqa: PLC0415
    except ImportError:
        return [count_calls]
    return [count_calls, Spans(capture_content=_captures_content())]


def trace_exporter() -> Callable[[SessionTrace], None] | None:
    """Return a function that exports the org's trace of a session, ``None`` without OpenTelemetry."""
    try:
        from airflow_provider_agentforce.instrumentation.session_spans import export_trace  # noqa: PLC0415
    except ImportError:
        log.warning("OpenTelemetry is not installed; no spans are exported.")
        return None
    return partial(export_trace, capture_content=_captures_content())


def _captures_content() -> bool:
    try:
        return bool(conf.getboolean("agentforce", "capture_content", fallback=False))
    except Exception:  # noqa: BLE001 - Airflow's error for a value that is not a boolean differs by version
        log.warning("[agentforce] capture_content is neither True nor False; no content is captured.")
        return False
