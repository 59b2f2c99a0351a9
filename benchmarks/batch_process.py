"""Asks about many records in this process, in one of several ways, and prints what that took as JSON.

``operator`` runs :class:`ConversationBatchOperator` as a task does, with Airflow loaded, in ``execute``;
``loop`` is what one writes without it: asyncio, aiohttp and a semaphore; ``requests`` and ``http.client`` are
the same with threads and these libraries, to see what the HTTP library alone costs.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp

    from airflow_provider_agentforce.operators import ConversationBatchOperator

# The record's number comes first: the org counts by it.
MESSAGE = "{{ record.id }} is the order of {{ record.name }}, {{ record.city }}. Where is it?"


class _TaskInstance:
    """What the operator uses of a task instance."""

    dag_id, run_id, task_id, map_index, try_number = "benchmark", "run", "ask", -1, 1

    def xcom_push(self, key: str, value: Any) -> None:
        """Forget it."""


def _operator(*, records: str, result_path: str, syncs: bool, **options: Any) -> dict[str, Any]:
    """Run the operator.

    :param syncs: ``False``: leave it to the system when files reach the disk, to see what syncs cost.
    """
    _load_airflow()
    from airflow_provider_agentforce.batch import job  # noqa: PLC0415
    from airflow_provider_agentforce.batch.checkpoint import Checkpoint  # noqa: PLC0415
    from airflow_provider_agentforce.batch.storage import LocalStorage  # noqa: PLC0415
    from airflow_provider_agentforce.operators import ConversationBatchOperator  # noqa: PLC0415

    noted: dict[str, float] = {}
    _time(Checkpoint, "open", noted)
    _time(job, "recover", noted)
    _time(LocalStorage, "append", noted)
    _time_files(LocalStorage, noted)
    if not syncs:
        LocalStorage.__init__.__defaults__ = (_nothing,)
    operator = ConversationBatchOperator(
        task_id="ask",
        records=records,
        message=MESSAGE,
        key="id",
        result_path=result_path,
        **options,
    )
    return {**_measured(lambda: _counts(operator)), "inside": noted}


def _fill(*, records: str, ledger: str) -> dict[str, Any]:
    """Write the ledger of a batch whose records are all answered."""
    from airflow_provider_agentforce.batch.checkpoint import Checkpoint  # noqa: PLC0415
    from airflow_provider_agentforce.batch.results import Row  # noqa: PLC0415
    from airflow_provider_agentforce.batch.storage import LocalStorage  # noqa: PLC0415

    rows = [json.loads(line) for line in Path(records).read_text(encoding="utf-8").splitlines()]
    positions = {row["id"]: position for position, row in enumerate(rows)}
    checkpoint = Checkpoint(LocalStorage(Path(ledger), _nothing), {}, positions, ledger)

    def fill() -> dict[str, int]:
        checkpoint.open(changes_allowed=True)
        for position, row in enumerate(rows):
            text = f"The order of {row['name']} is on its way to {row['city']}. " * 5
            answer = Row(row["id"], "answered", text=text, outcome="answered", applied=True, attempts=1)
            if position % 50 == 0:
                checkpoint.claim(row["id"])
            checkpoint.settle(row["id"], answer)
        checkpoint.flush()
        checkpoint.close()
        return {"answered": len(rows)}

    return _measured(fill)


def _load_airflow() -> None:
    """Load what the process of a task has loaded by the time its operator begins."""
    import airflow.sdk.execution_time.supervisor  # noqa: PLC0415 - forks the task's process
    import airflow.sdk.execution_time.task_runner  # noqa: F401, PLC0415
    from airflow.sdk.listener import get_listener_manager  # noqa: PLC0415
    from airflow.sdk.plugins_manager import integrate_macros_plugins  # noqa: PLC0415

    integrate_macros_plugins()
    get_listener_manager()
    # As LocalExecutor does before it forks.
    gc.freeze()


def _counts(operator: ConversationBatchOperator) -> dict[str, int]:
    context: Any = {"ti": _TaskInstance()}
    manifest = operator.execute(context)
    # A dry run answers nothing.
    counts: dict[str, int] = manifest.get("counts", {})
    return counts


def _nothing(*_args: Any, **_options: Any) -> None:
    pass


def _time(owner: object, name: str, noted: dict[str, float]) -> None:
    """Add what a function of *owner* takes to *noted*."""
    method = getattr(owner, name)

    def timed(*args: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        try:
            return method(*args, **options)
        finally:
            noted[name] = noted.get(name, 0.0) + time.perf_counter() - begun

    setattr(owner, name, timed)


def _time_files(storage: Any, noted: dict[str, float]) -> None:
    """Add what it takes to write each file to *noted*."""
    write = storage.write

    def timed(self: Any, name: str, content: Any) -> None:
        begun = time.perf_counter()
        try:
            write(self, name, content)
        finally:
            noted[name] = noted.get(name, 0.0) + time.perf_counter() - begun

    storage.write = timed


def _loop(*, records: str, url: str, agent_id: str, limit: int, result_path: str) -> dict[str, Any]:
    """Run the loop. It keeps the answers in memory until the end and knows no retry, ledger or limit."""
    rows = [json.loads(line) for line in Path(records).read_text(encoding="utf-8").splitlines()]

    def run() -> dict[str, int]:
        answers = asyncio.run(_ask_all(rows, url, agent_id, limit))
        Path(result_path).write_text("\n".join(map(json.dumps, answers)), encoding="utf-8")
        return {"answered": len(answers)}

    return _measured(run)


async def _ask_all(rows: list[dict[str, Any]], url: str, agent_id: str, limit: int) -> list[dict[str, Any]]:
    import aiohttp  # noqa: PLC0415 - only this way needs it

    places = asyncio.Semaphore(limit)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        form = {"grant_type": "client_credentials", "client_id": "key", "client_secret": "secret"}
        async with http.post(f"{url}/services/oauth2/token", data=form) as reply:
            http.headers["Authorization"] = f"Bearer {(await reply.json())['access_token']}"

        async def ask(row: dict[str, Any]) -> dict[str, Any]:
            async with places:
                return await _converse(http, f"{url}/einstein/ai-agent/v1", agent_id, row)

        return await asyncio.gather(*map(ask, rows))


async def _converse(
    http: aiohttp.ClientSession, api: str, agent_id: str, row: dict[str, Any]
) -> dict[str, Any]:
    start, message = _bodies(api, row)
    async with http.post(f"{api}/agents/{agent_id}/sessions", json=start, raise_for_status=True) as reply:
        session = f"{api}/sessions/{(await reply.json())['sessionId']}"
    async with http.post(f"{session}/messages", json=message, raise_for_status=True) as reply:
        answer = (await reply.json())["messages"][0]["message"]
    async with http.delete(session, raise_for_status=True) as reply:
        await reply.read()
    return {"id": row["id"], "text": answer}


def _bodies(api: str, row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    text = f"{row['id']} is the order of {row['name']}, {row['city']}. Where is it?"
    return (
        {"instanceConfig": {"endpoint": api}, "bypassUser": True},
        {"message": {"sequenceId": 1, "type": "Text", "text": text}},
    )


def _threads(*, call: Callable[..., dict[str, Any]], **given: Any) -> dict[str, Any]:
    """Run threads that share nothing but their connections.

    :param call: sends a request and returns the JSON of its reply.
    """
    rows = [json.loads(line) for line in Path(given["records"]).read_text(encoding="utf-8").splitlines()]
    api = f"{given['url']}/einstein/ai-agent/v1"

    def ask(row: dict[str, Any]) -> dict[str, Any]:
        start, message = _bodies(api, row)
        started = call("POST", f"{api}/agents/{given['agent_id']}/sessions", start)
        session = f"{api}/sessions/{started['sessionId']}"
        answer = call("POST", f"{session}/messages", message)["messages"][0]["message"]
        call("DELETE", session)
        return {"id": row["id"], "text": answer}

    def run() -> dict[str, int]:
        with ThreadPoolExecutor(given["limit"]) as pool:
            answers = list(pool.map(ask, rows))
        Path(given["result_path"]).write_text("\n".join(map(json.dumps, answers)), encoding="utf-8")
        return {"answered": len(answers)}

    return _measured(run)


def _requests(*, limit: int, **given: Any) -> dict[str, Any]:
    """Run threads that call with ``requests``."""
    import requests  # noqa: PLC0415 - not for the other ways
    from requests.adapters import HTTPAdapter  # noqa: PLC0415

    http = requests.Session()
    http.mount("http://", HTTPAdapter(pool_maxsize=limit))

    def call(method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        reply = http.request(method, url, json=body)
        reply.raise_for_status()
        found: dict[str, Any] = reply.json()
        return found

    return _threads(call=call, limit=limit, **given)


def _http_client(*, url: str, **given: Any) -> dict[str, Any]:
    """Run threads that call with ``http.client``, which checks and promises the least."""
    idle: deque[HTTPConnection] = deque()

    def call(method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        _, _, host, path = url.split("/", 3)
        try:
            http = idle.pop()
        except IndexError:
            http = HTTPConnection(host)
        http.request(method, f"/{path}", body and json.dumps(body), {"Content-Type": "application/json"})
        with http.getresponse() as reply:
            found: dict[str, Any] = json.loads(reply.read())
        idle.append(http)
        return found

    return _threads(call=call, url=url, **given)


def _measured(run: Callable[[], dict[str, int]]) -> dict[str, Any]:
    first, begun, cpu = _peak_mb(), time.perf_counter(), _cpu_seconds()
    counts = run()
    seconds, used = time.perf_counter() - begun, _cpu_seconds() - cpu
    return {"seconds": seconds, "cpu": used, "first_mb": first, "peak_mb": _peak_mb(), "counts": counts}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak_mb() -> float:
    """Return the most memory that this process ever had, in MB."""
    try:
        # The kernel's other figure counts the process that started this one, too.
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except FileNotFoundError:
        per_mb = 1_000_000 if sys.platform == "darwin" else 1000
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_mb
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1_000_000


if __name__ == "__main__":
    _ways: dict[str, Callable[..., dict[str, Any]]] = {
        "operator": _operator,
        "fill": _fill,
        "loop": _loop,
        "requests": _requests,
        "http.client": _http_client,
    }
    print(json.dumps(_ways[sys.argv[1]](**json.loads(sys.argv[2]))))
