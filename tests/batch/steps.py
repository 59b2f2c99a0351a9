"""Kills a process right after a chosen step of its work with the storage, each in a process of its own."""

from __future__ import annotations

import os
import signal
from itertools import count
from multiprocessing import get_context
from pathlib import Path

from quick import quick_process

from airflow_provider_agentforce.batch.storage import LocalStorage

_PROCESSES = get_context("forkserver")
_PROCESSES.set_forkserver_preload(["batches", "steps", "quick"])


class _Mortal(LocalStorage):
    """A storage that ends its process after so many changes."""

    left = 0

    def _step(self):
        _Mortal.left -= 1
        if _Mortal.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, name, content):
        super().write(name, content)
        self._step()

    def append(self, name, size, data, *, sync=True):
        super().append(name, size, data, sync=sync)
        self._step()

    def remove(self, name):
        super().remove(name)
        self._step()


def _run(work, steps, *arguments):
    _Mortal.left = steps
    with quick_process():
        work(lambda path: _Mortal(Path(path)), *arguments)


def each_step(work, *, every=1):
    """Yield, for each step of *work*, what runs it in a process that is killed right after the step.

    :param work: is given what makes storages, and its arguments.
    :param every: pass over the steps between.
    """
    for steps in count(1, every):
        finished = []

        def killed(*arguments, steps=steps, finished=finished):
            process = _PROCESSES.Process(target=_run, args=(work, steps, *arguments))
            process.start()
            process.join()
            assert process.exitcode in {0, -signal.SIGKILL}, process.exitcode
            finished.append(process.exitcode == 0)

        yield killed
        if finished == [True]:
            return
