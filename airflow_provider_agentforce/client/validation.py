"""Checks of all user input, made before a byte is sent. Pure: no I/O, no Airflow.

Every check returns the value in the form that the API accepts, or raises one
:class:`~airflow_provider_agentforce.exceptions.AgentforceInputError` that names the field and the remedy.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from airflow_provider_agentforce.exceptions import AgentforceInputError, looks_like_key, shown

END_REASONS = ("UserRequest", "Transfer", "Expiration", "Error", "Other")
FEEDBACK = ("GOOD", "BAD")

# The patterns are compiled where they are first used: a Dag file that uses none does not wait for them.
_compiled = functools.cache(re.compile)
_ORIGIN = r"(?i)(https?)://([a-z0-9-]+(?:\.[a-z0-9-]+)*|\[[0-9a-f:]+\])(:[0-9]{1,5})?/?"
_AGENT_ID = r"0Xx[A-Za-z0-9]{12}([A-Za-z0-9]{3})?"
_CONNECTION_ID = r"[\w.\-]{1,200}"
_AGENT = rf"{_AGENT_ID}|[A-Za-z][A-Za-z0-9_]{{0,79}}"
_NAME = r"[A-Za-z0-9_]{1,80}"
_SELECT = r"(?i)\s*select\b"
_COUNT_ALONE = r"(?i)\s*select\s+count\s*\(\s*\)"
_PATH_ID = r"[A-Za-z0-9_-]{1,128}"
# Salesforce usernames have the form of an email address, and at most 80 characters.
_USERNAME = r"(?=.{3,80}$)[^\s@<>\"']+@[^\s@<>\"']+"
_AUDIENCE = r"(?a)(https?://[^/?#\s]+)((?:/[\w.~-]+)*)/?"
_SALESFORCE_HOST = r"(?i)([a-z0-9-]+\.)+salesforce\.(com|mil)"
_LAST_PORT = 65535
_USUAL_PORT = {"http": ":80", "https": ":443"}
_LOGIN_HOSTS = {"login.salesforce.com", "test.salesforce.com"}
_UI_SUFFIXES = (".lightning.force.com", ".salesforce-setup.com")


def origin(value: object, field: str) -> str:
    """Return *value* as ``scheme://host[:port]``, without the scheme's own port.

    ``https`` only, except for a loopback address.
    """
    text = _text(value, field).strip()
    if "://" not in text:
        # A connection given as a URI has no scheme for the host.
        text = f"{'http' if is_loopback(text.split(':')[0]) else 'https'}://{text}"
    match = re.fullmatch(_ORIGIN, text)
    if match is None or looks_like_key(text) or int((match.group(3) or ":443")[1:]) > _LAST_PORT:
        requirement = "must look like https://acme.my.salesforce.com, without user, path or query"
        raise refusal(value, field, requirement)
    scheme, host, port = match.group(1).lower(), match.group(2).lower(), match.group(3) or ""
    if scheme == "http" and not is_loopback(host):
        raise refusal(value, field, "must use https: http is allowed for a loopback address only")
    return f"{scheme}://{host}{'' if port == _USUAL_PORT[scheme] else port}"


def my_domain(value: object, field: str = "host") -> str:
    """Return the org's My Domain as an origin. Login and Lightning hosts are refused with the reason."""
    url = origin(value, field)
    host = url.split("//", 1)[1].split(":")[0]
    if host in _LOGIN_HOSTS:
        raise AgentforceInputError(
            f"{field} is {host}, which does not accept the client-credentials flow. "
            "Use your org's My Domain, for example https://acme.my.salesforce.com."
        )
    if host.endswith(_UI_SUFFIXES):
        raise AgentforceInputError(
            f"{field} is {host}, which serves the Salesforce pages, not the API. "
            "Use the Current My Domain URL from Setup > My Domain, for example https://acme.my.salesforce.com."
        )
    return url


def named_by_reply(value: object, *, trusted: Sequence[str]) -> str:
    """Return an API host named by a token reply, if it is one of *trusted* or a Salesforce host.

    A reply must not be able to send the token to a third party.
    """
    url = origin(value, "api_instance_url")
    if url in trusted or is_salesforce(url):
        return url
    raise AgentforceInputError(
        f"The token reply names the API host {url}, which is not a Salesforce host. "
        "If it is right, set the connection's extra api_url to it."
    )


def is_salesforce(url: str) -> bool:
    """Return whether *url* is the ``https`` origin of a Salesforce host, on the usual port."""
    return url.startswith("https://") and re.fullmatch(_SALESFORCE_HOST, url[8:]) is not None


def address(url: str) -> str:
    """Return the host and the port of an absolute *url*, such as ``api.salesforce.com:443``."""
    parts = urlsplit(url)
    return f"{parts.netloc}{'' if parts.port else _USUAL_PORT[parts.scheme]}"


def is_loopback(host: str) -> bool:
    """Return whether *host* can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def path_id(value: object, field: str) -> str:
    """Return an id that is safe as one segment of a URL path."""
    return _matching(_PATH_ID, value, field, "must be 1 to 128 letters, digits, '-' or '_'")


def agent(value: object, field: str = "agent_id") -> str:
    """Return an agent's id (``0Xx…``, 15 or 18 characters) or its API name."""
    api_name = "its API name (letters, digits, '_', a letter first)"
    requirement = f"must be an agent's id (0Xx…, 15 or 18 letters and digits) or {api_name}"
    return _matching(_AGENT, value, field, requirement)


def is_agent_id(value: object) -> bool:
    """Return whether *value* has the form of a BotDefinition id, which no API name has."""
    return isinstance(value, str) and _compiled(_AGENT_ID).fullmatch(value) is not None


def message_text(value: object, field: str = "text") -> str:
    """Return the text of a message: a ``str`` that is not blank."""
    text = _text(value, field)
    if not text.strip():
        raise AgentforceInputError(f"{field} is blank. Give the message that the agent is to answer.")
    return unicode_text(text, field)


def unicode_text(text: str, field: str) -> str:
    """Return a text that can be sent as UTF-8."""
    if _has_surrogate(text):
        raise AgentforceInputError(f"{field} contains half of a surrogate pair and cannot be sent as UTF-8.")
    return text


def soql(value: object) -> str:
    """Return a query for records."""
    text = _text(value, "soql")
    if not re.match(_SELECT, text):
        raise AgentforceInputError(f"soql must be a query that begins with SELECT, but is {shown(text)}.")
    if re.match(_COUNT_ALONE, text):
        raise AgentforceInputError(
            "soql: COUNT() alone returns a number and no records.",
            hint="Use COUNT(Id), which returns a record with the field expr0.",
        )
    return unicode_text(text, "soql")


def sequence_id(value: object, field: str = "sequence_id") -> int:
    """Return the number of the last message: an ``int`` from 0, or its digits as Jinja renders them."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,18}\s*", value, re.ASCII):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18:
        return value
    raise refusal(value, field, "must be the whole number of the last message (0 after the start)")


def end_reason(value: object, field: str = "reason") -> str:
    """Return a reason that the API lists for ending a session."""
    return one_of(END_REASONS, value, field)


def feedback(value: object, field: str = "feedback") -> str:
    """Return ``GOOD`` or ``BAD``."""
    return one_of(FEEDBACK, value, field)


def time_zone(value: object, field: str = "tz") -> str:
    """Return a name of the tz database, such as ``Europe/Berlin``."""
    return _in_form(ZoneInfo, value, field, "must be a time zone name such as Europe/Berlin")


def username(value: object, field: str = "username") -> str:
    """Return the name with which a user logs in to Salesforce."""
    return _matching(_USERNAME, value, field, "must be a Salesforce username such as etl@acme.com")


def audience(value: object, field: str = "audience") -> str:
    """Return the URL of a login host, a My Domain or a site, without a trailing slash."""
    match = re.fullmatch(_AUDIENCE, _text(value, field).strip())
    if match is None:
        raise refusal(value, field, "must be a URL such as https://login.salesforce.com")
    return origin(match[1], field) + match[2]


def path_of_key(value: object, field: str = "private_key_path") -> str:
    """Return the path of a file. A key instead of a path is refused."""
    return _without_key(value, field)


def one_of(choices: Sequence[str], value: object, field: str) -> str:
    """Return a value that is one of *choices*."""
    if value in choices:
        return str(value)
    *others, last = choices
    raise refusal(value, field, f"must be {', '.join(others)} or {last}")


def name(value: object, field: str, example: str = "Custom") -> str:
    """Return a Salesforce name.

    :param example: a valid name.
    """
    form = f"must be an API name: letters, digits and '_', such as {example}"
    return _matching(_NAME, value, field, form)


def sobject(value: object) -> str:
    """Return the name of an object."""
    return name(value, "sobject", "Account or My_Object__c")


def external_id(value: object) -> str:
    """Return the name of a field by which records are upserted."""
    field = name(value, "external_id", "Order_Number__c")
    if field.lower() == "id":
        raise AgentforceInputError("external_id: leave it out, and records are updated by their Id.")
    return field


def session_key(value: object, field: str = "external_session_key") -> str:
    """Return a UUID in its usual form. The API asks for one (agent-api reference, ``externalSessionKey``)."""
    return _in_form(uuid.UUID, value, field, "must be a UUID")


def variables(value: object, field: str = "variables") -> list[dict[str, Any]]:
    """Return context variables in the API's form, ``[{"name", "type", "value"}]``.

    Accepts that list (``type`` defaults to ``Text``), or a dict of names to text, numbers and booleans.
    """
    if value is None:
        return []
    if isinstance(value, Mapping):
        entries = [_typed(name, item, f"{field}[{shown(name)}]") for name, item in value.items()]
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        entries = [_variable(item, f"{field}[{index}]") for index, item in enumerate(value)]
    else:
        requirement = 'must be a list of {"name", "type", "value"} or a dict of names to values'
        raise refusal(value, field, requirement)
    names = [entry["name"] for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise AgentforceInputError(f"{field} names {', '.join(twice)} more than once.")
    return entries


def json_object(value: Mapping[str, Any], field: str) -> dict[str, Any]:
    """Return *value* as a dict that can be written as JSON."""
    try:
        text = json.dumps(dict(value), allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise refusal(value, field, "must contain only JSON values") from None
    unicode_text(text, field)
    return dict(value)


def only_one_of(**given: Any) -> str:
    """Return the name of the one value that is not ``None``."""
    found = [name for name, value in given.items() if value is not None]
    if len(found) != 1:
        *names, last = given
        raise AgentforceInputError(f"Give exactly one of {', '.join(names)} and {last}.")
    return found[0]


def positive(value: object, field: str, most: float = 1_000_000) -> float:
    """Return a number above zero and up to *most*; it may be given as text."""
    number = _number(value, field)
    if not 0 < number <= most:
        raise refusal(value, field, f"must be a number above 0, up to {most:g}")
    return number


def count(value: object, field: str) -> int:
    """Return a whole number of at least 1; it may be given as text."""
    number = positive(value, field)
    if number != int(number):
        raise refusal(value, field, "must be a whole number")
    return int(number)


def message_count(sequence_id: int, most: int, session_id: str | None = None) -> None:
    """Refuse a message over the limit of its session.

    :raises AgentforceInputError: if *sequence_id*, the number of the message, is above *most*.
    """
    if sequence_id > most:
        raise AgentforceInputError(
            f"This would be message {sequence_id} of the session, and the connection allows {most} "
            "(extra max_messages_per_session).",
            hint="Start a new session, or raise the extra.",
            operation="send",
            session_id=session_id,
        )


def switch(value: object, field: str) -> bool:
    """Return ``True`` or ``False``; it may be given as text."""
    known = {"true": True, "false": False}
    chosen = known.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(chosen, bool):
        raise refusal(value, field, "must be true or false")
    return chosen


def duration(value: object, field: str) -> timedelta:
    """Return a duration above zero."""
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise refusal(value, field, "must be a timedelta above 0")
    return value


def connection_id(value: object, field: str) -> str:
    """Return the id of an Airflow connection."""
    return _matching(_CONNECTION_ID, value, field, "must be the id of a connection, such as redis_default")


def failures(value: Any, field: str = "max_failures") -> float | None:
    """Return how many failures are allowed: a whole number, a share between 0 and 1, or ``None`` for all."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if value is None or is_number or (isinstance(value, float) and 0 < value < 1):
        return value  # type: ignore[no-any-return]
    raise refusal(value, field, "must be a whole number from 0, or a share between 0 and 1")


def share(value: Any, field: str) -> float:
    """Return a share from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise refusal(value, field, "must be a number from 0 to 1")
    return float(value)


def secret(value: object, field: str) -> str:
    """Return a key or secret without the spaces and newlines that copying leaves. It is never shown."""
    text = _without_key(value, field)
    if not text or not text.isprintable() or not text.isascii():
        raise AgentforceInputError(f"{field} is empty or contains characters that no Salesforce key has.")
    return text


def text(value: object, field: str) -> str:
    """Return a text that is never shown."""
    return _text(value, field, shown=False)


def record(value: object, position: int) -> Mapping[str, Any]:
    """Return a record of a list of records."""
    if not isinstance(value, Mapping):
        raise AgentforceInputError(f"records[{position}] must be a dict, but is {type(value).__name__}.")
    return value


def unusable_records(value: object) -> AgentforceInputError:
    """Return the error for records in a form that nothing can read."""
    return AgentforceInputError(
        "records must be a list of dicts, the URI of a file or folder, or a function or an iterator that "
        f"gives dicts, but is {type(value).__name__}."
    )


def refusal(value: object, field: str, requirement: str) -> AgentforceInputError:
    """Return the error for a value that *field* cannot have.

    :param requirement: such as ``must be a number``.
    """
    return AgentforceInputError(f"{field} {requirement}, but is {shown(value)}.")


def _matching(pattern: str, value: object, field: str, requirement: str) -> str:
    text = _text(value, field).strip()
    if _compiled(pattern).fullmatch(text):
        return text
    raise refusal(value, field, requirement)


def _in_form(form: Callable[[str], object], value: object, field: str, requirement: str) -> str:
    text = _text(value, field)
    try:
        return str(form(text))
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise refusal(value, field, requirement) from None


def _typed(name: object, value: object, field: str) -> dict[str, Any]:
    kinds: dict[type, str] = {str: "Text", bool: "Boolean", int: "Number", float: "Number"}
    if type(value) not in kinds:
        raise AgentforceInputError(
            f"{field} must be text, a number or a boolean, but is {shown(value)}. "
            'For other types give the list form with "name", "type" and "value".'
        )
    return _variable({"name": name, "type": kinds[type(value)], "value": value}, field)


def _variable(item: object, field: str) -> dict[str, Any]:
    if not isinstance(item, Mapping) or not {"name", "value"} <= set(item) <= {"name", "type", "value"}:
        raise AgentforceInputError(f'{field} must have "name", "type" and "value" and nothing else.')
    name, kind = item["name"], item.get("type", "Text")
    if not (isinstance(name, str) and name.strip() and isinstance(kind, str) and kind.strip()):
        raise AgentforceInputError(f"{field}: name and type must be text that is not blank.")
    try:
        sendable = json.dumps(item["value"], allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        sendable = "\ud800"
    if _has_surrogate(sendable) or _has_surrogate(name + kind):
        raise AgentforceInputError(f"{field}: the value cannot be written as JSON.")
    return {"name": name, "type": kind, "value": item["value"]}


def _number(value: object, field: str) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise refusal(value, field, "must be a number")


def _text(value: object, field: str, *, shown: bool = True) -> str:
    if isinstance(value, str):
        return value
    if shown:
        raise refusal(value, field, "must be text")
    raise AgentforceInputError(f"{field} must be text, but is of type {type(value).__name__}.")


def _without_key(value: object, field: str) -> str:
    text = _text(value, field, shown=False).strip()
    if looks_like_key(text):
        raise AgentforceInputError(f"{field} holds a private key; move it to the extra private_key.")
    return text


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and re.search("[\ud800-\udfff]", text) is not None
