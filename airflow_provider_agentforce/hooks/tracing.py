"""OpenTelemetry spans of the calls, with the attributes of the GenAI conventions for agents.

https://github.com/open-telemetry/semantic-conventions-genai/blob/main/docs/gen-ai/gen-ai-agent-spans.md. The
exporter is Airflow's, or whatever else has set the process's tracer provider; without one nothing is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from airflow_provider_agentforce.client.calls import Operation
from airflow_provider_agentforce.client.models import FAILED, Turn

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.jobs import Job

PROVIDER = "salesforce.agentforce"
MOST_CHARACTERS = 8_000
_PORTS = {"http": 80, "https": 443}
# The conventions know "invoke_agent"; for what they do not know they allow names of one's own.
_NAMES = {
    Operation.START: "start_session",
    Operation.SEND: "invoke_agent",
    Operation.END: "end_session",
}


class Spans:
    """An observer of the client: one span for every start, message and end, with all its repetitions.

    In a thread that has no span, as those of a pool, the parent is the span in which this object was made.

    :param capture_content: put the texts of messages and answers into the spans.
    """

    def __init__(self, *, capture_content: bool = False) -> None:
        self._tracer = trace.get_tracer(__name__.split(".", 1)[0])
        self._made_in = otel_context.get_current()
        self._capture_content = capture_content

    def __call__(self, job: Job) -> Callable[[], None]:
        """Begin the span of *job*, and return what ends it."""
        name = _NAMES.get(job.operation)
        if name is None:
            return _nothing
        here = otel_context.get_current()
        parent = here if trace.get_current_span(here).get_span_context().is_valid else self._made_in
        span = self._tracer.start_span(
            name, context=parent, kind=SpanKind.CLIENT, attributes=_known_before(name, job)
        )
        if not span.is_recording():
            return _nothing
        token = otel_context.attach(trace.set_span_in_context(span, parent))

        def end() -> None:
            try:
                self._describe(span, job)
            finally:
                otel_context.detach(token)
                span.end()

        return end

    def _describe(self, span: Span, job: Job) -> None:
        span.set_attributes(_known_after(job))
        error_type = _error_type(job)
        if error_type is not None:
            # Neither the text nor the trace of the error: an org's error may repeat what was said.
            span.set_attribute("error.type", error_type)
            span.set_status(StatusCode.ERROR)
        if self._capture_content and job.operation is Operation.SEND:
            span.set_attributes(_content(job))


def _nothing() -> None:
    """End what was not begun."""


def _turn(job: Job) -> Turn | None:
    if job.operation is Operation.SEND and job.result is not None and job.error is None:
        turn: Turn = job.result.value
        return turn
    return None


def _error_type(job: Job) -> str | None:
    if job.error is not None:
        return type(job.error).__name__
    turn = _turn(job)
    return "agent_failed" if turn is not None and turn.outcome == FAILED else None


def _known_before(name: str, job: Job) -> dict[str, str | int]:
    found = {
        "gen_ai.operation.name": name,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.agent.id": job.agent_id,
        "gen_ai.conversation.id": job.session_id,
        "agentforce.sequence_id": job.sequence_id,
    }
    return {key: value for key, value in found.items() if value is not None}


def _known_after(job: Job) -> dict[str, str | int]:
    result, turn, api = job.result, _turn(job), urlsplit(job.api)
    started = job.operation is Operation.START and result is not None and job.error is None
    found = {
        "gen_ai.conversation.id": result.value[0] if started and result else None,
        "agentforce.external_session_key": job.external_session_key,
        "agentforce.outcome": turn.outcome if turn else None,
        "agentforce.attempts": job.attempts,
        "http.response.status_code": result.exchange.status if result else None,
        "server.address": api.hostname,
        "server.port": api.port or _PORTS.get(api.scheme),
    }
    return {key: value for key, value in found.items() if value is not None}


def _content(job: Job) -> dict[str, str]:
    turn = _turn(job)
    found = {"gen_ai.input.messages": _message("user", job.text or "")}
    if turn is not None:
        reason = "error" if turn.outcome == FAILED else "stop"
        found["gen_ai.output.messages"] = _message("assistant", turn.text, finish_reason=reason)
    return found


def _message(role: str, text: str, **more: str) -> str:
    content = text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
    message = {"role": role, "parts": [{"type": "text", "content": content}], **more}
    return json.dumps([message], ensure_ascii=False)
