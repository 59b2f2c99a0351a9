"""Print the CPU microseconds that the hook's observers add to one message.

A call that takes no time is shown to the observers and, taking turns, to none. ``on`` sends metrics to a UDP
socket of this machine, and spans to an exporter that throws them away, in batches as Airflow's does.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import time
import timeit
from collections.abc import Sequence
from dataclasses import replace

import statsd
from airflow.sdk._shared.observability.metrics.statsd_logger import get_statsd_logger
from airflow.sdk.observability import stats
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from airflow_provider_agentforce.client.call_events import CallEvent, Observer, observed
from airflow_provider_agentforce.instrumentation import observers

_ROUNDS, _BLOCK = 40, 250
_BEGUN = CallEvent(
    operation="send",
    agent_id="0Xxxx0000000001CAA",
    session_id="019d0aac-dcd0-7368-936c-106bffe75e84",
    sequence_id=1,
    text="Hello",
)
_ENDED = replace(
    _BEGUN,
    api_url="https://api.salesforce.com",
    attempts=1,
    status=200,
    outcome="answered",
    answer="Hi",
    duration=2.5,
)


class Nowhere(SpanExporter):
    """Throws spans away."""

    def export(self, spans: Sequence[object]) -> SpanExportResult:  # noqa: ARG002, D102
        return SpanExportResult.SUCCESS


def configure() -> socket.socket:
    """Set both backends; returns the socket that metrics go to, to be kept open."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(provider)
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    logger = get_statsd_logger(stats_class=statsd.StatsClient, host="127.0.0.1", port=port, prefix="airflow")
    os.environ["AIRFLOW__METRICS__STATSD_ON"] = "True"
    stats.initialize(factory=lambda: logger, export_legacy_names=True)
    return listener


def call(watching: Sequence[Observer]) -> None:
    events = [_ENDED, _BEGUN]
    observed(watching, lambda _error: events.pop(), lambda: None)


def cpu(watching: Sequence[Observer]) -> float:
    return timeit.timeit(lambda: call(watching), timer=time.thread_time, number=_BLOCK) / _BLOCK


def main() -> None:
    listener = configure() if sys.argv[1] == "on" else None
    ours = observers()
    call(ours)
    print(statistics.median(cpu(ours) - cpu(()) for _ in range(_ROUNDS)) * 1e6)
    if listener is not None:
        listener.close()


main()
