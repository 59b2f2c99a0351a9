"""Check request bodies as strictly as the documents allow: required, unknown and malformed fields.

Source: the request schemas of the Agent API reference
(https://developer.salesforce.com/docs/ai/agentforce/references/agent-api?meta=Summary).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.settings import is_loopback

_START_FIELDS = (
    "externalSessionKey",
    "instanceConfig",
    "tz",
    "variables",
    "featureSupport",
    "streamingCapabilities",
    "bypassUser",
    "surfaceConfig",
)
# Required and optional fields of each message type, besides `type`, `sequenceId` and `inReplyToMessageId`.
_MESSAGE_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Text": (("text",), ()),
    "Reply": (("reply",), ()),
    "Cancel": ((), ()),
    "TransferFailed": (("reason",), ("description",)),
    "TransferSucceeded": ((), ()),
    "PlanTemplate": (("details",), ()),
}
_TRANSFER_REASONS = ("NoAgentAvailable", "Error")
_FEATURES = ("Sync", "Streaming")
_RATINGS = ("GOOD", "BAD")
_MAX_DETAILS = 10
# `value` may be a text for every type: the base schema says so, and clients send it. `Id` is no official
# type, but public samples use it.
_VARIABLE_TYPES: dict[str, tuple[type, ...]] = {
    "Text": (str,),
    "Id": (str,),
    "Date": (str,),
    "DateTime": (str,),
    "Number": (str, int, float),
    "Money": (str, int, float),
    "Boolean": (str, bool),
    "Object": (str, dict),
    "Json": (str, dict, list),
    "Ref": (str, dict),
    "List": (str, list),
}


def _bad(detail: str) -> ApiError:
    return ApiError("bad_request", detail=detail)


def _require(body: Mapping[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if body.get(name) is None:
            raise ApiError("missing_property", field=name)


def _refuse_unknown(body: Mapping[str, Any], known: Iterable[str]) -> None:
    allowed = set(known)
    for name in body:
        if name not in allowed:
            raise ApiError("unrecognized_field", field=name)


def check_start(body: dict[str, Any], *, org_url: str) -> None:
    """Check the body of a session start.

    :raises ApiError: 400 for a bad body, 500 for an endpoint that is not this org, both as documented.
    """
    _refuse_unknown(body, _START_FIELDS)
    _require(body, ("externalSessionKey", "instanceConfig"))
    if not isinstance(body["externalSessionKey"], str) or not body["externalSessionKey"]:
        raise _bad("externalSessionKey must be a non-empty string")
    if not isinstance(body.get("tz"), str | None):
        raise _bad("tz must be a string")
    if not isinstance(body.get("bypassUser"), bool | None) and body["bypassUser"] not in ("true", "false"):
        raise _bad("bypassUser must be a boolean")
    if body.get("featureSupport") not in (None, *_FEATURES):
        raise _bad(f"featureSupport must be one of {', '.join(_FEATURES)}")
    check_variables(body.get("variables"))
    _check_streaming(body.get("streamingCapabilities"))
    _check_endpoint(body["instanceConfig"], org_url=org_url)


def _check_streaming(capabilities: Any) -> None:
    if capabilities is None:
        return
    if not isinstance(capabilities, dict):
        raise _bad("streamingCapabilities must be an object")
    _refuse_unknown(capabilities, ("chunkTypes",))
    kinds = capabilities.get("chunkTypes", [])
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise _bad("chunkTypes must be a list of strings")


def _check_endpoint(config: Any, *, org_url: str) -> None:
    if not isinstance(config, dict):
        raise _bad("instanceConfig must be an object")
    _refuse_unknown(config, ("endpoint",))
    _require(config, ("endpoint",))
    endpoint = config["endpoint"]
    if not isinstance(endpoint, str) or endpoint.split() != [endpoint]:
        raise ApiError("bad_endpoint")
    if not endpoint.startswith(("https://", "http://")):
        raise ApiError("bad_endpoint")
    if not _same_place(endpoint, org_url):
        raise ApiError("wrong_endpoint")


def _same_place(endpoint: str, org_url: str) -> bool:
    """Compare up to the name of the loopback host, which has several."""
    here, there = urlsplit(org_url), urlsplit(endpoint)
    try:
        same_port = there.port == here.port
    except ValueError:
        return False
    plain = there.path in ("", "/") and not there.query
    return plain and same_port and there.scheme == here.scheme and is_loopback(there.hostname or "")


def check_variables(variables: Any) -> None:
    """Check ``variables``: null, or a list of ``{name, type, value}``.

    :raises ApiError: 400 for anything else.
    """
    if variables is None:
        return
    if not isinstance(variables, list):
        raise _bad("variables must be a list")
    for variable in variables:
        if not isinstance(variable, dict):
            raise _bad("a variable must be an object")
        _refuse_unknown(variable, ("name", "type", "value"))
        _require(variable, ("name", "type"))
        if "value" not in variable:
            raise ApiError("missing_property", field="value")
        _check_value(variable)


def _check_value(variable: dict[str, Any]) -> None:
    name, kind, value = variable["name"], variable["type"], variable["value"]
    if not isinstance(name, str) or not name:
        raise _bad("the name of a variable must be a non-empty string")
    if not isinstance(kind, str) or kind not in _VARIABLE_TYPES:
        raise _bad(f"{kind} is not a type of variable: one of {', '.join(_VARIABLE_TYPES)}")
    boolean_number = isinstance(value, bool) and kind in ("Number", "Money")
    if value is not None and (boolean_number or not isinstance(value, _VARIABLE_TYPES[kind])):
        raise _bad(f"the value of the variable {name} is no {kind}")


def check_send(body: dict[str, Any]) -> None:
    """Check the body of a message.

    :raises ApiError: 400.
    """
    message = body.get("message")
    if message is None:
        # A `sequenceId` beside `message` is the commonest mistake; the server names the missing one inside.
        raise ApiError("missing_sequence_id" if "sequenceId" in body else "missing_property", field="message")
    if not isinstance(message, dict):
        raise _bad("message must be an object")
    if message.get("sequenceId") is None:
        raise ApiError("missing_sequence_id")
    _refuse_unknown(body, ("message", "variables"))
    sequence_number(message["sequenceId"])
    _check_message(message)
    check_variables(body.get("variables"))


def _check_message(message: dict[str, Any]) -> None:
    _require(message, ("type",))
    kind = message["type"]
    if not isinstance(kind, str) or kind not in _MESSAGE_FIELDS:
        raise _bad(f"{kind} is not a type of message: one of {', '.join(_MESSAGE_FIELDS)}")
    required, optional = _MESSAGE_FIELDS[kind]
    _require(message, required)
    _refuse_unknown(message, ("type", "sequenceId", "inReplyToMessageId", *required, *optional))
    if kind == "Text" and not isinstance(message["text"], str):
        raise _bad("text must be a string")
    if kind == "Reply":
        _check_reply(message["reply"])
    if kind == "TransferFailed" and message["reason"] not in _TRANSFER_REASONS:
        raise _bad(f"reason must be one of {', '.join(_TRANSFER_REASONS)}")
    if kind == "PlanTemplate" and not isinstance(message["details"], dict):
        raise _bad("details must be an object")


def _check_reply(reply: Any) -> None:
    if not isinstance(reply, list) or not all(isinstance(item, dict) for item in reply):
        raise _bad("reply must be a list of objects")
    for item in reply:
        _refuse_unknown(item, ("type", "property", "value"))


def sequence_number(value: Any) -> float:
    """Return ``sequenceId`` as a number; clients are known to send it as a text too.

    :raises ApiError: 400 when it is neither.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    raise ApiError("invalid_sequence_id")


def check_feedback(body: dict[str, Any], *, known_ids: set[str]) -> None:
    """Check the body of a feedback.

    :raises ApiError: 400.
    """
    _require(body, ("feedbackId", "feedback"))
    _refuse_unknown(body, ("feedbackId", "feedback", "text", "details"))
    if body["feedback"] not in _RATINGS:
        raise _bad(f"feedback must be one of {', '.join(_RATINGS)}")
    if body["feedbackId"] not in known_ids:
        raise _bad("no answer of this session has this feedbackId")
    if not isinstance(body.get("text"), str | None):
        raise _bad("text must be a string")
    details = body.get("details")
    if not isinstance(details, dict | None) or len(details or {}) > _MAX_DETAILS:
        raise _bad(f"details must be an object with at most {_MAX_DETAILS} properties")
