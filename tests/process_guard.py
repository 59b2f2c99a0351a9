"""Ends processes when the one that started them is gone, however it ended: SIGKILL included.

The guard is a process of its own. It is given the sessions (of processes) to watch, and ends what is left in
them when its input ends. What has a session of its own, as the backends of PostgreSQL have, ends with its
parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

import psutil

_POLITE_S = 5
_LONGEST_S = 15


class Guard:
    """Watches what is started, until it is closed or its owner is gone."""

    def __init__(self) -> None:
        self._program = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def watch(self, session: int, by: signal.Signals = signal.SIGKILL) -> None:
        """End the processes of a session in the end.

        :param session: the id of the process that leads it.
        :param by: what each gets first.
        """
        assert self._program.stdin is not None
        self._program.stdin.write(f"{session} {by.value}\n")
        self._program.stdin.flush()

    def forget(self, session: int) -> None:
        """Leave a session alone: its id may be another's by now."""
        self.watch(session, signal.Signals.SIGCONT)

    def close(self) -> None:
        """End everything now."""
        assert self._program.stdin is not None
        self._program.stdin.close()
        self._program.wait(2 * _LONGEST_S)


def members(sessions: Iterable[int]) -> list[psutil.Process]:
    """Return the processes of these sessions that are alive."""
    wanted = set(sessions)
    return [one for one in psutil.process_iter() if _session_of(one.pid) in wanted and _is_alive(one)]


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end(session: int, by: signal.Signals) -> None:
    end = time.monotonic() + _LONGEST_S
    polite = time.monotonic() + _POLITE_S
    while (left := members([session])) and time.monotonic() < end:
        for process in left:
            try:
                process.send_signal(by if time.monotonic() < polite else signal.SIGKILL)
            except psutil.NoSuchProcess:  # noqa: PERF203 - each may be gone by now
                continue
        psutil.wait_procs(left, timeout=_POLITE_S)


def _main() -> None:
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    watched: dict[int, signal.Signals] = {}
    for line in sys.stdin:
        session, by = map(int, line.split())
        watched[session] = signal.Signals(by)
    for session, by in reversed(watched.items()):
        if by != signal.SIGCONT:
            _end(session, by)


if __name__ == "__main__":
    _main()
