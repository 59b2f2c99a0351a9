"""Turns recorded calls into a script for the emulator, without I/O."""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from airflow_provider_agentforce.emulator.scrubber import Scrubber

_HEADER = """\
# Recorded by agentforce-emulator. Tokens, ids, user names and email addresses are replaced; what people and
# the agent wrote otherwise is not. Read it before you share it.
"""
_SHOWN_FORM_FIELDS = {"grant_type", "format", "client_assertion_type"}
_SECRET_PARAMETERS = {"access_token", "oauth_token", "sid", "session_id", "assertion"}
_SECRET_FIELDS = {
    *("access_token", "refresh_token", "id_token", "signature", "user_id", "organization_id", "username"),
    *("preferred_username", "email", "name", "nickname", "given_name", "family_name", "Username", "Email"),
}
# Parts of a streamed answer. A secret could be split across them, and the emulator makes its own.
_PASSING = {"TextChunk", "ProgressIndicator", "EndOfTurn", "ValidationFailureChunk"}


@dataclass(frozen=True, kw_only=True)
class RecordedCall:
    """A call that was passed on, and its answer. Names of headers are in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    status: int
    answer_headers: dict[str, str]
    answer: bytes


@dataclass(frozen=True)
class _RecordedAnswer:
    number: int
    text: str
    messages: list[dict[str, Any]]


@dataclass
class RecordedScript:
    """The conversations that were passed on.

    :ivar refused: how many messages were not answered with 200, by status; they are not in the script.
    """

    refused: Counter[int] = field(default_factory=Counter)
    _scrubber: Scrubber = field(default_factory=Scrubber)
    _greeting: str | None = None
    _answers: list[_RecordedAnswer] = field(default_factory=list)
    _numbers: Counter[str] = field(default_factory=Counter)

    @property
    def answers(self) -> int:
        """How many answers were recorded."""
        return len(self._answers)

    def take(self, call: RecordedCall) -> None:
        """Process a call: learn the secrets in it, and keep a message with its answer."""
        self._scrubber.learn(_secrets_in(call))
        parts = call.path.strip("/").split("/")
        if call.method != "POST" or "sessions" not in parts:
            return
        after = parts[parts.index("sessions") + 1 :]
        if not after:
            self._take_start(call)
        elif after[1:2] == ["messages"]:
            self._take_message(after[0], call)

    def _take_start(self, call: RecordedCall) -> None:
        messages = _mapping(_json(call.answer)).get("messages") or [{}]
        if call.status == 200 and self._greeting is None:  # noqa: PLR2004
            self._greeting = str(messages[0].get("message") or "")

    def _take_message(self, session: str, call: RecordedCall) -> None:
        sent = _mapping(_mapping(_json(call.body)).get("message"))
        messages = list(_messages(call))
        if call.status != 200 or not messages:  # noqa: PLR2004
            self.refused[call.status] += 1
            return
        self._numbers[session] += 1
        self._answers.append(_RecordedAnswer(self._numbers[session], str(sent.get("text") or ""), messages))

    def yaml(self) -> str:
        """Return the script.

        An entry that still has a part of a secret, whatever the reason, is left out.
        """
        import yaml  # noqa: PLC0415 - only YAML scripts need it

        def dumped(value: Any) -> str:
            return yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=2**31)

        entries = [dumped([entry]) for entry in self._entries()]
        kept = [entry for entry in entries if self._scrubber.is_clean(entry)]
        greeting = dumped({"greeting": self._scrubber.text(self._greeting or "")})
        answers = f"answers:\n{''.join(kept)}" if kept else "answers: []\n"
        return f"{_HEADER}{greeting}{answers}"

    def _entries(self) -> list[dict[str, Any]]:
        """Return an entry for each answer, those for an exact text first.

        If the answer to a message depends on its position in the session, its entry names the turn. Of
        several answers to the same message at the same position, the first counts.
        """
        answers: dict[str, dict[int, Any]] = {}
        for answer in self._answers:
            messages = _as_template(self._scrubber.value(answer.messages))
            answers.setdefault(self._scrubber.pattern(answer.text), {}).setdefault(answer.number, messages)
        entries = []
        for pattern in sorted(answers, key=_generality):
            by_turn = answers[pattern]
            several = len({json.dumps(_without_ids(one), sort_keys=True) for one in by_turn.values()}) > 1
            for number, messages in by_turn.items() if several else list(by_turn.items())[:1]:
                only = {"turn": number} if several else {}
                entries.append({"match": pattern, **only, "messages": messages})
        return entries


def _generality(pattern: str) -> tuple[int, int]:
    return pattern.count(".+?"), -len(pattern)


def _without_ids(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = ("id", "feedbackId", "planId", "metrics")
    return [{key: item for key, item in one.items() if key not in names} for one in messages]


def _as_template(value: Any) -> Any:
    """Return a JSON value with each text as a template that renders to this text."""
    if isinstance(value, dict):
        return {key: _as_template(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_template(item) for item in value]
    return value.replace("{", '{{ "{" }}') if isinstance(value, str) else value


def _messages(call: RecordedCall) -> Iterator[dict[str, Any]]:
    """Yield the messages of an answer, also of one that was streamed, each once."""
    if "text/event-stream" in call.answer_headers.get("content-type", ""):
        lines = call.answer.decode("utf-8", "replace").splitlines()
        events = [_mapping(_json(line[5:].encode())) for line in lines if line.startswith("data:")]
        found = [one for event in events for one in event.get("messages") or [event.get("message")]]
    else:
        found = _mapping(_json(call.answer)).get("messages") or []
    seen = []
    for message in found:
        if isinstance(message, dict) and message.get("type") not in _PASSING and message not in seen:
            seen.append(message)
            yield message


def _secrets_in(call: RecordedCall) -> Iterator[Any]:
    headers = (call.headers, call.answer_headers)
    for text in (one.get(name, "") for one in headers for name in ("authorization", "cookie", "set-cookie")):
        yield from _credentials(text)
    yield from (value for name, value in parse_qsl(call.query) if name in _SECRET_PARAMETERS)
    if call.path.endswith("/oauth2/token"):
        form = parse_qsl(call.body.decode("utf-8", "replace"))
        for name, value in form:
            if name not in _SHOWN_FORM_FIELDS:
                yield value
                yield from _claims(value)
        # The address of the user, whose last two parts are the org and the user.
        yield from urlsplit(str(_mapping(_json(call.answer)).get("id") or "")).path.split("/")[-2:]
    if "/einstein/ai-agent/" not in call.path:
        yield from _named(_json(call.answer))


def _credentials(header: str) -> Iterator[str]:
    scheme, _, value = header.partition(" ")
    yield value
    if scheme.lower() == "basic":
        yield from _base64(value).split(":", 1)
    for cookie in header.split(";"):
        yield cookie.partition("=")[2].strip()


def _claims(assertion: str) -> Iterator[Any]:
    """Yield the app and the user that the assertion of a JWT-bearer grant names."""
    claims = _mapping(_json(_base64(assertion.split(".")[1]).encode())) if assertion.count(".") == 2 else {}  # noqa: PLR2004
    yield from (claims.get("iss"), claims.get("sub"))


def _named(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _named(item)
    for key, item in _mapping(value).items():
        if key in _SECRET_FIELDS:
            yield item
        yield from _named(item)


def _base64(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
