"""One HTTP attempt: never a redirect, a retry or a password file; one deadline; a reply of bounded size."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import requests
import urllib3

from airflow_provider_agentforce.client.calls import Call, Operation
from airflow_provider_agentforce.client.policy import Failure
from airflow_provider_agentforce.client.routes import Route, Routes
from airflow_provider_agentforce.client.wire import Attempt, watch, watchdog

MAX_REPLY_BYTES = 4 * 1024 * 1024
_CONNECT_SECONDS = 10.0
_PIECE = 64 * 1024
_BROKEN = (OSError, requests.RequestException, urllib3.exceptions.HTTPError)


@dataclass(frozen=True)
class Exchange:
    """What one attempt brought.

    :param status: HTTP status, ``None`` when no reply began.
    :param headers: of the reply, with lower-case names.
    :param body: what arrived of it, at most :data:`MAX_REPLY_BYTES`; not shown, as it may hold a token.
    :param broken: what went wrong on the wire, ``None`` for a whole reply.
    :param detail: the innermost word for it.
    :param cause: the exception behind it, when it is not one of the wire, which only repeat the detail.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    broken: Failure | None = None
    detail: str = ""
    cause: BaseException | None = field(default=None, repr=False)


class Transport:
    """Sends calls over connections shared by all threads.

    :param connections: how many idle connections are kept.
    """

    def __init__(self, connections: int) -> None:
        self._routes = Routes(connections)
        self._in_flight: set[Attempt] = set()
        self._stopped = False

    def exchange(
        self,
        call: Call,
        *,
        bearer: str | None,
        timeout: float,
        on_piece: Callable[[bytes], None] | None = None,
        despite_stop: bool = False,
    ) -> Exchange:
        """Make one attempt at *call*. Everything that fails on the wire is in the result, not raised.

        :param timeout: seconds for the whole attempt, from connecting to the last byte of the reply.
        :param on_piece: is given the bytes of a 2xx event stream as they arrive.
        :param despite_stop: try even after :meth:`stop`, to clean up.
        """
        attempt = Attempt(starts=call.operation is Operation.START)
        if not despite_stop:
            # A second SIGTERM must not cut the clean-up after the first.
            self._in_flight.add(attempt)
        watch(attempt)
        try:
            if self._stopped and not despite_stop:
                return Exchange(broken=Failure.STOPPED_BEFORE)
            watchdog.guard(attempt, timeout)
            reply = _sent(self._routes.to(call.url), call, bearer, timeout)
            return _received(reply, attempt, on_piece)
        except _BROKEN as error:
            return Exchange(broken=_broken(attempt, error), detail=_words(attempt, error))
        except BaseException as error:
            # A time-out or kill raised by a signal handler. Once a byte left, it must not look like a failure
            # that an Airflow retry may mend.
            if not attempt.sent:
                raise
            return Exchange(broken=Failure.STOPPED, detail=type(error).__name__, cause=error)
        finally:
            attempt.done = True
            attempt.line = None
            watch(None)
            self._in_flight.discard(attempt)

    def stop(self, *, but_starts: bool = False) -> None:
        """Cut every attempt under way and make no other. Takes no lock: safe in a signal handler.

        :param but_starts: let starts of sessions come to their end.
        """
        self._stopped = True
        for attempt in list(self._in_flight):
            if not (but_starts and attempt.starts):
                attempt.shut("stopped")

    def close(self) -> None:
        """Close idle connections. The transport can be used again."""
        self._routes.close()


def _sent(route: Route, call: Call, bearer: str | None, timeout: float) -> urllib3.BaseHTTPResponse:
    headers = {**call.headers, "Accept-Encoding": "identity", "User-Agent": "airflow-provider-agentforce"}
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    return route.pool.urlopen(
        call.method,
        route.target(call.url),
        body=call.body,
        headers=headers,
        retries=False,
        redirect=False,
        assert_same_host=False,
        timeout=urllib3.Timeout(connect=min(_CONNECT_SECONDS, timeout)),
        preload_content=False,
        decode_content=False,
    )


def _received(
    reply: urllib3.BaseHTTPResponse, attempt: Attempt, on_piece: Callable[[bytes], None] | None
) -> Exchange:
    headers = {name.lower(): value for name, value in reply.headers.items()}
    is_stream = 200 <= reply.status < 300 and headers.get("content-type", "").startswith("text/event-stream")  # noqa: PLR2004
    body = bytearray()
    broken, detail, cause = None, "", None
    try:
        for piece in _pieces(reply):
            body += piece
            if len(body) > MAX_REPLY_BYTES:
                broken, detail = Failure.UNREADABLE, f"longer than {MAX_REPLY_BYTES} bytes"
                break
            if on_piece and is_stream:
                on_piece(piece)
    except BaseException as error:  # noqa: BLE001 - the reply has begun, so whatever it is, it is recorded
        broken, detail = _broken_reply(attempt, error), _words(attempt, error)
        cause = None if isinstance(error, _BROKEN) else error
    finally:
        if broken:
            reply.close()
        reply.release_conn()
    if attempt.cut and not broken and _ends_with_the_connection(reply):
        broken = Failure.STOPPED if attempt.cut == "stopped" else Failure.CUT_REPLY
    return Exchange(reply.status, headers, bytes(body[:MAX_REPLY_BYTES]), broken, detail, cause)


def _pieces(reply: Any) -> Iterator[bytes]:
    if reply.chunked or not hasattr(reply, "read1"):
        yield from reply.stream(_PIECE, decode_content=True)
        return
    while piece := reply.read1(_PIECE, decode_content=True):
        yield piece


def _ends_with_the_connection(reply: Any) -> bool:
    # Without a length or chunks, our own cutting looks like the end of a whole reply.
    return not reply.chunked and reply.length_remaining is None


def _broken(attempt: Attempt, error: BaseException) -> Failure:
    if attempt.cut == "stopped":
        return Failure.STOPPED if attempt.sent else Failure.STOPPED_BEFORE
    if not attempt.sent:
        if any(isinstance(one, ssl.SSLCertVerificationError) for one in _chain(error)):
            return Failure.BAD_CERTIFICATE
        return Failure.UNREACHABLE if attempt.line is None else Failure.TLS_BROKEN
    if attempt.cut == "deadline" or isinstance(error, urllib3.exceptions.TimeoutError):
        return Failure.NO_REPLY
    return Failure.RESET


def _broken_reply(attempt: Attempt, error: BaseException) -> Failure:
    if attempt.cut == "stopped" or not isinstance(error, Exception):
        return Failure.STOPPED
    unreadable = isinstance(error, urllib3.exceptions.DecodeError | ValueError)
    return Failure.UNREADABLE if unreadable else Failure.CUT_REPLY


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop()
        # The reason of an ssl.SSLError is a text, the one of an error of urllib3 the error before it.
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__, getattr(one, "reason", None)]
        waiting += one.args


def _words(attempt: Attempt, error: BaseException) -> str:
    if attempt.cut:
        # What the library says is then only the echo of our own cutting.
        return ""
    # The innermost error says most; the outer ones only repeat the URL.
    innermost = list(_chain(error))[-1]
    return f"{type(innermost).__name__}: {innermost}" if str(innermost) else type(innermost).__name__
