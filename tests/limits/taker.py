"""Takes sessions of an org, holds each for a while, and notes when; until its input ends."""

import json
import logging
import os
import sys
import threading
import time

import redis

from airflow_provider_agentforce.client.limits_store import LimitsStore
from airflow_provider_agentforce.client.shared_limiter import SharedLimiter
from airflow_provider_agentforce.exceptions import RateLimitedError


class Notes(logging.Handler):
    """Writes a line of JSON for each event, by a clock that all processes share."""

    def __init__(self, path):
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, kind, **more):
        line = json.dumps({"kind": kind, "at": time.monotonic(), **more}) + "\n"
        os.write(self._file, line.encode())

    def emit(self, record):
        self.note(record.levelname, text=record.getMessage())


class Taker:
    """Takes sessions in several threads.

    :param asked: what the test asks for.
    """

    def __init__(self, limiter, notes, asked):
        self._limiter, self._notes, self._asked = limiter, notes, asked
        self._left = iter(range(asked.get("sessions", 10**9)))
        self._stop = threading.Event()

    def run_until_input_ends(self):
        threads = [threading.Thread(target=self._take_all) for _ in range(self._asked["threads"])]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        self._stop.set()
        for thread in threads:
            thread.join()

    def _take_all(self):
        for number in self._left:
            slot = self._slot()
            if slot is None:
                return
            self._use(slot, number)

    def _slot(self):
        slot = None
        while slot is None and not self._stop.is_set():
            slot = self._asked_for()
        return slot

    def _asked_for(self):
        try:
            return self._limiter.acquire(
                most_open=self._asked.get("most_open", 1000),
                most_per_hour=self._asked.get("most_per_hour", 100_000),
                wanted=self._asked["threads"],
                wait=0.2,
            )
        except RateLimitedError as error:
            self._notes.note("refused", retry_after=error.retry_after)
            return None

    def _use(self, slot, number):
        session = f"{os.getpid()}-{number}"
        self._notes.note("started", session=session)
        throttled = number == self._asked.get("throttled_at")
        if throttled:
            self._notes.note("throttled")
            self._limiter.refused(slot, self._asked["retry_after"])
            self._notes.note("reported")
        else:
            self._limiter.started(slot, session)
            self._stop.wait(self._asked["hold"])
        self._notes.note("ending", session=session)
        self._limiter.ended(session)


def main():
    asked = json.loads(sys.argv[1])
    notes = Notes(asked["log"])
    logging.getLogger("airflow_provider_agentforce").addHandler(notes)
    logging.getLogger("airflow_provider_agentforce").setLevel("INFO")
    client = redis.Redis(port=asked["port"])
    limits = LimitsStore(client, "org", group=asked["group"], lease=asked["lease"], beat=asked["beat"])
    limiter = SharedLimiter(limits)
    limiter.window = asked.get("window", 3600.0)
    limiter.expect(asked.get("expected", 1))
    Taker(limiter, notes, asked).run_until_input_ends()


if __name__ == "__main__":
    main()
