"""Reads the trace of a session from the org's reply, which is OTLP in JSON. Pure.

The call is https://developer.salesforce.com/docs/ai/agentforce/guide/otel-api.html, which promises OTLP but
no attributes. The names of the attributes are those that public exporters of such traces read, so each of
them may be absent. Unknown parts are ignored.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_agentforce.client import json_values
from airflow_provider_agentforce.client.responses import UnreadableReplyError
from airflow_provider_agentforce.client.session_trace import (
    SessionTrace,
    TracedAction,
    TracedMessage,
    TracedSpan,
)

_NS = 1_000_000_000
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_MESSAGE = re.compile(r"agent\.messages\.(user|assistant)\.(\d{1,6})\.content")
_SESSION_KEYS = ("session.id", "session_id", "sessionId")
_AGENT_KEYS = ("session.actors.0.name", "gen_ai.agent.name")
_ACTION_NAMES = ("step.name", "action.name", "gen_ai.tool.name")
_ACTION_TYPES = {"ACTION_STEP", "EXECUTE_TOOL"}
_TYPE_KEYS = ("step.type", "gen_ai.operation.name")
_ERROR_KEYS = ("error.type", "error.message", "step.error", "exception.message")
_MODEL_KEYS = ("gen_ai.request.model", "gen_ai.response.model")
_TOKEN_KEYS = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.usage.total_tokens")
_STATUS = {"1": True, "OK": True, "2": False, "ERROR": False}
_KINDS = ("stringValue", "intValue", "doubleValue", "boolValue", "bytesValue", "kvlistValue", "arrayValue")


def read_trace(value: Any, session_id: str) -> SessionTrace:
    """Read OTLP JSON. Spans of other sessions are ignored.

    :param value: the parsed reply.
    :raises UnreadableReplyError: if it has no ``resourceSpans``.
    """
    found = _SessionSpans()
    for resource in _resources(value):
        about = _wanted(_mapping(resource.get("resource")).get("attributes"))
        if not _is_of(about, session_id):
            continue
        found.agent = found.agent or _first(about, _AGENT_KEYS)
        for span in _spans_of(resource):
            named = _wanted(span.get("attributes"))
            if _is_of(named, session_id):
                found.spans.append(_Span.read(span, named))
    return found.trace(session_id)


@dataclass
class _Span:
    """The relevant parts of a span.

    :ivar said: role, index and text of its messages.
    :ivar named: its relevant attributes.
    """

    span_id: str
    parent: str
    name: str
    began: float | None
    ended: float | None
    whole: bool
    named: dict[str, Any]
    said: list[tuple[int, bool, str]]
    action: TracedAction | None

    @classmethod
    def read(cls, span: Mapping[str, Any], named: dict[str, Any]) -> _Span:
        began, ended = _seconds(span.get("startTimeUnixNano")), _seconds(span.get("endTimeUnixNano"))
        found = ((_MESSAGE.fullmatch(key), text) for key, text in named.items())
        said = [(int(match[2]), match[1] != "user", str(text)) for match, text in found if match]
        return cls(
            span_id=str(span.get("spanId") or ""),
            parent=str(span.get("parentSpanId") or ""),
            name=html.unescape(str(span.get("name") or "")),
            began=began,
            ended=ended,
            whole=ended is not None and not span.get("droppedAttributesCount"),
            named=named,
            said=sorted(said),
            action=_action(span, named, began, ended),
        )

    def overlaps(self, later: _Span) -> bool:
        """Tell whether a span that began later, or at the same time, began before this one ended."""
        if self.began is None or later.began is None:
            return False
        return later.began == self.began or self.ended is None or later.began < self.ended

    def holds_more_than(self, earlier: _Span) -> bool:
        """Tell whether the org wrote it after an earlier form of the same span, which lacked something."""
        return not earlier.whole or (self.whole and len(self.said) > len(earlier.said))

    def tokens(self) -> dict[str, int]:
        """Return the tokens of a model call, by their names without the prefix."""
        found = {key.rpartition(".")[2]: _number(_ending(self.named, key)) for key in _TOKEN_KEYS}
        return {name: number for name, number in found.items() if number}

    def traced(self) -> TracedSpan:
        """Return the span in its public form."""
        model = next((str(found) for key in _MODEL_KEYS if (found := _ending(self.named, key))), None)
        return TracedSpan(
            self.span_id,
            self.parent,
            self.name,
            self.began,
            self.ended,
            self.action,
            model,
            self.tokens(),
            tuple((by_agent, text) for _, by_agent, text in self.said),
        )

    def exchanges(self) -> Iterator[tuple[str, str | None]]:
        """Yield the messages to the agent with their answers: those that follow, up to the next message."""
        indexes = {index for index, by_agent, _ in self.said if by_agent}
        # Each side may be counted separately: then an answer has the number of its message.
        apart = any(index in indexes for index, by_agent, _ in self.said if not by_agent)
        asked = [(index, text) for index, by_agent, text in self.said if not by_agent]
        bounds = [index for index, _ in asked[1:]] + [1_000_000]
        for (index, text), end in zip(asked, bounds, strict=True):
            answers = [
                answer
                for place, by_agent, answer in self.said
                if by_agent and (index <= place < end if apart else index < place < end)
            ]
            yield text, "\n".join(answers) if answers else None


@dataclass
class _SessionSpans:
    """The spans of a session."""

    agent: str | None = None
    spans: list[_Span] = field(default_factory=list)

    def trace(self, session_id: str) -> SessionTrace:
        self.spans = self._once()
        self.spans.sort(key=lambda span: (span.began is None, span.began or 0.0))
        tokens = self._tokens()
        models = [_ending(span.named, key) for span in self.spans for key in _MODEL_KEYS]
        return SessionTrace(
            session_id,
            self.agent,
            tuple(self._messages()),
            tuple(span.action for span in self.spans if span.action is not None),
            models=tuple(dict.fromkeys(str(model) for model in models if model)),
            spans=tuple(span.traced() for span in self.spans),
            **tokens,
        )

    def _once(self) -> list[_Span]:
        """Keep one of the spans with the same id: a span is written again when it has ended."""
        found: dict[str, _Span] = {}
        for number, span in enumerate(self.spans):
            name = span.span_id or f"#{number}"
            if name not in found or span.holds_more_than(found[name]):
                found[name] = span
        return list(found.values())

    def _messages(self) -> Iterator[TracedMessage]:
        position = 0
        for span in self._turns():
            for number, (text, answer) in enumerate(span.exchanges()):
                position += 1
                # A span has the time of its first message.
                yield TracedMessage(position, text, answer, span.whole, None if number else span.began)

    def _turns(self) -> list[_Span]:
        """Keep one of the spans with the same messages at the same time: a session has one turn at a time.

        So, whatever the times of a span, it is the same turn, written again.
        """
        kept: list[_Span] = []
        places: dict[tuple[int, bool, str], int] = {}
        for span in self._outermost([span for span in self.spans if span.said]):
            place = places.get(span.said[0])
            if place is None or not kept[place].overlaps(span):
                places[span.said[0]] = len(kept)
                kept.append(span)
            elif span.holds_more_than(kept[place]):
                kept[place] = span
        return kept

    def _outermost(self, chosen: list[_Span]) -> list[_Span]:
        """Leave out spans inside another span: steps may repeat the messages of their turn."""
        parents = {span.span_id: span.parent for span in self.spans if span.span_id}
        ids = {span.span_id for span in chosen if span.span_id}

        def is_inside(span: _Span) -> bool:
            place, seen = span.parent, {span.span_id}
            while place and place not in seen:
                if place in ids:
                    return True
                seen.add(place)
                place = parents.get(place, "")
            return False

        return [span for span in chosen if not is_inside(span)]

    def _tokens(self) -> dict[str, int]:
        """Add up the tokens; a span that contains the sum of its steps is not counted in addition."""
        counted = [(span, tokens) for span in self.spans if (tokens := span.tokens())]
        parents = {span.parent for span, _ in counted}
        sums = dict.fromkeys((key.rpartition(".")[2] for key in _TOKEN_KEYS), 0)
        for span, tokens in counted:
            if span.span_id and span.span_id in parents:
                continue
            tokens.setdefault("total_tokens", tokens.get("input_tokens", 0) + tokens.get("output_tokens", 0))
            for name, number in tokens.items():
                sums[name] += number
        return sums


def _resources(value: Any) -> Iterator[Mapping[str, Any]]:
    """Return the resources of a reply, which may be wrapped in a list."""
    lists = [
        one[name]
        for one in (value if isinstance(value, list) else [value])
        if isinstance(one, Mapping)
        for name in ("resourceSpans", "resource_spans")
        if isinstance(one.get(name), list)
    ]
    if not lists:
        raise UnreadableReplyError("JSON, but without a list of resourceSpans")
    return (resource for found in lists for resource in found if isinstance(resource, Mapping))


def _spans_of(resource: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for name in ("scopeSpans", "scope_spans", "instrumentationLibrarySpans"):
        for scope in _list(resource.get(name)):
            yield from (span for span in _list(_mapping(scope).get("spans")) if isinstance(span, Mapping))


def _wanted(attributes: Any) -> dict[str, Any]:
    """Return the relevant attributes by their paths; those inside maps and lists are ``outer.inner``."""
    found = {path: leaf for path, leaf in _leaves("", attributes) if _counts(path)}
    return {path: html.unescape(leaf) if isinstance(leaf, str) else leaf for path, leaf in found.items()}


def _counts(path: str) -> bool:
    names = (*_SESSION_KEYS, *_AGENT_KEYS, *_ACTION_NAMES, *_TYPE_KEYS, *_ERROR_KEYS)
    return (
        path in names or path.endswith((*_MODEL_KEYS, *_TOKEN_KEYS)) or _MESSAGE.fullmatch(path) is not None
    )


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values in attributes, whatever OTLP or JSON form they have, each with its path."""
    value = _unwrapped(value)
    if isinstance(value, str) and value[:1] == "{" and path.endswith((".value", "_value")):
        value = _parsed(value)
    inner = _inner(value)
    if inner is None:
        yield path, value
        return
    for name, item in inner:
        yield from _leaves(f"{path}.{name}" if path else str(name), item)


def _unwrapped(value: Any) -> Any:
    """Extract a value from OTLP's ``{"stringValue": …}`` and similar forms."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return value
    ((kind, inner),) = value.items()
    if kind not in _KINDS:
        return value
    return _mapping(inner).get("values", inner) if kind in ("kvlistValue", "arrayValue") else inner


def _inner(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Return the named parts of a map or a list, ``None`` for a value without parts."""
    if isinstance(value, Mapping):
        return value.items()
    if not isinstance(value, list):
        return None
    if all(isinstance(one, Mapping) and "key" in one for one in value):
        return [(one["key"], one.get("value")) for one in value]
    return enumerate(value)


def _parsed(text: str) -> Any:
    try:
        return json_values.decode(html.unescape(text).encode())
    except ValueError:
        return text


def _action(
    span: Mapping[str, Any], named: dict[str, Any], began: float | None, ended: float | None
) -> TracedAction | None:
    if str(_first(named, _TYPE_KEYS) or "").upper() not in _ACTION_TYPES:
        return None
    name = _first(named, _ACTION_NAMES) or html.unescape(str(span.get("name") or ""))
    known = began is not None and ended is not None and ended >= began
    duration = round(ended - began, 6) if known else None  # type: ignore[operator] # both are known
    return TracedAction(name, _succeeded(span, named), duration)


def _succeeded(span: Mapping[str, Any], named: dict[str, Any]) -> bool | None:
    status = _mapping(span.get("status"))
    if _first(named, _ERROR_KEYS):
        return False
    for word in (status.get("code"), status.get("message")):
        known = _STATUS.get(str(word).upper().removeprefix("STATUS_CODE_"))
        if known is not None:
            return known
    return None


def _is_of(named: Mapping[str, Any], session_id: str) -> bool:
    named_id = _first(named, _SESSION_KEYS)
    return named_id is None or named_id.lower() == session_id.lower() or not _UUID.fullmatch(named_id)


def _first(named: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((str(named[key]) for key in keys if named.get(key) not in (None, "")), None)


def _ending(named: Mapping[str, Any], name: str) -> Any:
    """Return an attribute, or one with the same name inside another."""
    return next((value for key, value in named.items() if key == name or key.endswith(f".{name}")), None)


def _number(value: Any) -> int:
    try:
        return max(0, int(value))
    except (TypeError, ValueError, OverflowError):
        return 0


def _seconds(value: Any) -> float | None:
    number = _number(value)
    return number / _NS if number else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
