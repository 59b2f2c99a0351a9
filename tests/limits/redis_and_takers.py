"""A Redis, and processes that take sessions of an org through it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import redis

HERE = Path(__file__).resolve().parent
# Short, so that a test need not wait for a minute.
LEASE, BEAT = 3.0, 0.5


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Redis:
    """A Redis server: what it knows is lost when it stops, unless it is saved before."""

    def __init__(self, folder):
        program = shutil.which("redis-server")
        assert program, "The tests of limits need Debian's package redis-server: apt-get install redis-server"
        self.port = free_port()
        self._command = [
            program,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(folder),
        ]
        self._saved = folder / "dump.rdb"
        self._process = None
        self.client = redis.Redis(port=self.port)

    def start(self):
        """Start it, if it does not run."""
        if self._process is None:
            self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until(self.answers)

    def empty(self):
        self.client.flushall()
        self._saved.unlink(missing_ok=True)

    def up_for(self):
        """Return for how many whole seconds it has been running."""
        return self.client.info("server")["uptime_in_seconds"]

    def answers(self):
        try:
            return self.client.ping()
        except redis.RedisError:
            return False

    def stop(self):
        self._process.kill()
        self._process.wait()
        self._process = None

    def signal(self, number):
        if self._process is not None:
            self._process.send_signal(number)


def until(holds, seconds=180.0):
    """Wait for something to be so, and return what it is."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.02)
    return found


class Taker:
    """A process that takes sessions of an org and holds each for a while; see taker.py."""

    def __init__(self, log, asked):
        self.log = log
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, str(HERE / "taker.py"), json.dumps({**asked, "log": str(log)})]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, text=True)

    def events(self, *kinds):
        """Return what it noted: dicts with ``kind``, ``at`` and ``session``."""
        text = self.log.read_text() if self.log.exists() else ""
        noted = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        return [event for event in noted if not kinds or event["kind"] in kinds]

    def count(self, kind):
        return len(self.events(kind))

    def signal(self, number):
        self.process.send_signal(number)

    def finish(self):
        """Have it end its sessions and stop."""
        self.process.stdin.close()
        assert self.process.wait(180) == 0


def most_at_once(*takers):
    """Return how many sessions were open at once, in all processes."""
    events = sorted((one["at"], one["kind"]) for taker in takers for one in taker.events("started", "ending"))
    open_now = most = 0
    for _, kind in events:
        open_now += 1 if kind == "started" else -1
        most = max(most, open_now)
    return most
