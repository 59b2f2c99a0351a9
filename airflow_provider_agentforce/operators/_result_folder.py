"""Checks that the next try of a batch will find its folder if tasks run on several machines."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from airflow_provider_agentforce._compat import Context, conf
from airflow_provider_agentforce.exceptions import AgentforceInputError, LedgerError
from airflow_provider_agentforce.operators._ledger import Ledger, fingerprint_of

log = logging.getLogger(__name__)

_ON_THIS_MACHINE = {"LocalExecutor", "SequentialExecutor", "DebugExecutor"}
# Kinds of file systems that machines share, as the operating system names them.
_SHARED = {
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
}
# File systems that are lost with a pod: the container's own files, and memory.
_GONE_WITH_POD = {"overlay", "ramfs", "tmpfs"}
_RECORD = "result_folder"
_REMEDY = "Use object storage (s3://, gs://, abfs://) or a file system that all workers share."


def check_folder(path: Any, executor: str | None, context: Context) -> Callable[[float], None]:
    """Warn about a folder on a disk that other workers do not see.

    :param path: path object of the folder.
    :param executor: the executor that runs tasks on other machines, if any.
    :returns: a function to call before anything is sent, with the time at which the batch in the folder
        began. It raises a :class:`.LedgerError` if an earlier try of the task used another folder.
    :raises AgentforceInputError: if the folder is certain to be lost before the next try.
    """
    disk = _own_disk(path) if executor else None
    if disk is None:
        return _accept_any
    if executor == "KubernetesExecutor" and disk in _GONE_WITH_POD:
        raise AgentforceInputError(
            f"result_path: {path} is lost with this pod, and with it the information that a retry needs: "
            f"which records were asked. {_REMEDY}"
        )
    log.warning(
        "result_path %s is on a disk of this worker (%s), and %s may run the next try on another one. "
        "It then finds no record of the messages. %s",
        path,
        disk,
        executor,
        _REMEDY,
    )
    if context.get("task_state_store") is None:
        return _accept_any
    return partial(_check_same, Ledger.of(context), str(path))


def remote_executor(task: Any) -> str | None:
    """Return the name of the executor that runs *task*, ``None`` if it does so on the scheduler's machine."""
    # Inside a pod the configuration may name another executor.
    if os.environ.get("AIRFLOW_IS_K8S_EXECUTOR_POD"):
        return "KubernetesExecutor"
    configured = conf.get("core", "executor", fallback="LocalExecutor")
    # Each may be given as "alias:path", and that of a team as "team=name".
    listed = [one.strip().rpartition("=")[2].partition(":") for one in re.split("[,;]", configured)]
    names = {alias: path or alias for alias, _, path in listed}
    chosen = getattr(task, "executor", None) or listed[0][0]
    name: str = names.get(chosen, chosen).rpartition(".")[2]
    return None if name in _ON_THIS_MACHINE else name


def _accept_any(_began: float) -> None:
    """Accept any folder."""


def _check_same(ledger: Ledger, path: str, began: float) -> None:
    here, fingerprint = socket.gethostname(), fingerprint_of(path)
    before = ledger.read_any_cycle(_RECORD)
    if before is None or before.fingerprint != fingerprint:
        ledger.intend(_RECORD, fingerprint, {"began": began, "host": here})
        return
    found = before.value or {}
    if found.get("began") != began:
        raise LedgerError(
            f"result_path: {path} on this worker ({here}) is not the folder that an earlier try of this task "
            f"used on {found.get('host')}, which has the record of the messages. Nothing was sent.",
            hint=f"{_REMEDY} A retry on the other worker continues. "
            "Another result_path asks everything again.",
        )


def _own_disk(path: Any) -> str | None:
    """Return the type of the file system if it is a disk of this machine, else ``None``."""
    from airflow_provider_agentforce.batch.storage import local_path  # noqa: PLC0415 - not at parse time

    local = local_path(path)
    if local is None:
        return None
    kind = _kind_of(local.resolve())
    return None if kind in _SHARED or kind.startswith("fuse") else kind


def _kind_of(path: Path) -> str:
    import psutil  # noqa: PLC0415 - not at parse time

    mounted = {Path(one.mountpoint): one.fstype for one in psutil.disk_partitions(all=True)}
    return next((mounted[one] for one in (path, *path.parents) if one in mounted), "unknown")
