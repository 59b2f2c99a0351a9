"""How many token exchanges threads make that need a token at the same moment.

25 threads share one client: first none has a token, then the org refuses the one that all of them just
used. The org holds its token endpoint back meanwhile, so that really all of them come to want one. To
compare, 25 threads with a client each do the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from report import Row, table

from airflow_provider_agentforce.client import AgentforceClient, Settings
from airflow_provider_agentforce.emulator import Emulator

THREADS = 25
_PATIENCE_SECONDS = 20.0
_GATHER_SECONDS = 0.3


def measure(clients_made: int) -> tuple[int, int, int]:
    """Let the threads share *clients_made* clients.

    :returns: the exchanges for the first tokens, those after the refusals, and how many messages arrived.
    """
    with Emulator() as org, ThreadPoolExecutor(THREADS) as pool:
        made = [_client(org) for _ in range(clients_made)]
        clients = [made[number % clients_made] for number in range(THREADS)]
        with org.hold("token") as hold:
            starts = _together(pool, [client.start_session for client in clients])
            hold.wait_until_held(_PATIENCE_SECONDS, count=clients_made)
            time.sleep(_GATHER_SECONDS)
        sessions = [start.result(_PATIENCE_SECONDS) for start in starts]
        first = org.count("token")

        org.revoke_tokens()
        jobs = [
            lambda client=client, session=session: client.send_message(session, "Hello")
            for client, session in zip(clients, sessions, strict=True)
        ]
        with org.hold("token"):
            sends = _together(pool, jobs)
            _wait_for(lambda: sum(one.status == 401 for one in org.requests) == THREADS)
            time.sleep(_GATHER_SECONDS)
        for send in sends:
            send.result(_PATIENCE_SECONDS)
        return first, org.count("token") - first, org.applied()


def _client(org: Emulator) -> AgentforceClient:
    return AgentforceClient(
        Settings(org.url, org.consumer_key, org.consumer_secret, agent_id=org.agent_id, api_url=org.url)
    )


def _together(pool: ThreadPoolExecutor, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    barrier = threading.Barrier(len(jobs), timeout=_PATIENCE_SECONDS)

    def run(job: Callable[[], Any]) -> Any:
        barrier.wait()
        return job()

    return [pool.submit(run, job) for job in jobs]


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "The org did not refuse every message."
        time.sleep(0.01)


def main() -> list[Row]:
    first, renewals, applied = measure(1)
    first_each, renewals_each, _ = measure(THREADS)
    return [
        Row(
            f"Token exchanges for {THREADS} threads that start at once with one client",
            "1",
            f"{first} (with a client each: {first_each})",
            first == 1,
        ),
        Row(
            f"Token exchanges after {THREADS} simultaneous refusals of one token",
            "1",
            f"{renewals} (with a client each: {renewals_each})",
            renewals == 1,
        ),
        Row(
            f"Messages that the agent acted on, of {THREADS} that were refused first",
            str(THREADS),
            str(applied),
            applied == THREADS,
        ),
    ]


if __name__ == "__main__":
    print(table(main()))
