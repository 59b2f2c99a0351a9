"""What is done at the end of a task for the threads that it leaves behind.

A hook does not learn of the end of its task: a time-out or a kill stops the task's own code while threads
that it started still wait for an agent, and then the process ends without another line of theirs. What
Airflow does call before, in the process of the task, are its listeners.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airflow.listeners import hookimpl

from airflow_provider_agentforce._compat import add_listener
from airflow_provider_agentforce.client.after_fork import ForkSafeLock

_lock = ForkSafeLock()
_left: set[Callable[[], None]] = set()


def at_task_end(act: Callable[[], None]) -> None:
    """Have *act* called when the task of this process ends, in a thread of its own."""
    with _lock:
        _left.add(act)
        add_listener(_listener)


def not_at_task_end(act: Callable[[], None]) -> None:
    """Forget *act*: it was done before."""
    with _lock:
        _left.discard(act)


class _Listener:
    @hookimpl
    def before_stopping(self, component: Any) -> None:  # noqa: ARG002 - as Airflow calls it
        with _lock:
            left = list(_left)
            _left.clear()
        if left:
            with ThreadPoolExecutor(len(left)) as threads:
                list(threads.map(lambda act: act(), left))


_listener = _Listener()
