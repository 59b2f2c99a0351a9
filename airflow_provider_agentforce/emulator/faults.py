"""Faults that a test programs in advance: counted, queued per operation, and checked for being used.

A fault that no request met means that the test did not test what it claims, so :meth:`FaultQueue.unused` is
as important as the faults themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.emulator.errors import ERRORS
from airflow_provider_agentforce.emulator.messages import StreamPlan

if TYPE_CHECKING:
    from typing_extensions import Self

OPERATIONS = (
    *("token", "start", "send", "end", "feedback", "trace", "session_trace", "query", "write", "test"),
)
_STATUS_RANGE = range(200, 600)


def check_operation(operation: str) -> None:
    """Check the name of an operation.

    :raises ValueError: the operation does not exist.
    """
    if operation not in OPERATIONS:
        raise ValueError(f"Unknown operation {operation!r}: one of {', '.join(OPERATIONS)}.")


@dataclass(kw_only=True)
class Fault:
    """A failure of the next requests of an operation, after the faults programmed before.

    With a ``status``, an ``error`` or ``drop`` the org answers without acting, or acts first if ``after`` is
    true. With none of the three it acts and answers as usual, and the fault changes only the parts that it
    names.

    :param operation: ``token``, ``start``, ``send``, ``end``, ``feedback``, ``trace``, ``session_trace``,
        ``query``, ``write`` or ``test``.
    :param times: the number of requests it applies to.
    :param status: an HTTP status, with its documented body.
    :param body: the body, instead of the documented or usual one.
    :param headers: headers to add or replace.
    :param delay: seconds before the answer.
    :param after: the org acts first, then this is the answer.
    :param cut: close the connection after this many bytes of body.
    :param drop: close the connection before the first byte of the answer.
    :param content_type: the content type, instead of the usual one.
    :param error: a documented answer by its name; ``docs/emulator.md`` lists them.
    :param stream: how the stream looks, with the keys of ``stream`` in a script. The fault applies only to a
        streamed message.
    :raises ValueError: an unknown operation, error or key, or fields that exclude each other.
    """

    operation: str
    times: int = 1
    status: int | None = None
    body: dict[str, Any] | list[Any] | str | bytes | None = None
    headers: dict[str, str] | None = None
    delay: float = 0.0
    after: bool = False
    cut: int | None = None
    drop: bool = False
    content_type: str | None = None
    error: str | None = None
    stream: dict[str, Any] | None = None
    used: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_operation(self.operation)
        if self.error is not None and self.error not in ERRORS:
            raise ValueError(f"Unknown error {self.error!r}: one of {', '.join(ERRORS)}.")
        StreamPlan().with_changes(self.stream, where="fault")
        checks = (
            (self.times >= 1, "times must be 1 or more."),
            (self.status is None or self.status in _STATUS_RANGE, "status must be from 200 to 599."),
            (self.delay >= 0, "delay must not be negative."),
            (self.cut is None or self.cut >= 0, "cut must not be negative."),
            (
                not self.drop or (self.status, self.error, self.body, self.cut) == (None,) * 4,
                "drop sends no answer: it takes no status, error, body or cut.",
            ),
            (
                self.stream is None or (self.operation == "send" and not self.replaces_answer),
                "stream changes the answer of a send: it takes no status, error or drop.",
            ),
        )
        for holds, problem in checks:
            if not holds:
                raise ValueError(problem)

    @property
    def remaining(self) -> int:
        """The number of further requests it applies to."""
        return self.times - self.used

    def fits(self, operation: str, *, stream: bool) -> bool:
        """Return whether it applies to a request. ``stream``: the request is a streamed send."""
        return self.operation == operation and (self.stream is None or stream)

    @property
    def replaces_answer(self) -> bool:
        """Whether it answers instead of the org, rather than changing the org's own answer."""
        return self.drop or self.status is not None or self.error is not None

    @property
    def instead(self) -> str | None:
        """What the caller gets instead of the org's answer, ``None`` for the answer itself."""
        if self.drop:
            return "connection dropped"
        if self.status is not None or self.error is not None:
            return f"HTTP {self.status or ERRORS[self.error or ''].status}"
        return None if self.cut is None else f"answer cut after {self.cut} bytes"


class FaultQueue:
    """The programmed faults, in order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Queue ``fault`` after the others of its operation."""
        with self._lock:
            self._faults.append(fault)

    def take(self, operation: str, *, stream: bool) -> Fault | None:
        """Use up one count of the first fault that fits a request, if there is one."""
        with self._lock:
            fault = next((fault for fault in self._faults if fault.fits(operation, stream=stream)), None)
            if fault is None:
                return None
            fault.used += 1
            if fault.remaining == 0:
                self._faults.remove(fault)
            return fault

    def put_back(self, fault: Fault) -> None:
        """Undo :meth:`take`: the request was refused before the fault could happen."""
        with self._lock:
            if fault.remaining == 0:
                self._faults.insert(0, fault)
            fault.used -= 1

    def unused(self) -> list[Fault]:
        """Return the faults that still wait for a request."""
        with self._lock:
            return list(self._faults)

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()


class Hold:
    """Keeps requests of one operation waiting until released, so a test can act in the middle of one.

    A held request has arrived and passed every check; a held message keeps its session locked. The agent acts
    on it after the release.
    """

    def __init__(self, operation: str) -> None:
        self.operation = operation
        self.released = False
        self._changed = threading.Condition()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    async def wait(self) -> None:
        """Wait for the release; called by the server for each request."""
        released = asyncio.Event()
        with self._changed:
            if self.released:
                return
            self._waiting.append((asyncio.get_running_loop(), released))
            self._changed.notify_all()
        await released.wait()

    def wait_until_held(self, timeout: float = 5.0, *, count: int = 1) -> None:
        """Wait until ``count`` requests are held.

        :raises TimeoutError: fewer arrived within ``timeout`` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._waiting) >= count, timeout):
                raise TimeoutError(
                    f"{len(self._waiting)} of {count} {self.operation!r} requests arrived within {timeout} s."
                )

    def release(self) -> None:
        """Release all held requests, and hold no more."""
        with self._changed:
            self.released = True
            for loop, event in self._waiting:
                # The loop is closed when the server was stopped in the meantime.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(event.set)
