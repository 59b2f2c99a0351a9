"""The retry table: what a failure means for each operation. Pure data and pure functions.

RFC 9110 section 9.2.2: a request that is not idempotent is repeated only if it is known not to have been
applied. Nothing lets a client ask the Agent API whether a message was applied, and the API reports its own
120 s time-out as HTTP 500, so a message is repeated only when no byte of it left or the answer refuses it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime
from enum import Enum

from airflow_provider_agentforce.client.calls import Operation


class Delivery(str, Enum):
    """What became of a request."""

    NOT_SENT = "not sent"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    DELIVERED = "delivered"

    @property
    def applied(self) -> bool | None:
        """The same as an error's ``applied``."""
        if self is Delivery.UNKNOWN:
            return None
        return self is Delivery.DELIVERED


class Failure(str, Enum):
    """Everything that can go wrong with one request, in the words of people."""

    UNREACHABLE = "host not found, refused or not reachable"
    BAD_CERTIFICATE = "certificate not valid"
    TLS_BROKEN = "connection lost before anything was sent"
    STOPPED_BEFORE = "task stopped before anything was sent"
    RESET = "connection lost after something was sent"
    NO_REPLY = "no reply in time"
    STOPPED = "task stopped while waiting for the reply"
    CUT_REPLY = "reply cut or too slow"
    BAD_REQUEST = "400"
    OAUTH_TEMPORARY = "400, token service busy"
    LOGIN_RATE = "login rate exceeded"
    UNAUTHORIZED = "401"
    APP_NOT_ATTACHED = "401, app not attached to the agent"
    FORBIDDEN = "403"
    NOT_FOUND = "404 or 410"
    TOO_EARLY = "408 or 425"
    CONFLICT = "409"
    PRECONDITION = "412"
    PAYLOAD = "413, 414 or 415"
    UNPROCESSABLE = "422"
    UNPROCESSABLE_CONFIG = "422, agent not active"
    LOCKED = "423"
    THROTTLED = "429"
    SERVER_CONFIG = "500 that names the configuration"
    SERVER_ERROR = "500"
    BAD_GATEWAY = "502 or 504"
    UNAVAILABLE = "503"
    REDIRECT = "any 3xx"
    OTHER_CLIENT_ERROR = "other 4xx"
    OTHER_SERVER_ERROR = "other 5xx"
    UNREADABLE = "2xx, reply not readable"
    STREAM_CUT = "2xx, stream without its end"
    STREAM_ERROR = "2xx, stream with an error event"


class Ending(str, Enum):
    """What the caller gets when a request is not sent again."""

    DONE = "success"
    TRANSIENT = "transient"
    FINAL = "final"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Verdict:
    """One cell of the table.

    :param attempts: how often the request may be sent in all.
    :param ending: what the caller gets when they are used up.
    :param renew: get a new token and send once more.
    :param until_free: wait for the session's lock, as long as the patience lasts, whatever ``attempts`` says.
    :param orphan: a session may be open that nobody knows the id of.
    """

    attempts: int
    ending: Ending
    renew: bool = False
    until_free: bool = False
    orphan: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table: a failure's cell for each operation, and what became of a message."""

    delivery: Delivery
    token: str
    start: str
    send: str
    end: str
    feedback: str
    query: str

    def verdict(self, operation: Operation) -> Verdict:
        """Return the cell for *operation*."""
        return _VERDICTS[getattr(self, operation.value)]


_T, _X, _U, _OK = Ending.TRANSIENT, Ending.FINAL, Ending.UNKNOWN, Ending.DONE

# R<n>: send again, n attempts in all. T: transient error. X: final error. U: unknown delivery. OK: success.
# RF: renew the token, send once more, else X. L: wait for the session's lock.
# "!": a session may be left open.
_VERDICTS = {
    "T": Verdict(1, _T),
    "T!": Verdict(1, _T, orphan=True),
    "X": Verdict(1, _X),
    "U": Verdict(1, _U),
    "OK": Verdict(1, _OK),
    "R2>T": Verdict(2, _T),
    "R2>T!": Verdict(2, _T, orphan=True),
    "R3>T": Verdict(3, _T),
    "RF>X": Verdict(1, _X, renew=True),
    "L>T": Verdict(1, _T, until_free=True),
}

_N, _R, _Q, _D = Delivery.NOT_SENT, Delivery.REFUSED, Delivery.UNKNOWN, Delivery.DELIVERED

TABLE: dict[Failure, Row] = {
    # failure                               token   start    send    end     feedback query
    Failure.UNREACHABLE: Row(_N, "R3>T", "R3>T", "R3>T", "R3>T", "R3>T", "R3>T"),
    Failure.BAD_CERTIFICATE: Row(_N, "X", "X", "X", "X", "X", "X"),
    Failure.TLS_BROKEN: Row(_N, "R3>T", "R3>T", "R3>T", "R3>T", "R3>T", "R3>T"),
    Failure.STOPPED_BEFORE: Row(_N, "T", "T", "T", "T", "T", "T"),
    Failure.RESET: Row(_Q, "R3>T", "R2>T!", "U", "R3>T", "R2>T", "R3>T"),
    Failure.NO_REPLY: Row(_Q, "R2>T", "T!", "U", "R2>T", "R2>T", "R2>T"),
    Failure.STOPPED: Row(_Q, "T", "T!", "U", "T", "T", "T"),
    Failure.CUT_REPLY: Row(_D, "R2>T", "T!", "U", "OK", "OK", "R2>T"),
    Failure.BAD_REQUEST: Row(_R, "X", "X", "X", "X", "X", "X"),
    Failure.OAUTH_TEMPORARY: Row(_R, "R3>T", "X", "X", "X", "X", "X"),
    Failure.LOGIN_RATE: Row(_R, "T", "X", "X", "X", "X", "X"),
    Failure.UNAUTHORIZED: Row(_R, "X", "RF>X", "RF>X", "RF>X", "RF>X", "RF>X"),
    Failure.APP_NOT_ATTACHED: Row(_R, "X", "X", "X", "X", "X", "X"),
    Failure.FORBIDDEN: Row(_R, "X", "X", "X", "X", "X", "X"),
    Failure.NOT_FOUND: Row(_R, "X", "X", "X", "OK", "X", "X"),
    Failure.TOO_EARLY: Row(_R, "R3>T", "R3>T", "R2>T", "R3>T", "R2>T", "R3>T"),
    Failure.CONFLICT: Row(_R, "X", "X", "X", "X", "X", "X"),
    Failure.PRECONDITION: Row(_R, "X", "X", "X", "X", "X", "X"),
    Failure.PAYLOAD: Row(_R, "X", "X", "X", "X", "X", "X"),
    Failure.UNPROCESSABLE: Row(_Q, "X", "X", "U", "X", "X", "X"),
    Failure.UNPROCESSABLE_CONFIG: Row(_R, "X", "X", "X", "X", "X", "X"),
    Failure.LOCKED: Row(_R, "T", "T", "L>T", "R3>T", "R3>T", "T"),
    Failure.THROTTLED: Row(_R, "R3>T", "R3>T", "R3>T", "R3>T", "R3>T", "R3>T"),
    Failure.SERVER_CONFIG: Row(_R, "R3>T", "X", "X", "X", "X", "X"),
    Failure.SERVER_ERROR: Row(_Q, "R3>T", "T", "U", "R2>T", "R2>T", "R3>T"),
    Failure.BAD_GATEWAY: Row(_Q, "R3>T", "R2>T!", "U", "R3>T", "R2>T", "R3>T"),
    Failure.UNAVAILABLE: Row(_Q, "R3>T", "R2>T", "U", "R3>T", "R2>T", "R3>T"),
    Failure.REDIRECT: Row(_R, "X", "X", "X", "X", "X", "X"),
    Failure.OTHER_CLIENT_ERROR: Row(_R, "X", "X", "X", "X", "X", "X"),
    Failure.OTHER_SERVER_ERROR: Row(_Q, "T", "T", "U", "T", "T", "T"),
    Failure.UNREADABLE: Row(_D, "R2>T", "T!", "U", "OK", "OK", "R2>T"),
    Failure.STREAM_CUT: Row(_D, "X", "X", "U", "X", "X", "X"),
    Failure.STREAM_ERROR: Row(_D, "X", "X", "X", "X", "X", "X"),
}

_BY_STATUS = {
    400: Failure.BAD_REQUEST,
    401: Failure.UNAUTHORIZED,
    403: Failure.FORBIDDEN,
    404: Failure.NOT_FOUND,
    408: Failure.TOO_EARLY,
    409: Failure.CONFLICT,
    410: Failure.NOT_FOUND,
    412: Failure.PRECONDITION,
    413: Failure.PAYLOAD,
    414: Failure.PAYLOAD,
    415: Failure.PAYLOAD,
    422: Failure.UNPROCESSABLE,
    423: Failure.LOCKED,
    425: Failure.TOO_EARLY,
    429: Failure.THROTTLED,
    500: Failure.SERVER_ERROR,
    502: Failure.BAD_GATEWAY,
    503: Failure.UNAVAILABLE,
    504: Failure.BAD_GATEWAY,
}
_BY_CLASS = {
    1: Failure.UNREADABLE,
    2: Failure.UNREADABLE,
    3: Failure.REDIRECT,
    4: Failure.OTHER_CLIENT_ERROR,
    5: Failure.OTHER_SERVER_ERROR,
}

# (status, operation or None for all, pattern of the error text) -> a more exact failure than the status.
_BY_TEXT: tuple[tuple[int, Operation | None, str, Failure], ...] = (
    (400, Operation.TOKEN, r"server_error|temporarily_unavailable", Failure.OAUTH_TEMPORARY),
    (400, Operation.TOKEN, r"login rate exceeded", Failure.LOGIN_RATE),
    (403, Operation.TOKEN, r"login rate exceeded", Failure.LOGIN_RATE),
    (401, None, r"not attached to agent", Failure.APP_NOT_ATTACHED),
    (422, None, r"cannot determine the active version", Failure.UNPROCESSABLE_CONFIG),
    (500, None, r"EngineConfigLookupException|InactiveConfigException", Failure.SERVER_CONFIG),
    (500, None, r"config is not active|unsupported media type", Failure.SERVER_CONFIG),
    (500, Operation.START, r"failed to populate planner surface", Failure.SERVER_CONFIG),
    # Documented for a wrong agent id; with a wrapped UNKNOWN_EXCEPTION it is an accident inside the org.
    (500, Operation.START, r"HttpServerErrorException(?!.*UNKNOWN_EXCEPTION)", Failure.SERVER_CONFIG),
    (500, Operation.END, r"session not found", Failure.NOT_FOUND),
)


def failure_of(operation: Operation, status: int, error_text: str) -> Failure:
    """Name the failure that a reply with *status* and *error_text* is."""
    for known_status, only, pattern, failure in _BY_TEXT:
        fits = status == known_status and only in {None, operation}
        if fits and re.search(pattern, error_text, re.IGNORECASE | re.DOTALL):
            return failure
    return _BY_STATUS.get(status) or _BY_CLASS.get(status // 100, Failure.OTHER_SERVER_ERROR)


def retry_after(value: str | None, date: str | None, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, or ``None`` for none or garbage.

    :param value: the header: whole seconds or an HTTP date.
    :param date: the reply's ``Date`` header; a date is counted from it, so clocks need not agree.
    :param now: the wall clock in seconds, used when there is no ``Date``.
    """
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]{1,10}", text):
        return float(text)
    then, base = _timestamp(text), _timestamp((date or "").strip())
    if then is None:
        return None
    return max(0.0, then - (now if base is None else base))


def _timestamp(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError, OSError):
        return None
