"""Airflow metrics of the calls, as they arrive at a StatsD server on loopback."""

from __future__ import annotations

import re
import socket
from collections import Counter

import pytest
import statsd
from airflow.sdk._shared.observability.metrics.base_stats_logger import NoStatsLogger
from airflow.sdk._shared.observability.metrics.statsd_logger import get_statsd_logger
from airflow.sdk.observability import stats as airflow_stats

from airflow_provider_agentforce import _compat
from airflow_provider_agentforce.emulator import Emulator
from airflow_provider_agentforce.exceptions import AgentforceError
from airflow_provider_agentforce.hooks.agentforce import AgentforceHook
from airflow_provider_agentforce.instrumentation import metrics, observers
from airflow_provider_agentforce.operators import ConversationOperator


class StatsD:
    """A StatsD server: a UDP socket that remembers what came."""

    def __init__(self):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(10)
        self.port = self._socket.getsockname()[1]

    def ours(self):
        """Return our metrics that came so far, without values of timers, and how often each came."""
        end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        end.sendto(b"end", ("127.0.0.1", self.port))
        end.close()
        lines = []
        while (packet := self._socket.recv(65536)) != b"end":
            lines += packet.decode().splitlines()
        found = [re.sub(r":[0-9.]+\|ms$", ":ms", line) for line in lines if ".agentforce." in line]
        return Counter(line.removeprefix("airflow.agentforce.").removesuffix(":1|c") for line in found)

    def close(self):
        self._socket.close()


@pytest.fixture
def server():
    server = StatsD()
    yield server
    server.close()


@pytest.fixture
def reported(server, monkeypatch):
    """Have the metrics of this process sent to a server as a task's are, and return what arrives."""
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
    logger = get_statsd_logger(
        stats_class=statsd.StatsClient,
        host="127.0.0.1",
        port=server.port,
        prefix="airflow",
        influxdb_tags_enabled=True,
        statsd_influxdb_enabled=True,
    )
    airflow_stats.initialize(factory=lambda: logger, export_legacy_names=True)
    yield server.ours
    airflow_stats.initialize(factory=NoStatsLogger, export_legacy_names=True)
    logger.statsd.close()


def test_a_conversation_counts_its_token_its_session_and_its_messages(org, run, reported):
    run(ConversationOperator(task_id="talk", messages=["order 4711?", "talk to a human please"]))
    assert reported() == {
        "token.requested": 1,
        "session.started": 1,
        "message.sent,outcome=answered": 1,
        "message.duration,outcome=answered:ms": 1,
        "message.sent,outcome=escalated": 1,
        "message.duration,outcome=escalated:ms": 1,
        "session.ended,found=open": 1,
    }


@pytest.mark.parametrize(
    ("operation", "metric"),
    [
        ("token", "token.failed,error_type=AgentforceRequestError"),
        ("start", "session.start_failed,error_type=AgentforceRequestError"),
        ("send", "message.failed,error_type=AgentforceRequestError"),
        ("end", "session.end_failed,error_type=AgentforceRequestError"),
        ("feedback", "feedback.failed,error_type=AgentforceRequestError"),
        ("query", "agent.lookup_failed,error_type=AgentforceRequestError"),
    ],
)
def test_a_call_that_fails_counts_as_that_with_the_class_of_its_error(org, reported, operation, metric):
    hook = AgentforceHook()
    org.fail(operation, status=418)
    with pytest.raises(AgentforceError):  # noqa: PT012 - whichever of the calls it is
        session = hook.start_session("Service_Agent" if operation == "query" else None)
        turn = hook.send_message(session, "hello")
        hook.submit_feedback(turn, turn.feedback_id, "GOOD")
        hook.end_session(session)
    failed = [name for name in reported() if "failed" in name]
    # Without a token there is no start either.
    also = ["session.start_failed,error_type=AgentforceRequestError"] if operation == "token" else []
    assert failed == [metric, *also]


def test_an_unknown_delivery_counts_as_a_failed_message_and_takes_no_time(org, reported):
    hook = AgentforceHook()
    session = hook.start_session()
    org.fail("send", status=500)
    with pytest.raises(AgentforceError):
        hook.send_message(session, "hello")
    came = reported()
    assert came["message.failed,error_type=DeliveryUnknownError"] == 1
    assert not [name for name in came if "sent" in name or "duration" in name]


def test_every_repeated_call_counts_with_its_reason(org, reported):
    org.fail("start", status=429, times=2)
    org.fail("start", status=401)
    AgentforceHook().start_session()
    came = reported()
    assert came["call.retried,operation=start,reason=throttled"] == 2
    assert came["call.retried,operation=start,reason=unauthorized"] == 1
    assert came["token.requested"] == 2
    assert came["session.started"] == 1


def test_a_session_that_had_ended_before_is_told_apart(org, reported):
    hook = AgentforceHook()
    session = hook.start_session()
    hook.end_session(session)
    hook.end_session(session)
    came = reported()
    assert (came["session.ended,found=open"], came["session.ended,found=gone"]) == (1, 1)


def test_feedback_counts(org, reported):
    hook = AgentforceHook()
    turn = hook.send_message(hook.start_session(), "hello")
    hook.submit_feedback(turn, turn.feedback_id, "BAD")
    assert reported()["feedback.sent"] == 1


def test_a_gauge_a_counter_and_a_timer_of_an_operator_arrive(reported):
    metrics.gauge("agentforce.some.gauge", 7, tags={"kind": "a"})
    metrics.incr("agentforce.some.count", 3)
    metrics.timing("agentforce.some.time", 1.5)
    assert reported() == {"some.gauge,kind=a:7|g": 1, "some.count:3|c": 1, "some.time:ms": 1}


class BrokenStats:
    def incr(self, *_args, **_kwargs):
        raise RuntimeError("the metrics backend is away")


@pytest.mark.parametrize("found", [None, BrokenStats()])
def test_a_task_works_without_metrics_and_with_broken_ones(org, run, monkeypatch, found):
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
    monkeypatch.setattr(metrics, "stats", lambda: found)
    done = run(ConversationOperator(task_id="talk", messages=["hello"]))
    assert done.value["outcome"] == "answered"


@pytest.mark.parametrize("backend", ["STATSD_ON", "STATSD_DATADOG_ENABLED", "OTEL_ON"])
def test_calls_are_counted_only_for_a_backend_that_airflow_is_told_of(monkeypatch, backend):
    assert metrics.count_calls not in observers()
    monkeypatch.setenv(f"AIRFLOW__METRICS__{backend}", "True")
    assert metrics.count_calls in observers()


def test_an_airflow_without_stats_is_no_error(monkeypatch):
    monkeypatch.setattr(_compat, "_STATS", ("airflow.no.such.module", "airflow.version"))
    assert _compat.stats.__wrapped__() is None


def test_the_metrics_of_a_task_arrive_when_airflow_is_told_to_send_them(dag_command, server):
    with Emulator() as org:
        status, output = dag_command(
            "chain",
            org,
            AIRFLOW__METRICS__STATSD_ON="True",
            AIRFLOW__METRICS__STATSD_HOST="127.0.0.1",
            AIRFLOW__METRICS__STATSD_PORT=str(server.port),
            AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED="True",
        )
    assert status == 0, output
    came = server.ours()
    assert came["message.sent,outcome=answered"] == 3
    assert (came["session.started"], came["session.ended,found=open"]) == (1, 1)
    # Each of the five tasks is a process of its own in production, and has a token of its own here, too.
    assert came["token.requested"] == 5
