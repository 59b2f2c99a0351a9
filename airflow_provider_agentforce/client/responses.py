"""Reads the org's answers: bytes in, values out. Pure, strict about bytes, and lenient about content."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeGuard

from airflow_provider_agentforce.client import json_values, models
from airflow_provider_agentforce.client.delivery_policy import Failure
from airflow_provider_agentforce.client.error_words import code_of, errors_in, reason_of, words_of
from airflow_provider_agentforce.client.models import Turn

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
# Error texts are matched against patterns whose time grows faster than the text.
_LONGEST_ERROR = 10_000
_ESCALATIONS = frozenset({"Escalate", "Escalation", "EscalateToConversationMessage"})
_ANSWERS = frozenset({"Inform", "Text", "Inquire", "Confirm", "Failure"})
_SPOKEN = _ANSWERS | _ESCALATIONS
MESSAGE_TYPES = _SPOKEN | {"Error", "SessionEnded", "EndOfTurn"}
# The first that fits names the outcome: what a Dag must act on outranks what merely happened.
_OUTCOMES = (
    ({"Error", "Failure"}, models.FAILED),
    (_ESCALATIONS, models.ESCALATED),
    ({"Confirm"}, models.NEEDS_CONFIRMATION),
    ({"Inquire"}, models.NEEDS_INPUT),
    ({"SessionEnded"}, models.ENDED),
)


class UnreadableReplyError(ValueError):
    """A reply differs from what the API promises. The text says how.

    :param failure: its row in the retry table.
    """

    def __init__(self, what: str, failure: Failure = Failure.UNREADABLE) -> None:
        super().__init__(what)
        self.failure = failure


@dataclass(frozen=True)
class TokenReply:
    """The reply of the token endpoint.

    :param lifetime: seconds from now, or ``None`` if the reply does not say.
    :param scopes: the granted scopes, ``None`` if the reply does not say.
    """

    access_token: str = field(repr=False)
    lifetime: float | None
    scopes: frozenset[str] | None
    api_instance_url: str | None
    instance_url: str | None
    is_jwt: bool


@dataclass(frozen=True)
class ErrorReply:
    """The contents of an error body.

    :param error: the class or code, such as ``NotFoundException`` or ``invalid_grant``.
    :param message: its text, including that of a nested error.
    """

    error: str
    message: str

    @property
    def text(self) -> str:
        """Both, for matching and for people."""
        return ": ".join(part for part in (self.error, self.message) if part)


def decode_reply(body: bytes) -> Any:
    """Parse *body* as JSON, or raise :class:`UnreadableReplyError`."""
    try:
        return json_values.decode(body)
    except ValueError as error:
        raise UnreadableReplyError(str(error)) from None


def decode_object(body: bytes) -> dict[str, Any]:
    """Parse *body* as a JSON object, or raise :class:`UnreadableReplyError`."""
    return as_object(decode_reply(body))


def as_object(parsed: Any) -> dict[str, Any]:
    """Return a JSON value that is an object, or raise :class:`UnreadableReplyError`."""
    if not isinstance(parsed, dict):
        raise _unlike(parsed, f"JSON, but a {type(parsed).__name__} instead of an object")
    return parsed


def token(body: bytes, *, now: float) -> TokenReply:
    """Read a token reply. *now* is the wall clock in seconds, for a token that states only its expiry.

    The reply has no ``expires_in`` in the official sample, so the JWT's own claims come first
    (https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-get-started.html).
    """
    reply = decode_object(body)
    access_token = reply.get("access_token")
    if not isinstance(access_token, str) or not re.fullmatch(r"[\x21-\x7e]{1,20000}", access_token):
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


def start(parsed: Any) -> tuple[str, str]:
    """Return the id of the session, which is required, and the agent's first words, ``""`` for none."""
    reply = as_object(parsed)
    session_id = reply.get("sessionId")
    if not isinstance(session_id, str) or not _SESSION_ID.fullmatch(session_id):
        raise _unlike(reply, "a JSON object without a usable sessionId")
    messages = reply.get("messages")
    return session_id, _said(messages) if isinstance(messages, list) else ""


def messages_of(reply: Any) -> list[dict[str, Any]]:
    """Return the messages of an answer to a send, an error of the org as one of type ``Error``.

    :raises UnreadableReplyError: if it contains neither.
    """
    found = reply.get("messages") if isinstance(reply, dict) else None
    if isinstance(found, list) and all(isinstance(item, dict) for item in found):
        outside = {name: reply[name] for name in ("error", "errorCode", "errors", "message") if name in reply}
        has_error = outside and (code_of(outside) or outside.get("errors"))
        return [*found, *map(error_message, errors_in(outside) if has_error else ())]
    errors = [error_message(one) for one in errors_in(reply)]
    if not errors:
        raise UnreadableReplyError("JSON, but without a list of messages")
    return errors


def error_message(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return an error of the org in the form of an agent's message."""
    return {**error, "type": "Error"}


def turn(
    messages: list[dict[str, Any]],
    *,
    session: models.Session,
    sequence_id: int,
    streamed: str = "",
    request: dict[str, Any] | None = None,
) -> Turn:
    """Read the messages of one answer. Unknown types stay in ``messages`` and change nothing else.

    :param messages: a message that arrived twice counts once.
    :param streamed: text that came in pieces; used only if no message contains the whole text.
    :param request: the message that was sent.
    """
    once = _without_repetitions(messages)
    # An escalation or the end of the session may follow the answer with an id that rates nothing.
    ranked = sorted(once, key=lambda message: str(message.get("type")) in _ANSWERS)
    return Turn(
        session_id=session.session_id,
        sequence_id=sequence_id,
        agent_id=session.agent_id,
        text=_said(once) or streamed or "\n".join(map(words_of, filter(_is_error, once))),
        outcome=_outcome(once),
        messages=once,
        citations=_collected(once, "citedReferences"),
        results=_collected(once, "result"),
        feedback_id=_last_text(ranked, "feedbackId"),
        plan_id=_last_text(ranked, "planId"),
        is_content_safe=_all_safe(once),
        request=request,
        agent_version=session.agent_version,
    )


def identity_of(message: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return a key that only a repetition of the message shares; ``None`` for a message without an id."""
    is_chunk_without_place = message.get("type") == "TextChunk" and "offset" not in message
    if is_chunk_without_place or not isinstance(message.get("id"), str) or not message["id"]:
        return None
    return message["id"], json.dumps(message, sort_keys=True)


def error(body: bytes) -> ErrorReply:
    """Read an error body: the API's object, an OAuth error, a Salesforce array, HTML or nothing."""
    try:
        parsed = json_values.decode(body)
    except ValueError:
        return ErrorReply("", _plain(body))
    errors = list(errors_in(parsed))
    if not errors:
        return ErrorReply("", "" if isinstance(parsed, dict) else _plain(body))
    words = [words_of(errors[0]), *map(reason_of, errors[1:])]
    return ErrorReply(code_of(errors[0])[:_LONGEST_ERROR], "; ".join(filter(None, words))[:_LONGEST_ERROR])


def retry_after(value: str | None, date: str | None, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, or ``None`` if it is missing or unreadable.

    :param value: the header: whole seconds or an HTTP date.
    :param date: the reply's ``Date`` header; a date is compared with it, so clocks need not agree.
    :param now: the wall clock in seconds, used without a ``Date``.
    """
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]{1,10}", text):
        return float(text)
    then, base = timestamp(text), timestamp(date)
    if then is None:
        return None
    return max(0.0, then - (now if base is None else base))


def timestamp(date: str | None) -> float | None:
    """Return the seconds since the epoch of an HTTP date, or ``None`` if it is missing or unreadable."""
    try:
        moment = parsedate_to_datetime((date or "").strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError, OSError):
        return None


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
    if any(one.get("type") == "Failure" and one.get("code") == "ESCALATE" for one in messages):
        # A failure that hands over is an escalation, but an error beside it still counts.
        types = types - {"Failure"} | {"Escalate"}
    return next((outcome for kinds, outcome in _OUTCOMES if kinds & types), models.ANSWERED)


def _without_repetitions(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(messages) == 1:
        return messages
    # A proxy may replay a message; one without an id may be said twice on purpose.
    once = {identity_of(message) or number: message for number, message in enumerate(messages)}
    return list(once.values())


def _said(messages: Iterable[Any]) -> str:
    """Join the agent's texts."""
    said = [
        _text_of(message)
        for message in messages
        if isinstance(message, dict)
        and str(message.get("type")) in _SPOKEN
        and str(message.get("role", "Agent")).lower() != "user"
    ]
    return "\n".join(filter(None, said))


def _text_of(message: dict[str, Any]) -> str:
    # "message" is the official field, "text" an older one; rich answers have their text in a result only.
    for found in (message.get("message"), message.get("text")):
        if _is_text(found):
            return found
    results = message.get("result")
    in_results: list[Any] = [
        item.get("value")
        for item in (results if isinstance(results, list) else [])
        if isinstance(item, dict) and item.get("property") == "text"
    ]
    return "\n".join(filter(_is_text, in_results))


def _is_error(message: Mapping[str, Any]) -> bool:
    return message.get("type") == "Error"


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value)


def _collected(messages: list[dict[str, Any]], name: str) -> list[Any]:
    return [item for message in messages if isinstance(found := message.get(name), list) for item in found]


def _last_text(messages: list[dict[str, Any]], name: str) -> str | None:
    return next((one[name] for one in reversed(messages) if _is_text(one.get(name))), None)


def _all_safe(messages: list[dict[str, Any]]) -> bool | None:
    flags = [m["isContentSafe"] for m in messages if isinstance(m.get("isContentSafe"), bool)]
    return all(flags) if flags else None


def _plain(body: bytes) -> str:
    text = body.decode("utf-8", "replace").replace("\0", "")
    title = re.search(r"<title[^<>]*>([^<]{0,200})</title>", text, re.IGNORECASE)
    return title.group(1) if title else ("" if text.lstrip().startswith("<") else text[:_LONGEST_ERROR])


def _unlike(parsed: Any, what: str) -> UnreadableReplyError:
    """Return the error of a reply in an unexpected form, with the org's words if it is an error."""
    said = "; ".join(map(reason_of, errors_in(parsed)))[:_LONGEST_ERROR]
    return UnreadableReplyError(": ".join(filter(None, [what, said])))
