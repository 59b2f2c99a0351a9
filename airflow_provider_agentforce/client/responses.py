"""Reads what the org answers: bytes in, values out. Pure, and strict about bytes, lenient about content.

A reply may hold legal JSON that no database or message format stores. By the time that shows, the agent has
acted; so every value is made storable here, where the reply is parsed.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_agentforce.client import models
from airflow_provider_agentforce.client.models import Turn
from airflow_provider_agentforce.client.delivery_policy import Failure

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# Error texts are matched against patterns whose time grows faster than the text.
_LONGEST_ERROR = 10_000
_TEXT_TYPES = {"Inform", "Text", "Inquire", "Confirm", "Failure", "Error", "Escalate"}
# The first that fits names the outcome: what a Dag must act on outranks what merely happened.
_OUTCOMES = (
    ({"Error", "Failure"}, models.FAILED),
    ({"Escalate"}, models.ESCALATED),
    ({"Confirm"}, models.NEEDS_CONFIRMATION),
    ({"Inquire"}, models.NEEDS_INPUT),
    ({"SessionEnded"}, models.ENDED),
)


class UnreadableReplyError(ValueError):
    """A reply is not what the API promises. The text says what it is instead.

    :param failure: the row of the retry table that it belongs to.
    """

    def __init__(self, what: str, failure: Failure = Failure.UNREADABLE) -> None:
        super().__init__(what)
        self.failure = failure


@dataclass(frozen=True)
class TokenReply:
    """What the token endpoint gave.

    :param lifetime: seconds from now, or ``None`` when the reply does not tell.
    :param scopes: the granted scopes, ``None`` when the reply does not tell.
    """

    access_token: str = field(repr=False)
    lifetime: float | None
    scopes: frozenset[str] | None
    api_instance_url: str | None
    instance_url: str | None
    is_jwt: bool


@dataclass(frozen=True)
class ErrorReply:
    """What an error body says.

    :param error: the class or code, such as ``NotFoundException`` or ``invalid_grant``.
    :param message: its words, with those of a wrapped inner error.
    """

    error: str
    message: str

    @property
    def text(self) -> str:
        """Both, for matching and for people."""
        return ": ".join(part for part in (self.error, self.message) if part)


def decode(body: bytes) -> Any:
    """Parse *body* as UTF-8 JSON with values that can be stored, or raise :class:`UnreadableReplyError`."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableReplyError(f"not UTF-8 text ({error.reason} at byte {error.start})") from None
    try:
        return storable(decoder(parse_constant=str).decode(text))
    except RecursionError:
        raise UnreadableReplyError("JSON nested too deep") from None
    except ValueError as error:
        what = "empty" if not text.strip() else f"not JSON ({error})"
        raise UnreadableReplyError(what) from None


def decoder(parse_constant: Callable[[str], Any]) -> json.JSONDecoder:
    """Return a JSON decoder that reads a number which no database stores as its digits.

    :param parse_constant: is given ``NaN``, ``Infinity`` or ``-Infinity``, which JSON does not have.
    """
    return json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=parse_constant)


def decode_object(body: bytes) -> dict[str, Any]:
    """Parse *body* as a JSON object, or raise :class:`UnreadableReplyError`."""
    parsed = decode(body)
    if not isinstance(parsed, dict):
        raise UnreadableReplyError(f"JSON, but a {type(parsed).__name__} instead of an object")
    return parsed


def storable(value: Any) -> Any:
    """Replace the characters that msgpack or PostgreSQL refuse by U+FFFD, in keys too."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value) if _UNSTORABLE.search(value) else value
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return value


def token(body: bytes, *, now: float) -> TokenReply:
    """Read a token reply. *now* is the wall clock in seconds, for a token that only tells its end.

    The reply holds no ``expires_in`` in the official sample, so the JWT's own claims come first
    (https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-get-started.html).
    """
    reply = decode_object(body)
    access_token = reply.get("access_token")
    if not isinstance(access_token, str) or not re.fullmatch(r"[\x21-\x7e]+", access_token):
        raise UnreadableReplyError("a JSON object without an access_token")
    if str(reply.get("token_type", "Bearer")).lower() != "bearer":
        raise UnreadableReplyError("a token that is not of type Bearer")
    claims = jwt_claims(access_token)
    return TokenReply(
        access_token=access_token,
        lifetime=_lifetime(claims or {}, reply.get("expires_in"), now),
        scopes=_scopes(reply.get("scope"), claims or {}),
        api_instance_url=_text_or_none(reply.get("api_instance_url")),
        instance_url=_text_or_none(reply.get("instance_url")),
        is_jwt=claims is not None,
    )


def session_id(reply: dict[str, Any]) -> str:
    """Return the id of a started session; only this field of the reply is needed."""
    value = reply.get("sessionId")
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", value):
        raise UnreadableReplyError("a JSON object without a usable sessionId")
    return value


def turn(messages: Any, *, session: models.Session, sequence_id: int, spoken: str = "") -> Turn:
    """Read the messages of one answer. Unknown types stay in ``messages`` and change nothing else.

    :param spoken: text that was streamed; used only when no message holds the whole text.
    """
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise UnreadableReplyError("a JSON object whose messages are not a list of objects")
    return Turn(
        session_id=session.session_id,
        sequence_id=sequence_id,
        agent_id=session.agent_id,
        text=answer_text(messages) or spoken,
        outcome=_outcome(messages),
        messages=messages,
        citations=_collected(messages, "citedReferences"),
        results=_collected(messages, "result"),
        feedback_id=_last_text(messages, "feedbackId"),
        plan_id=_last_text(messages, "planId"),
        is_content_safe=_all_safe(messages),
    )


def answer_text(messages: Iterable[Any]) -> str:
    """Join what the agent said. ``message`` is the official field, ``text`` an older one."""
    said = []
    for message in messages:
        if not isinstance(message, dict) or str(message.get("type")) not in _TEXT_TYPES:
            continue
        if str(message.get("role", "Agent")).lower() == "user":
            continue
        words = message.get("message", message.get("text"))
        if isinstance(words, str) and words:
            said.append(words)
    return "\n".join(said)


def failure_text(messages: Iterable[dict[str, Any]]) -> str:
    """Return why the agent says that it failed, in its own words."""
    for message in messages:
        if message.get("type") == "Failure":
            errors = message.get("errors")
            words = [str(item) for item in errors] if isinstance(errors, list) else []
            return "; ".join([str(message.get("code", "")), str(message.get("message") or ""), *words])
        if message.get("type") == "Error":
            return f"{message.get('error', '')}: {message.get('message', '')}"
    return ""


def error(body: bytes) -> ErrorReply:
    """Read an error body: the API's object, an OAuth error, a Salesforce array, HTML or nothing."""
    try:
        parsed = decode(body)
    except UnreadableReplyError:
        return ErrorReply("", _plain(body))
    if isinstance(parsed, list) and parsed and isinstance(parsed[0], dict):
        parsed = parsed[0]
    if not isinstance(parsed, dict):
        return ErrorReply("", _plain(body))
    code = parsed.get("error") or parsed.get("errorCode") or ""
    message = parsed.get("error_description") or parsed.get("message") or parsed.get("detail") or ""
    return ErrorReply(str(code)[:_LONGEST_ERROR], str(message)[:_LONGEST_ERROR])


def jwt_claims(access_token: str) -> dict[str, Any] | None:
    """Return a JWT's claims, read and not verified, or ``None`` for an opaque token."""
    parts = access_token.split(".")
    if len(parts) != 3 or not access_token.startswith("eyJ"):  # noqa: PLR2004 - header, claims, signature
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return decode_object(payload)
    except (binascii.Error, ValueError):
        return None


def _lifetime(claims: dict[str, Any], expires_in: Any, now: float) -> float | None:
    end, begin = _seconds(claims.get("exp")), _seconds(claims.get("iat"))
    if end is not None:
        # Both claims come from the server's clock, so a wrong clock here does not shorten the token's life.
        return end - (begin if begin is not None and begin <= end else now)
    return _seconds(expires_in)


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _seconds(value: Any) -> float | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}", value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0:
        return float(value)
    return None


def _scopes(scope: Any, claims: dict[str, Any]) -> frozenset[str] | None:
    for value in (scope, claims.get("scp"), claims.get("scope")):
        if isinstance(value, str) and value:
            return frozenset(value.split())
        if isinstance(value, list):
            return frozenset(str(item) for item in value)
    return None


def _outcome(messages: list[dict[str, Any]]) -> str:
    types = {str(message.get("type")) for message in messages}
    if (
        any(m.get("type") == "Failure" and m.get("code") == "ESCALATE" for m in messages)
        and "Error" not in types
    ):
        return models.ESCALATED
    return next((outcome for kinds, outcome in _OUTCOMES if kinds & types), models.ANSWERED)


def _collected(messages: list[dict[str, Any]], name: str) -> list[Any]:
    lists = [message.get(name) for message in messages]
    return [item for found in lists if isinstance(found, list) for item in found]


def _last_text(messages: list[dict[str, Any]], name: str) -> str | None:
    found = [m[name] for m in messages if isinstance(m.get(name), str) and m[name]]
    return found[-1] if found else None


def _all_safe(messages: list[dict[str, Any]]) -> bool | None:
    flags = [m["isContentSafe"] for m in messages if isinstance(m.get("isContentSafe"), bool)]
    return all(flags) if flags else None


def _plain(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    title = re.search(r"<title[^<>]*>([^<]{0,200})</title>", text, re.IGNORECASE)
    return title.group(1) if title else ("" if text.lstrip().startswith("<") else text[:_LONGEST_ERROR])


def _integer(digits: str) -> int | str:
    # Beyond 64 bits neither msgpack nor JSONB keeps the number; its digits are kept instead.
    return int(digits) if len(digits) <= 18 else _wide_integer(digits)  # noqa: PLR2004


def _wide_integer(digits: str) -> int | str:
    if len(digits) <= 20 and -(2**63) <= int(digits) < 2**63:  # noqa: PLR2004
        return int(digits)
    return digits


def _float(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


class JsonReader:
    def __init__(self):
        self.body = b""
        self.complete = False
    def feed(self, piece):
        self.body += piece
        try:
            json.loads(self.body); self.complete = True
        except ValueError: pass
        return []

class AnswerReader:
    def __init__(self, content_type, *, session, sequence_id):
        from airflow_provider_agentforce.client.sse import StreamedTurn
        self.session, self.sequence_id = session, sequence_id
        self.streamed = StreamedTurn() if (content_type or "").lower().startswith("text/event-stream") else None
        self.json = JsonReader()
    @property
    def body(self): return self.json.body
    @property
    def complete(self):
        return self.streamed._ended if self.streamed else self.json.complete
    def feed(self, piece):
        self.json.body += piece
        if self.streamed: return self.streamed.feed(piece)
        return self.json.feed(b"")
    def turn(self):
        if self.streamed:
            self.streamed.check()
            return self.streamed.turn(session=self.session, sequence_id=self.sequence_id)
        return turn(decode_object(self.body).get("messages"), session=self.session, sequence_id=self.sequence_id)
    def partial(self):
        if self.streamed and self.streamed.begun: return self.streamed.turn(session=self.session, sequence_id=self.sequence_id)
        try: return self.turn()
        except UnreadableReplyError: return None
