"""Builds batches for the tests, in this process or in one that can be killed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import fields
from functools import partial
from pathlib import Path

import jinja2
from lossy import Disk

from airflow_provider_agentforce.batch.answer_folder import AnswerFolder
from airflow_provider_agentforce.batch.continuation import Handover
from airflow_provider_agentforce.batch.job import Job
from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.results import FAILURES, STATUSES
from airflow_provider_agentforce.batch.sample import Sample
from airflow_provider_agentforce.batch.shard import Shard
from airflow_provider_agentforce.batch.storage import LocalStorage
from airflow_provider_agentforce.client import AgentforceClient, Settings
from airflow_provider_agentforce.client.budget import Budget
from airflow_provider_agentforce.client.models import SessionOptions


def compile_template(text):
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(text)  # noqa: S701 - text
    return lambda record: template.render(record=record)


def client_of(fields):
    place, budget = fields.pop("redis", None), fields.pop("budget", None)
    client = AgentforceClient(Settings(**fields), limits=place and limits_of(**place))
    return client if budget is None else client.with_budget(Budget("messages", per_day=budget))


def limits_of(*, port, group):
    """Return the limits that processes share in a Redis."""
    import redis  # noqa: PLC0415 - an extra

    from airflow_provider_agentforce.client.limits_store import LimitsStore  # noqa: PLC0415

    return LimitsStore(redis.Redis(port=port), "org", group=group, lease=9.0, beat=2.0)


def accounts(number):
    return [{"id": f"A{index}", "name": f"account-{index}"} for index in range(number)]


class Watched:
    """A job with a watcher of its own, which counts."""

    def __init__(self, job):
        self._job = job
        self.counted = Counter()

    def run(self, *, killed):
        return self._job.run(killed=killed, watcher=self)

    def plan(self):
        return self._job.plan(killed=lambda: False)

    def known(self, checkpoint):
        self.seen = list(checkpoint.rows_having(*STATUSES))
        reasons, rest = checkpoint.most_common_failures(3, 1)
        counted = sum(number for _, number, _ in reasons) + rest
        assert counted == sum(row.status in FAILURES for row in self.seen)

    def row(self, row):
        self.counted[row.status] += 1

    def snapshot(self, snapshot):
        assert snapshot.open_sessions >= 0
        assert snapshot.limit >= 1


IDENTITY = {"task instance": "dag/run/task/-1"}
OPTIONS = {field.name for field in fields(Options)}


def trial(client, folder, records, size, **replaced):
    """Return the job of a task that asks a sample."""
    sample = size if isinstance(size, Sample) else Sample(size)
    return job(client, folder, records, sample=sample, begins=Handover(IDENTITY, {}), **replaced)


def rest(client, folder, records, *, task="dag/run/rest/-1", **replaced):
    """Return the job of a task that goes on with the batch of :func:`trial`."""
    return job(client, folder, records, continues_as=task, **replaced)


def job(client, folder, records, **replaced):
    given = {
        "source_path": None,
        "key": "id",
        "message": "Tell me of {{ record.name }}.",
        "compile_template": compile_template,
        "identity": IDENTITY,
        "start": {"agent_id": client.settings.agent_id},
        "max_concurrency": 4,
        **replaced,
    }
    given["start"] = SessionOptions(**given["start"])
    options = Options(**{name: given.pop(name) for name in OPTIONS & set(given)})
    return Watched(Job(client, records=records, result_folder=folder, options=options, **given))


def rows(folder):
    """Return the rows of the results file by key."""
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return {row["key"]: row for row in found}


def in_a_process(fields, folder, records, *, log=None, **replaced):
    """Start a batch in a process of its own.

    :param log: path of a file that gets what the process says.
    :param replaced: as for :func:`job`, and what :func:`_disturbed` takes; ``answers``: where they are kept,
        and ``answers_until``: the steps after which that kills the process.
    """
    asked = json.dumps({"fields": fields, "folder": str(folder), "records": records, "replaced": replaced})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with Path(log).open("w") if log else contextlib.nullcontext() as output:
        process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stderr=output, text=True, env=environment
        )
    process.stdin.write(asked)
    process.stdin.close()
    return process


def _disturbed(replaced):
    """Set up what disturbs this process, and return the rest.

    Takes ``most_bytes`` of any file; ``temporary``: the folder for temporary files; ``clock_jumps``: seconds
    by which the wall clock jumps back and forth.
    """
    most, jumps = replaced.pop("most_bytes", None), replaced.pop("clock_jumps", 0)
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    tempfile.tempdir = replaced.pop("temporary", None)
    if jumps:
        real, way = time.time, itertools.cycle([0, 1, -1, 2])
        time.time = lambda: real() + jumps * next(way)
    return replaced


class Deadly(LocalStorage):
    """A folder that kills the process in the end: before an access, or amid a file."""

    def __init__(self, folder, *, steps):
        super().__init__(folder)
        self._steps = steps

    def _step(self):
        if next(self._steps) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def names(self):
        self._step()
        return super().names()

    def open(self, name):
        self._step()
        return super().open(name)

    def prepare(self):
        self._step()
        super().prepare()

    def write(self, name, content):
        self._step()

        def lines():
            for line in content():
                yield line
                self._step()

        super().write(name, lines)
        self._step()


def main():
    asked = json.loads(sys.stdin.read())
    client, replaced = client_of(asked["fields"]), _disturbed(asked["replaced"])
    if "shard" in replaced:
        replaced["shard"] = Shard.read(replaced["shard"])
    disk = replaced.pop("disk", None)
    answers, steps = replaced.pop("answers", None), replaced.pop("answers_until", None)
    if answers is not None:
        storage_of = LocalStorage if steps is None else partial(Deadly, steps=itertools.count(-steps))
        replaced["reuse"] = AnswerFolder(Path(answers), storage_of=storage_of)
    if disk is not None:
        replaced["storage_of"] = Disk(disk, forgets=replaced.pop("forgets", False)).storage_of
    job(client, Path(asked["folder"]), asked["records"], **replaced).run(killed=lambda: False)


if __name__ == "__main__":
    main()
