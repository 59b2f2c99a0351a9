"""The retry table: what each failure means for each operation. Pure data and pure functions.

RFC 9110 section 9.2.2: a request that is not idempotent is repeated only if it is known not to have been
applied. Nothing lets a client ask the Agent API whether a message was applied, and the API reports its own
120 s time-out as HTTP 500, so a message is repeated only when no byte of it left or the answer refuses it.

:mod:`.failure_catalogue` names the failure of a reply; the transport names those of the wire.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime
from enum import Enum

from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceError,
    AgentforceRequestError,
    AgentforceTransientError,
    AnswerLostError,
    DeliveryUnknownError,
    RateLimitedError,
    SessionBusyError,
    SessionNotFoundError,
    TaskStoppedError,
)


class Operation(str, Enum):
    """The calls that the client makes, by the names that errors and the retry table use."""

    TOKEN = "token"  # noqa: S105 - the name of an operation
    START = "start"
    SEND = "send"
    END = "end"
    FEEDBACK = "feedback"
    QUERY = "query"
    TEST = "test"
    READ = "read"


# Another start of a test run is another run, as another message is another message; to look is harmless.
_LIKE = {Operation.TEST: Operation.SEND, Operation.READ: Operation.QUERY}


class Delivery(str, Enum):
    """What became of a request."""

    NOT_SENT = "not sent"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    DELIVERED = "delivered"

    @property
    def applied(self) -> bool | None:
        """The same as an error's ``applied``."""
        return None if self is Delivery.UNKNOWN else self is Delivery.DELIVERED


class Failure(str, Enum):
    """Failure modes of a single request."""

    UNREACHABLE = "host not found, refused or not reachable"
    BAD_ROUTE = "proxy or CA bundle that cannot be used"
    BAD_CERTIFICATE = "certificate not valid"
    WRONG_PROTOCOL = "TLS on one side, plain HTTP on the other"
    TLS_BROKEN = "connection lost before anything was sent"
    STOPPED_BEFORE = "task stopped before anything was sent"
    CLIENT_CERTIFICATE = "client certificate missing or refused"
    RESET = "connection lost after something was sent"
    NO_REPLY = "no reply in time"
    STOPPED = "task stopped while waiting for the reply"
    CUT_REPLY = "reply cut or too slow"
    BAD_REQUEST = "400"
    TOKEN_REFUSED = "400 to a token request"  # noqa: S105 - no password
    OAUTH_TEMPORARY = "400, token service busy"
    LOGIN_RATE = "login rate exceeded"
    ALREADY_DELIVERED = "400, number of a repeated message already used"
    UNAUTHORIZED = "401"
    INVALID_JWT = "401 INVALID_JWT_FORMAT"
    APP_NOT_ATTACHED = "401, app not attached to the agent"
    FORBIDDEN = "403"
    NOT_FOUND = "404 or 410"
    SESSION_GONE = "404 or 410 to a session, 500 V6Session not found"
    TOO_EARLY = "408 or 425"
    CONFLICT = "409"
    PRECONDITION = "412"
    PAYLOAD = "413, 414 or 415"
    UNPROCESSABLE = "422"
    LOCKED = "423"
    STILL_RUNNING = "423 to a repeated message"
    THROTTLED = "429"
    SERVER_CONFIG = "422 or 500 whose class names the configuration"
    SERVER_ERROR = "500"
    BAD_GATEWAY = "502 or 504"
    UNAVAILABLE = "503"
    REDIRECT = "any 3xx"
    OTHER_CLIENT_ERROR = "other 4xx"
    OTHER_SERVER_ERROR = "other 5xx"
    UNREADABLE = "2xx, reply not readable"
    STREAM_CUT = "2xx, stream without its end"


class Ending(str, Enum):
    """What the caller gets when a request is not sent again."""

    DONE = "success"
    TRANSIENT = "transient error"
    FINAL = "final error"
    UNKNOWN = "unknown delivery"


@dataclass(frozen=True)
class Verdict:
    """One cell of the table.

    :param attempts: requests in all, the first included.
    :param ending: what follows the last one.
    :param renewals: how often a new token is fetched and the request sent once more.
    :param until_free: send again as long as the longest wait lasts, whatever ``attempts`` says.
    :param orphan: a session may be open whose id is not known.
    """

    attempts: int
    ending: Ending
    renewals: int = 0
    until_free: bool = False
    orphan: bool = False


@dataclass(frozen=True)
class Rule:
    """One line of the table: what became of the request, a cell for each operation, and the error raised.

    :param transient: class of the error of a cell that ends in ``T``.
    :param final: class of the error of a cell that ends in ``X``.
    :param unknown: class of the error of a cell that ends in ``U``.
    :param in_doubt: what to do about a message whose delivery or answer is not known.
    """

    delivery: Delivery
    token: str
    start: str
    send: str
    end: str
    feedback: str
    query: str
    transient: type[AgentforceError] = AgentforceTransientError
    final: type[AgentforceError] = AgentforceRequestError
    unknown: type[AgentforceError] = DeliveryUnknownError
    in_doubt: str = ""

    def verdict(self, operation: Operation) -> Verdict:
        """Return the cell for *operation*."""
        return _VERDICTS[getattr(self, _LIKE.get(operation, operation).value)]

    def error_class(self, ending: Ending) -> type[AgentforceError]:
        """Return the class of the error that *ending* raises."""
        if ending is Ending.UNKNOWN:
            return self.unknown
        return self.transient if ending is Ending.TRANSIENT else self.final


_T, _X, _U, _OK = Ending.TRANSIENT, Ending.FINAL, Ending.UNKNOWN, Ending.DONE

# R<n>: send again, n attempts in all. T: transient error. X: final error. U: unknown delivery. OK: success.
# RF<n>: renew the token and send once more, up to n times. L: wait for the session's lock.
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
    "RF1>X": Verdict(1, _X, renewals=1),
    "RF2>T": Verdict(1, _T, renewals=2),
    "L>T": Verdict(1, _T, until_free=True),
}

_N, _R, _Q, _D = Delivery.NOT_SENT, Delivery.REFUSED, Delivery.UNKNOWN, Delivery.DELIVERED
_AUTH = AgentforceAuthError
_LOOK = (
    "Look at the agent's session in Salesforce before you send the message again. In a task, "
    'on_unknown_delivery="resend" allows a repetition, and clearing the task sends the message again.'
)
_SLOW_ACTION = "An Apex or Flow action may have timed out."
_ANSWER_LOST = f"Only the answer is lost. {_LOOK}"

TABLE: dict[Failure, Rule] = {
    # failure                               token   start    send    end     feedback query
    Failure.UNREACHABLE: Rule(_N, "R3>T", "R3>T", "R3>T", "R3>T", "R3>T", "R3>T"),
    Failure.BAD_ROUTE: Rule(_N, "X", "X", "X", "X", "X", "X"),
    Failure.BAD_CERTIFICATE: Rule(_N, "X", "X", "X", "X", "X", "X"),
    Failure.WRONG_PROTOCOL: Rule(_N, "X", "X", "X", "X", "X", "X"),
    Failure.TLS_BROKEN: Rule(_N, "R3>T", "R3>T", "R3>T", "R3>T", "R3>T", "R3>T"),
    Failure.STOPPED_BEFORE: Rule(_N, "T", "T", "T", "T", "T", "T", transient=TaskStoppedError),
    Failure.CLIENT_CERTIFICATE: Rule(_R, "X", "X", "X", "X", "X", "X"),
    Failure.RESET: Rule(_Q, "R3>T", "R2>T!", "U", "R3>T", "R2>T", "R3>T", in_doubt=_LOOK),
    Failure.NO_REPLY: Rule(_Q, "R2>T", "T!", "U", "R2>T", "R2>T", "R2>T", in_doubt=_LOOK),
    Failure.STOPPED: Rule(_Q, "T", "T!", "U", "T", "T", "T", transient=TaskStoppedError, in_doubt=_LOOK),
    Failure.CUT_REPLY: Rule(_D, "R2>T", "T!", "U", "OK", "OK", "R2>T", in_doubt=_ANSWER_LOST),
    Failure.BAD_REQUEST: Rule(_R, "X", "X", "X", "X", "X", "X"),
    Failure.TOKEN_REFUSED: Rule(_R, "X", "X", "X", "X", "X", "X", final=_AUTH),
    Failure.OAUTH_TEMPORARY: Rule(_R, "R3>T", "X", "X", "X", "X", "X"),
    Failure.LOGIN_RATE: Rule(_R, "T", "X", "X", "X", "X", "X", transient=RateLimitedError),
    Failure.ALREADY_DELIVERED: Rule(
        _D,
        "X",
        "X",
        "U",
        "X",
        "X",
        "X",
        unknown=AnswerLostError,
        in_doubt=(
            "An earlier try delivered the message, and its answer is lost. Sending it again cannot bring the "
            "answer back: look at the agent's session in Salesforce."
        ),
    ),
    Failure.UNAUTHORIZED: Rule(_R, "X", "RF1>X", "RF1>X", "RF1>X", "RF1>X", "RF1>X", final=_AUTH),
    Failure.INVALID_JWT: Rule(_R, "X", "RF2>T", "RF2>T", "RF2>T", "RF2>T", "RF2>T", final=_AUTH),
    Failure.APP_NOT_ATTACHED: Rule(_R, "X", "X", "X", "X", "X", "X", final=_AUTH),
    Failure.FORBIDDEN: Rule(_R, "X", "X", "X", "X", "X", "X", final=_AUTH),
    Failure.NOT_FOUND: Rule(_R, "X", "X", "X", "X", "X", "X"),
    Failure.SESSION_GONE: Rule(_R, "X", "X", "X", "OK", "X", "X", final=SessionNotFoundError),
    Failure.TOO_EARLY: Rule(_R, "R3>T", "R3>T", "R2>T", "R3>T", "R2>T", "R3>T"),
    Failure.CONFLICT: Rule(_R, "X", "X", "X", "X", "X", "X"),
    Failure.PRECONDITION: Rule(_R, "X", "X", "X", "X", "X", "X"),
    Failure.PAYLOAD: Rule(_R, "X", "X", "X", "X", "X", "X"),
    Failure.UNPROCESSABLE: Rule(_Q, "X", "X", "U", "X", "X", "X", in_doubt=f"{_SLOW_ACTION} {_LOOK}"),
    Failure.LOCKED: Rule(_R, "T", "T", "L>T", "R3>T", "R3>T", "T", transient=SessionBusyError),
    Failure.STILL_RUNNING: Rule(
        _Q,
        "X",
        "X",
        "U",
        "X",
        "X",
        "X",
        in_doubt=(f"The session is still working, probably on the message of an earlier try. {_LOOK}"),
    ),
    Failure.THROTTLED: Rule(_R, "R3>T", "R3>T", "R3>T", "R3>T", "R3>T", "R3>T", transient=RateLimitedError),
    Failure.SERVER_CONFIG: Rule(_R, "R3>T", "X", "X", "X", "X", "X"),
    Failure.SERVER_ERROR: Rule(
        _Q,
        "R3>T",
        "T",
        "U",
        "R2>T",
        "R2>T",
        "R3>T",
        in_doubt=(f"The API also answers 500 when its own 120 s time-out ends. {_LOOK}"),
    ),
    Failure.BAD_GATEWAY: Rule(_Q, "R3>T", "R2>T!", "U", "R3>T", "R2>T", "R3>T", in_doubt=_LOOK),
    Failure.UNAVAILABLE: Rule(
        _Q, "R3>T", "R2>T", "U", "R3>T", "R2>T", "R3>T", in_doubt=f"{_SLOW_ACTION} {_LOOK}"
    ),
    Failure.REDIRECT: Rule(_R, "X", "X", "X", "X", "X", "X"),
    Failure.OTHER_CLIENT_ERROR: Rule(_R, "X", "X", "X", "X", "X", "X"),
    Failure.OTHER_SERVER_ERROR: Rule(_Q, "T", "T", "U", "T", "T", "T", in_doubt=_LOOK),
    Failure.UNREADABLE: Rule(_D, "R2>T", "T!", "U", "OK", "OK", "R2>T", in_doubt=_ANSWER_LOST),
    Failure.STREAM_CUT: Rule(_D, "X", "X", "U", "X", "X", "X", in_doubt=_ANSWER_LOST),
}


def retry_after(value: str | None, date: str | None, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, or ``None`` for none or garbage.

    :param value: the header: whole seconds or an HTTP date.
    :param date: the reply's ``Date`` header; a date is counted from it, so clocks need not agree.
    :param now: the wall clock in seconds, used without a ``Date``.
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
