"""Ends processes when the one that started them is gone, however it ended: SIGKILL included.

The guard is a separate process. It reads the sessions (of processes) to watch; when its input ends, it ends
what is left in them and removes their folder. What leads another session, as the backends of PostgreSQL do,
ends with its parent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

_POLITE_S = 5
_LONGEST_S = 15
_POLL_S = 0.1


class Guard:
    """Watches what is started, until it is closed or its owner is gone.

    :param folder: of all that is watched; removed in the end.
    """

    def __init__(self, folder: Path) -> None:
        self._program = subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def watch(self, session: int, *, by: signal.Signals = signal.SIGKILL) -> None:
        """End the processes of a session in the end.

        :param session: the id of the process that leads it.
        :param by: ``SIGKILL``, or ``SIGQUIT`` for one that has to tidy up, after the others.
        """
        assert self._program.stdin is not None
        self._program.stdin.write(f"{session} {by.value}\n")
        self._program.stdin.flush()

    def forget(self, session: int) -> None:
        """Leave a session alone: its id may be another's by now."""
        self.watch(session, by=signal.SIGCONT)

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


def _end(sessions: Iterable[int], by: signal.Signals) -> None:
    begun = time.monotonic()
    while (left := members(sessions)) and (passed := time.monotonic() - begun) < _LONGEST_S:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(by if passed < _POLITE_S else signal.SIGKILL)
        time.sleep(_POLL_S)


def _main() -> None:
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    watched: dict[int, signal.Signals] = {}
    for line in sys.stdin:
        session, by = map(int, line.split())
        watched[session] = signal.Signals(by)
    # First those that are not asked.
    for by in (signal.SIGKILL, signal.SIGQUIT):
        _end([session for session, how in watched.items() if how == by], by)
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    _main()
