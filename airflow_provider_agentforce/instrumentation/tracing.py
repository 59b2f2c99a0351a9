"""OpenTelemetry spans of the calls, with the attributes of the GenAI conventions for agents.

https://github.com/open-telemetry/semantic-conventions-genai/blob/main/docs/gen-ai/gen-ai-agent-spans.md. The
exporter is that of the process's tracer provider, which Airflow or the user sets; without one there are no
spans.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from airflow_provider_agentforce.client.models import FAILED

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.call_events import CallEvent

PROVIDER = "salesforce.agentforce"
MOST_CHARACTERS = 8_000
_PORTS = {"http": 80, "https": 443}
# The conventions define "invoke_agent", and allow custom names for other operations.
_NAMES = {
    "start": "start_session",
    "send": "invoke_agent",
    "end": "end_session",
}
_PLAN = "read_plan"


def are_made() -> bool:
    """Return whether the process has a tracer provider, without which no span is recorded."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


class Spans:
    """An observer of the client: one span for every start, message, end and plan, with all its repetitions.

    In a thread without a current span, such as that of a pool, the parent is the span in which this object
    was created.

    :param capture_content: put the texts of messages and answers into the spans.
    """

    def __init__(self, *, capture_content: bool = False) -> None:
        self._tracer = trace.get_tracer(__name__.split(".", 1)[0])
        self._made_in = otel_context.get_current()
        self._capture_content = capture_content

    def __call__(self, begun: CallEvent) -> Callable[[CallEvent], None]:
        """Begin the span of a call, and return what ends it."""
        of_plan = begun.operation == "read" and begun.session_id is not None
        name = _PLAN if of_plan else _NAMES.get(begun.operation)
        if name is None:
            return _no_op
        here = otel_context.get_current()
        parent = here if trace.get_current_span(here).get_span_context().is_valid else self._made_in
        span = self._tracer.start_span(
            name, context=parent, kind=SpanKind.CLIENT, attributes=_known_before(name, begun)
        )
        if not span.is_recording():
            return _no_op
        token = otel_context.attach(trace.set_span_in_context(span, parent))

        def end(ended: CallEvent) -> None:
            try:
                self._describe(span, ended)
            finally:
                otel_context.detach(token)
                span.end()

        return end

    def _describe(self, span: Span, call: CallEvent) -> None:
        span.set_attributes(_known_after(call))
        error_type = _error_type(call)
        if error_type is not None:
            # Only the type: the text of an org's error may repeat a message.
            span.set_attribute("error.type", error_type)
            span.set_status(StatusCode.ERROR)
        if self._capture_content and call.operation == "send":
            span.set_attributes(_content(call))


def _no_op(_ended: CallEvent) -> None:
    """End nothing, because no span was begun."""


def _error_type(call: CallEvent) -> str | None:
    if call.error is not None:
        return type(call.error).__name__
    return "agent_failed" if call.outcome == FAILED else None


def _known_before(name: str, call: CallEvent) -> dict[str, str | int]:
    found = {
        "gen_ai.operation.name": name,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.agent.id": call.agent_id,
        "gen_ai.conversation.id": call.session_id,
        "agentforce.sequence_id": call.sequence_id,
    }
    return {key: value for key, value in found.items() if value is not None}


def _known_after(call: CallEvent) -> dict[str, str | int | list[str]]:
    api = urlsplit(call.api_url)
    found = {
        "gen_ai.conversation.id": call.session_id,
        "agentforce.external_session_key": call.external_session_key,
        "agentforce.outcome": call.outcome if call.operation == "send" else None,
        "agentforce.attempts": call.attempts,
        "agentforce.subagent": call.plan["subagent"] if call.plan else None,
        "agentforce.actions": [str(one["name"]) for one in call.plan["actions"]] if call.plan else None,
        "http.response.status_code": call.status,
        "server.address": api.hostname,
        "server.port": api.port or _PORTS.get(api.scheme),
    }
    return {key: value for key, value in found.items() if value is not None}


def _content(call: CallEvent) -> dict[str, str]:
    found = {"gen_ai.input.messages": message("user", call.text or "")}
    if call.answer is not None:
        reason = "error" if call.outcome == FAILED else "stop"
        found["gen_ai.output.messages"] = message("assistant", call.answer, finish_reason=reason)
    return found


def message(role: str, text: str, **more: str) -> str:
    """Return a message in the form of the conventions, as JSON."""
    content = text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
    said = {"role": role, "parts": [{"type": "text", "content": content}], **more}
    return json.dumps([said], ensure_ascii=False)
