"""OpenTelemetry spans of the calls, made with the real SDK and kept in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from airflow_provider_agentforce.hooks.agentforce import AgentforceHook
from airflow_provider_agentforce.instrumentation import tracing
from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    SessionTraceOperator,
    StartSessionOperator,
)

QUESTION = "What is the status of order 4711, asked by canary@example.com?"


@pytest.fixture(scope="session")
def exporter():
    """Where the spans of this process go from now on; a process has one tracer provider for good."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
    return kept


@pytest.fixture
def spans(exporter):
    """Return the spans of this test, in the order of their ends."""
    exporter.clear()
    yield exporter.get_finished_spans
    exporter.clear()


@pytest.fixture
def task_span(spans):
    """The span that Airflow 3.3 has open while a task runs."""
    with trace.get_tracer("airflow").start_as_current_span("worker.task") as span:
        yield span


@pytest.fixture
def capturing(monkeypatch):
    monkeypatch.setenv("AIRFLOW__AGENTFORCE__CAPTURE_CONTENT", "True")


def everything_in(spans):
    return "".join(span.to_json() for span in spans)


def test_a_chain_of_tasks_makes_a_span_of_every_call_under_the_span_of_the_task(org, run, task_span, spans):
    start = run(StartSessionOperator(task_id="start")).value
    send = run(SendMessageOperator(task_id="send", session=start, text=QUESTION)).value
    run(EndSessionOperator(task_id="end", session=send))
    server = urlsplit(org.url)
    common = {
        "gen_ai.provider.name": "salesforce.agentforce",
        "gen_ai.agent.id": org.agent_id,
        "gen_ai.conversation.id": start["session_id"],
        "server.address": server.hostname,
        "server.port": server.port,
        "agentforce.attempts": 1,
        "http.response.status_code": 200,
    }
    assert [(span.name, dict(span.attributes)) for span in spans()] == [
        (
            "start_session",
            {
                **common,
                "gen_ai.operation.name": "start_session",
                "agentforce.external_session_key": start["external_session_key"],
            },
        ),
        (
            "invoke_agent",
            {
                **common,
                "gen_ai.operation.name": "invoke_agent",
                "agentforce.sequence_id": 1,
                "agentforce.outcome": "answered",
            },
        ),
        (
            "end_session",
            {**common, "gen_ai.operation.name": "end_session"},
        ),
    ]
    for span in spans():
        assert span.kind is SpanKind.CLIENT
        assert span.parent.span_id == task_span.get_span_context().span_id
        assert span.status.status_code is StatusCode.UNSET


def test_the_current_span_of_the_task_is_restored_after_every_call(org, run, task_span):
    run(ConversationOperator(task_id="talk", messages=["hello"]))
    assert trace.get_current_span() is task_span


def test_spans_name_the_last_status_the_error_and_the_attempts_but_not_its_text(org, run, task_span, spans):
    org.fail("send", status=423, headers={"Retry-After": "0"})
    org.fail("send", status=500, body={"message": QUESTION})
    done = run(ConversationOperator(task_id="talk", messages=[QUESTION]))
    assert type(done.error).__name__ == "DeliveryUnknownError"
    (sent,) = [span for span in spans() if span.name == "invoke_agent"]
    assert sent.status.status_code is StatusCode.ERROR
    assert sent.attributes["error.type"] == "DeliveryUnknownError"
    assert sent.attributes["http.response.status_code"] == 500
    assert sent.attributes["agentforce.attempts"] == 2
    assert "agentforce.outcome" not in sent.attributes
    assert sent.events == ()
    assert not sent.status.description


def test_a_server_that_cannot_be_reached_leaves_a_span_without_a_status(monkeypatch, spans, run):
    monkeypatch.setenv(
        "AIRFLOW_CONN_AGENTFORCE_DEFAULT",
        json.dumps({"conn_type": "agentforce", "host": "http://127.0.0.1:1", "login": "k", "password": "s"}),
    )
    run(StartSessionOperator(task_id="start", agent_id="0Xxxx0000000001CAA"))
    (span,) = spans()
    assert span.attributes["error.type"] == "AgentforceTransientError"
    assert "http.response.status_code" not in span.attributes
    assert "gen_ai.conversation.id" not in span.attributes


def test_an_answer_that_is_a_failure_is_an_error_of_the_span(org, run, spans):
    run(ConversationOperator(task_id="talk", messages=["please fail"]))
    (sent,) = [span for span in spans() if span.name == "invoke_agent"]
    assert sent.attributes["agentforce.outcome"] == "failed"
    assert sent.attributes["error.type"] == "agent_failed"
    assert sent.status.status_code is StatusCode.ERROR


def test_nothing_of_the_conversation_and_no_secret_is_in_a_span_unless_asked_for(org, run, spans):
    done = run(
        ConversationOperator(task_id="talk", messages=[QUESTION], variables={"$Context.Mail": "canary-var"})
    )
    recorded = everything_in(spans())
    assert done.value["text"] not in recorded
    for text in ("canary", "4711", org.consumer_secret, org.consumer_key):
        assert text not in recorded


def test_what_was_said_is_in_the_spans_when_it_is_asked_for(org, run, spans, capturing):
    done = run(
        ConversationOperator(task_id="talk", messages=[QUESTION], variables={"$Context.Mail": "canary-var"})
    )
    (sent,) = [span for span in spans() if span.name == "invoke_agent"]
    assert json.loads(sent.attributes["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": QUESTION}]}
    ]
    assert json.loads(sent.attributes["gen_ai.output.messages"]) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": done.value["text"]}],
            "finish_reason": "stop",
        }
    ]
    recorded = everything_in(spans())
    for text in ("canary-var", org.consumer_secret, org.consumer_key):
        assert text not in recorded


def test_the_span_of_a_plan_names_subagent_and_actions_and_not_what_they_got(org, run, spans):
    run(ConversationOperator(task_id="talk", messages=["Where is order 4711?"], store_plans=True))
    (span,) = [one for one in spans() if one.name == "read_plan"]
    assert span.attributes["agentforce.subagent"] == "DefaultTopic"
    assert span.attributes["agentforce.actions"] == ("Get_Order_Status",)
    assert "4711" not in span.to_json()


def test_a_message_without_an_answer_is_captured_alone(org, run, spans, capturing):
    org.fail("send", status=500)
    run(ConversationOperator(task_id="talk", messages=[QUESTION]))
    (sent,) = [span for span in spans() if span.name == "invoke_agent"]
    assert QUESTION in sent.attributes["gen_ai.input.messages"]
    assert "gen_ai.output.messages" not in sent.attributes


def test_captured_texts_are_cut(org, run, spans, capturing):
    run(ConversationOperator(task_id="talk", messages=["x" * (tracing.MOST_CHARACTERS + 1)]))
    (sent,) = [span for span in spans() if span.name == "invoke_agent"]
    (message,) = json.loads(sent.attributes["gen_ai.input.messages"])
    content = message["parts"][0]["content"]
    assert (len(content), content[-1]) == (tracing.MOST_CHARACTERS, "…")


def test_a_setting_that_makes_no_sense_captures_nothing_and_says_so(org, run, spans, monkeypatch, caplog):
    monkeypatch.setenv("AIRFLOW__AGENTFORCE__CAPTURE_CONTENT", "perhaps")
    assert run(ConversationOperator(task_id="talk", messages=[QUESTION])).error is None
    assert "canary" not in everything_in(spans())
    assert "capture_content" in caplog.text


def test_spans_of_threads_are_children_of_the_task_and_of_their_own_conversations(org, task_span, spans):
    hook = AgentforceHook()
    _ = hook.client

    def talk(number):
        assert trace.get_current_span() is trace.INVALID_SPAN
        with hook.conversation() as chat:
            return number, chat.send(f"message {number}").session_id

    with ThreadPoolExecutor(16) as pool:
        sessions = dict(pool.map(talk, range(32)))
    made = spans()
    assert len(made) == 3 * 32
    assert {span.parent.span_id for span in made} == {task_span.get_span_context().span_id}
    for session in sessions.values():
        names = [span.name for span in made if span.attributes["gen_ai.conversation.id"] == session]
        assert sorted(names) == ["end_session", "invoke_agent", "start_session"]


def test_a_thread_with_a_span_of_its_own_keeps_it_as_the_parent(org, task_span, spans):
    hook = AgentforceHook()
    _ = hook.client

    def start(parent):
        token = otel_context.attach(trace.set_span_in_context(parent))
        try:
            hook.start_session()
        finally:
            otel_context.detach(token)

    record = trace.get_tracer("dag").start_span("record 7")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(start, record).result()
    (span,) = spans()
    assert span.parent.span_id == record.get_span_context().span_id


def test_a_call_made_by_a_library_during_ours_is_a_child_of_it(org, spans):
    hook = AgentforceHook()

    def as_an_instrumented_library_does(_message):
        with trace.get_tracer("library").start_as_current_span("inner"):
            pass

    session = hook.start_session()
    hook.send_message(session, "hello", stream=True, on_chunk=as_an_instrumented_library_does)
    by_name = {span.name: span for span in spans()}
    assert by_name["inner"].parent.span_id == by_name["invoke_agent"].get_span_context().span_id


def test_no_span_is_made_of_a_trace_that_is_not_sampled(org, spans):
    unsampled = trace.NonRecordingSpan(
        trace.SpanContext(trace_id=1, span_id=2, is_remote=False, trace_flags=trace.TraceFlags(0))
    )
    with trace.use_span(unsampled):
        AgentforceHook().start_session()
    assert spans() == ()


def test_a_process_without_a_tracer_provider_has_no_observer_of_its_calls():
    code = "from airflow_provider_agentforce.instrumentation import observers; assert observers() == []"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_task_works_where_opentelemetry_is_not_installed(org, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "airflow_provider_agentforce.instrumentation.tracing", None)
    assert run(ConversationOperator(task_id="talk", messages=["hello"])).value["outcome"] == "answered"


def test_the_spans_of_a_batch_hang_below_its_task_though_threads_make_them(
    org, run, task_span, spans, tmp_path
):
    records = [{"id": str(number)} for number in range(24)]
    done = run(
        ConversationBatchOperator(
            task_id="batch",
            records=records,
            key="id",
            message="order {{ record.id }}",
            result_path=f"file://{tmp_path}",
            max_concurrency=12,
        )
    )
    assert done.error is None
    made = spans()
    assert {span.parent.span_id for span in made} == {task_span.get_span_context().span_id}
    assert sum(span.name == "invoke_agent" for span in made) == 24
    assert trace.get_current_span() is task_span


def test_the_orgs_own_trace_becomes_spans_below_the_span_of_the_task(org, run, task_span, spans):
    talk = run(ConversationOperator(task_id="talk", messages=[QUESTION, "hello"])).value
    before = len(spans())
    found = run(SessionTraceOperator(task_id="traces", results=talk, export_spans=True)).value
    (line,) = found["sessions"]
    exported = spans()[before:]
    by_name = {span.name: span for span in exported}
    (tool,) = [span for span in exported if span.name.startswith("execute_tool ")]
    turns = [span for span in exported if span.name == "invoke_agent Service_Agent"]
    models = [span for span in exported if span.name.startswith("chat ")]
    assert (len(turns), len(models)) == (2, 2)
    assert {span.context.trace_id for span in exported} == {task_span.get_span_context().trace_id}
    assert {span.parent.span_id for span in turns} == {task_span.get_span_context().span_id}
    assert {tool.parent.span_id, *(span.parent.span_id for span in models)} == {
        span.context.span_id for span in turns
    }
    assert tool.attributes["gen_ai.tool.name"] == line["actions"][0]["name"]
    assert sum(span.attributes["gen_ai.usage.input_tokens"] for span in models) == line["input_tokens"]
    assert {span.attributes["gen_ai.conversation.id"] for span in exported} == {talk["session_id"]}
    assert all(span.start_time <= span.end_time < task_span.start_time + 60 * 10**9 for span in exported)
    assert len(by_name) == 3
    assert "canary" not in everything_in(exported)


@pytest.mark.usefixtures("capturing")
def test_the_texts_of_the_orgs_trace_are_exported_only_on_request(org, run, task_span, spans):
    talk = run(ConversationOperator(task_id="talk", messages=[QUESTION])).value
    before = len(spans())
    run(SessionTraceOperator(task_id="traces", results=talk, export_spans=True))
    (turn,) = [span for span in spans()[before:] if span.name.startswith("invoke_agent")]
    assert json.loads(turn.attributes["gen_ai.input.messages"])[0]["parts"][0]["content"] == QUESTION


def test_each_trace_of_a_batch_is_exported_once_however_often_the_task_looks(
    org, run, task_span, spans, tmp_path
):
    accounts = [{"id": "1"}, {"id": "2"}]
    batch = ConversationBatchOperator(
        task_id="ask", records=accounts, key="id", message="hello", result_path=f"file://{tmp_path}/results"
    )
    manifest = run(batch).value
    before = len(spans())
    traces = SessionTraceOperator(task_id="traces", results=manifest, export_spans=True)
    for _ in range(2):
        assert run(traces).error is None
    assert len([span for span in spans()[before:] if span.name.startswith("invoke_agent")]) == len(accounts)
