"""The spans of a task in a real Airflow, as they arrive at a collector."""

from __future__ import annotations

from pathlib import Path

import pytest
from http_receiver import Receiver
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from real_airflow import RealAirflow, until

HERE = Path(__file__).resolve().parent


class Collector(Receiver):
    """Takes spans by OTLP."""

    def __init__(self):
        self.spans = []
        super().__init__()

    def take(self, body):
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def named(self, *names):
        return [span for span in self.spans if span.name in names]


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture
def traced(org_server, gates_folder, collector, tmp_path):
    """An Airflow of its own, told to send its traces."""
    airflow = RealAirflow(
        tmp_path,
        HERE / "dags",
        {
            "AIRFLOW_CONN_AGENTFORCE_DEFAULT": org_server.connection(),
            "AGENTFORCE_GATES": str(gates_folder),
            "AIRFLOW__TRACES__OTEL_ON": "True",
            "OTEL_TRACES_EXPORTER": "otlp_proto_http",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        },
    )
    org_server.reset()
    try:
        airflow.start({"talk", "talk_exported"})
        yield airflow
    finally:
        airflow.stop()


def test_the_spans_of_a_conversation_hang_below_the_span_of_its_task(traced, org_server, collector):
    run = traced.trigger("talk")
    assert run.wait() == "success"
    ours = ("start_session", "invoke_agent", "end_session")
    until("the spans have arrived", lambda: len(collector.named(*ours, "worker.talk")) == 5)
    (task,) = collector.named("worker.talk")
    by_id = {span.span_id: span for span in collector.spans}
    for span in collector.named(*ours):
        assert span.trace_id == task.trace_id
        above = []
        while (span := by_id.get(span.parent_span_id)) is not None:
            above.append(span.span_id)
        assert task.span_id in above
    recorded = " ".join(str(span) for span in collector.named(*ours))
    (session,) = org_server.sessions.values()
    assert session.session_id in recorded
    assert not [turn.text for turn in session.turns if turn.text in recorded]


def test_the_orgs_own_trace_arrives_below_the_span_of_the_task_that_fetched_it(traced, org_server, collector):
    run = traced.trigger("talk_exported")
    assert run.wait() == "success"
    turn = "invoke_agent Service_Agent"
    until("the spans have arrived", lambda: len(collector.named(turn, "worker.traces")) == 3)
    (task,) = collector.named("worker.traces")
    assert {span.trace_id for span in collector.named(turn)} == {task.trace_id}
    by_id = {span.span_id: span for span in collector.spans}
    for span in collector.named(turn):
        above = [span]
        while (above_it := by_id.get(above[-1].parent_span_id)) is not None:
            above.append(above_it)
        assert task in above
    recorded = " ".join(str(span) for span in collector.named(turn))
    (session,) = org_server.sessions.values()
    assert session.session_id in recorded
    assert not [turn.text for turn in session.turns if turn.text in recorded]
