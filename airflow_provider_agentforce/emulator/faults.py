"""Faults that a test programs in advance: counted, queued per operation, and checked for being used.

A fault that no request met means the test did not test what it says, so :meth:`FaultQueue.unused` is as
important as the faults themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.emulator.errors import ERRORS

if TYPE_CHECKING:
    from typing_extensions import Self

OPERATIONS = ("token", "start", "send", "end", "feedback", "query", "test")
_STATUS_RANGE = range(200, 600)


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with the next ``times`` requests of ``operation``.

    With a ``status``, an ``error`` or ``drop`` the org answers without acting, or acts first when ``after``
    is true. With none of the three it acts and answers as ever, and the fault changes only what it names:
    ``body``, ``headers``, ``content_type``, ``delay``, ``cut``.

    ``error`` names a documented answer (see ``airflow_provider_agentforce.emulator.errors``); ``status``
    alone picks the documented body of that status. ``delay`` is in seconds. ``cut`` closes the connection
    after that many bytes of body, ``drop`` before the first byte of the answer.

    :raises ValueError: an unknown operation or error, or fields that exclude each other.
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
    used: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ValueError(problem)

    def _problem(self) -> str | None:
        checks = (
            (
                self.operation in OPERATIONS,
                f"Unknown operation {self.operation!r}: one of {', '.join(OPERATIONS)}.",
            ),
            (
                self.error is None or self.error in ERRORS,
                f"Unknown error {self.error!r}: one of {', '.join(ERRORS)}.",
            ),
            (self.times >= 1, "times must be 1 or more."),
            (self.status is None or self.status in _STATUS_RANGE, "status must be from 200 to 599."),
            (self.delay >= 0, "delay must not be negative."),
            (self.cut is None or self.cut >= 0, "cut must not be negative."),
            (
                not self.drop or (self.status, self.error, self.body, self.cut) == (None,) * 4,
                "drop sends no answer: it takes no status, error, body or cut.",
            ),
        )
        return next((text for holds, text in checks if not holds), None)

    @property
    def remaining(self) -> int:
        """How many more requests it will meet."""
        return self.times - self.used

    @property
    def replaces_answer(self) -> bool:
        """Whether it answers in the place of the org, rather than changing the org's own answer."""
        return self.drop or self.status is not None or self.error is not None


class FaultQueue:
    """The programmed faults, in order per operation."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, deque[Fault]] = {operation: deque() for operation in OPERATIONS}

    def add(self, fault: Fault) -> Fault:
        """Queue ``fault`` behind the others of its operation."""
        with self._lock:
            self._queues[fault.operation].append(fault)
        return fault

    def take(self, operation: str) -> Fault | None:
        """Use up one count of the first fault of ``operation``, if there is one."""
        with self._lock:
            queue = self._queues.get(operation)
            if not queue:
                return None
            fault = queue[0]
            fault.used += 1
            if fault.remaining == 0:
                queue.popleft()
            return fault

    def put_back(self, fault: Fault) -> None:
        """Undo :meth:`take`: the request was refused before the fault could happen."""
        with self._lock:
            queue = self._queues[fault.operation]
            if fault.remaining == 0:
                queue.appendleft(fault)
            fault.used -= 1

    def unused(self) -> list[Fault]:
        """Return the faults that still wait for a request."""
        with self._lock:
            return [fault for queue in self._queues.values() for fault in queue]

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            for queue in self._queues.values():
                queue.clear()


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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        """Let all held requests go on, and hold no more."""
        with self._changed:
            self.released = True
            for loop, event in self._waiting:
                # The loop is closed when the server was stopped in the meantime.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(event.set)
