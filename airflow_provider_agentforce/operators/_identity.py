"""Identifies a task instance, also in a loop of Airflow 3.4."""

from __future__ import annotations

import uuid
from typing import Any

_KEY_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "airflow-provider-agentforce")
_NO_LOOP = uuid.UUID(int=0)


def external_session_key(  # noqa: PLR0917 - public, called by position
    dag_id: str, run_id: str, task_id: str, map_index: int = -1, try_number: int = 1, loop: str = ""
) -> str:
    """Return the UUID under which a task's session appears in the agent's event log.

    The same values always give the same key, so a session can be traced to its task and back.

    :param loop: ``"<region id>:<region index>"`` for a task in a loop (Airflow 3.4); else ``""``.
    """
    parts = (dag_id, run_id, task_id, str(map_index), str(try_number))
    return str(uuid.uuid5(_KEY_NAMESPACE, "\0".join((*parts, loop) if loop else parts)))


def key_of(task_instance: Any) -> str:
    """Return the external session key of a running task instance."""
    ti = task_instance
    return external_session_key(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.try_number, loop_of(ti))


def loop_of(task_instance: Any) -> str:
    """Return what identifies an iteration of a loop, ``""`` outside of a loop and before Airflow 3.4."""
    region = getattr(task_instance, "region_id", None)
    if region is None or str(region) == str(_NO_LOOP):
        return ""
    return f"{region}:{task_instance.region_index}"


def folders_of(task_instance: Any) -> list[str]:
    """Return the names of nested folders for a task in a run, in the form of Airflow's logs."""
    ti, loop = task_instance, loop_of(task_instance)
    parts = {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id}
    if ti.map_index >= 0:
        parts["map_index"] = ti.map_index
    if loop:
        parts["loop"] = loop
    return [f"{name}={value}".replace("/", "_") for name, value in parts.items()]


def task_identity(task_instance: Any) -> dict[str, str]:
    """Return what is the same for all tries of a task in a run, and different otherwise."""
    ti = task_instance
    loop = loop_of(ti)
    task = "/".join(map(str, (ti.dag_id, ti.run_id, ti.task_id, ti.map_index)))
    return {"task instance": task, **({"loop": loop} if loop else {})}
