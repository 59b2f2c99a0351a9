"""Exports the org's trace of a session as OpenTelemetry spans, below the span of the task.

Times and structure are those of the org; ids are new, in the trace of the task. Names and attributes follow
OpenTelemetry's GenAI conventions, which the org's spans follow only in part.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.trace import StatusCode

from airflow_provider_agentforce.instrumentation.tracing import PROVIDER, message

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from airflow_provider_agentforce.client.session_trace import SessionTrace, TracedSpan

_NS = 1_000_000_000
# An exporter's queue takes 2,048 spans by default, and drops the rest.
_MOST_UNSENT = 1_000
_NAMED_AFTER = {
    "execute_tool": "gen_ai.tool.name",
    "chat": "gen_ai.request.model",
    "invoke_agent": "gen_ai.agent.name",
}


def export_trace(trace: SessionTrace, *, capture_content: bool = False) -> None:
    """Export the spans of a trace through the tracer provider of the process.

    :param capture_content: export the texts of messages and answers, too.
    """
    tracer = otel_trace.get_tracer(__name__.split(".", 1)[0])
    known = {span.span_id for span in trace.spans}
    inside = defaultdict(list)
    for span in trace.spans:
        inside[span.parent_id if span.parent_id in known else ""].append(span)
    waiting: list[tuple[TracedSpan, Context]] = [
        (span, otel_context.get_current()) for span in inside.pop("", [])
    ]
    for number, (span, above) in enumerate(waiting, 1):
        if span.began is None:
            continue
        name, attributes = _described(trace, span, capture_content=capture_content)
        made = tracer.start_span(name, context=above, attributes=attributes, start_time=int(span.began * _NS))
        _mark_failure(made, span)
        made.end(int(max(span.began, span.ended or 0.0) * _NS))
        here = otel_trace.set_span_in_context(made, above)
        waiting += [(one, here) for one in inside.pop(span.span_id, [])]
        if number % _MOST_UNSENT == 0:
            _flush()
    _flush()


def _mark_failure(made: Span, span: TracedSpan) -> None:
    if span.action is not None and span.action.success is False:
        made.set_attribute("error.type", "action_failed")
        made.set_status(StatusCode.ERROR)


def _described(
    trace: SessionTrace, span: TracedSpan, *, capture_content: bool
) -> tuple[str, dict[str, str | int]]:
    """Return the name of a span and its attributes."""
    found = {
        "gen_ai.operation.name": _operation(span),
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.conversation.id": trace.session_id,
        "gen_ai.agent.name": trace.agent,
        "gen_ai.tool.name": span.action.name if span.action else None,
        "gen_ai.request.model": span.model,
        "gen_ai.usage.input_tokens": span.tokens.get("input_tokens"),
        "gen_ai.usage.output_tokens": span.tokens.get("output_tokens"),
    }
    if capture_content and span.messages:
        asked = [text for by_agent, text in span.messages if not by_agent]
        answered = [text for by_agent, text in span.messages if by_agent]
        found["gen_ai.input.messages"] = message("user", "\n".join(asked))
        found["gen_ai.output.messages"] = message("assistant", "\n".join(answered), finish_reason="stop")
    operation = _operation(span)
    about = found[_NAMED_AFTER[operation]] if operation else None
    name = f"{operation} {about or ''}".strip() if operation else span.name or "step"
    return name, {key: value for key, value in found.items() if value is not None}


def _operation(span: TracedSpan) -> str | None:
    if span.action is not None:
        return "execute_tool"
    if span.model is not None or span.tokens:
        return "chat"
    return "invoke_agent" if span.messages else None


def _flush() -> None:
    flush = getattr(otel_trace.get_tracer_provider(), "force_flush", None)
    if flush is not None:
        flush()
