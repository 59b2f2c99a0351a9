"""A batch whose next try may run on another machine, which does not see the folder of the first."""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace

import psutil
import pytest
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.io import attach, store
from fsspec.implementations.memory import MemoryFileSystem
from stand_ins import Task

from airflow_provider_agentforce.exceptions import AgentforceInputError, BatchFailedError, LedgerError
from airflow_provider_agentforce.operators import ConversationBatchOperator
from airflow_provider_agentforce.operators._result_folder import remote_executor

RECORDS = [{"id": f"A{number}"} for number in range(6)]
WARNING = "may run the next try on another one"


@pytest.fixture
def disk(tmp_path):
    """A path behind which each worker has its own folder; call it to go to another worker."""
    path = tmp_path / "disk"

    def go_to(worker):
        (tmp_path / worker).mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(tmp_path / worker)

    go_to("worker-1")
    return SimpleNamespace(path=path, go_to=go_to)


@pytest.fixture
def batch(org, disk, monkeypatch, tmp_path):
    """A task that asks about records, on Celery workers."""
    monkeypatch.setattr(Task, "folder", tmp_path, raising=False)
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    return Task(
        ConversationBatchOperator,
        records=RECORDS,
        key="id",
        message="record {{ record.id }}",
        result_path=f"file://{disk.path}/results",
        max_concurrency=1,
    )


def test_a_try_on_another_worker_sends_nothing_and_one_on_the_first_goes_on(batch, disk, org):
    org.fail("send", status=400, times=1)
    stopped = {"max_failures": 0, "max_concurrency": 1}
    with pytest.raises(BatchFailedError, match="1 of 6"):
        batch.run(**stopped)
    sent = org.count("send")

    disk.go_to("worker-2")
    for _ in range(2):
        with pytest.raises(
            LedgerError, match="is not the folder that an earlier try of this task used"
        ) as caught:
            batch.run()
        assert not isinstance(caught.value, AirflowFailException)  # Airflow tries again, perhaps on the first
        assert org.count("send") == sent

    disk.go_to("worker-1")
    manifest = batch.run()
    assert manifest["records"] == len(RECORDS)
    texts = [turn.text for session in org.sessions.values() for turn in session.turns]
    assert len(texts) == len(set(texts))


def test_another_result_path_asks_everything_again(batch, disk, org):
    batch.run()
    disk.go_to("worker-2")
    batch.clear()
    with pytest.raises(LedgerError):
        batch.run()
    assert batch.run(result_path=f"file://{disk.path}/others")["counts"] == {"answered": len(RECORDS)}


@pytest.mark.parametrize(
    ("executor", "path", "warned"),
    [
        ("CeleryExecutor", "file://{tmp}/results", True),
        ("CeleryExecutor", "{tmp}/results", True),
        ("LocalExecutor", "file://{tmp}/results", False),
        ("CeleryExecutor", "memory://the_store@bucket/results", False),
    ],
)
def test_a_disk_of_the_worker_is_warned_about(batch, tmp_path, monkeypatch, caplog, executor, path, warned):
    monkeypatch.setattr(store, "_STORE_CACHE", {})
    attach(protocol="memory", conn_id="the_store", fs=MemoryFileSystem())
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    with caplog.at_level(logging.WARNING):
        batch.run(result_path=path.format(tmp=tmp_path))
    assert (WARNING in caplog.text) == warned


def test_a_folder_that_is_gone_with_its_pod_is_refused(batch, org, monkeypatch):
    memory = next(
        one.mountpoint
        for one in psutil.disk_partitions(all=True)
        if one.fstype == "tmpfs" and os.access(one.mountpoint, os.W_OK)
    )
    monkeypatch.setenv("AIRFLOW_IS_K8S_EXECUTOR_POD", "True")
    with pytest.raises(AgentforceInputError, match="lost with this pod"):
        batch.run(result_path=f"file://{memory}/agentforce-results")
    assert org.count("start") == 0


@pytest.mark.parametrize(
    ("configured", "chosen", "remote"),
    [
        ("LocalExecutor", None, None),
        ("SequentialExecutor", None, None),
        ("CeleryExecutor", None, "CeleryExecutor"),
        ("LocalExecutor,CeleryExecutor", None, None),
        ("LocalExecutor, CeleryExecutor", "CeleryExecutor", "CeleryExecutor"),
        (
            "LocalExecutor,many:airflow.providers.celery.executors.celery_executor.CeleryExecutor",
            "many",
            "CeleryExecutor",
        ),
        ("airflow.executors.local_executor.LocalExecutor", None, None),
        ("LocalExecutor;team=CeleryExecutor", None, None),
        ("CeleryExecutor", "airflow.executors.local_executor.LocalExecutor", None),
    ],
)
def test_the_executor_of_a_task(monkeypatch, configured, chosen, remote):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", configured)
    assert remote_executor(SimpleNamespace(executor=chosen)) == remote
