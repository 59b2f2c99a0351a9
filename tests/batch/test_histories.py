"""Random faults, stops and retries: whatever happens, nothing is asked twice and no answer is lost."""

import contextlib
import os
import random

import pytest
import requests
from batches import accounts, job, rows

from airflow_provider_agentforce.emulator import Emulator
from airflow_provider_agentforce.exceptions import AgentforceError, BatchFailedError

HISTORIES = int(os.environ.get("AGENTFORCE_SOAK", "6"))
RECORDS = 40
FAULTS = (
    ("send", {"status": 500, "after": True}),
    ("send", {"status": 503}),
    ("send", {"drop": True, "after": True}),
    ("send", {"drop": True}),
    ("send", {"cut": 100, "after": True}),
    ("send", {"status": 423}),
    ("send", {"status": 429}),
    ("send", {"status": 429, "headers": {"Retry-After": "0"}}),
    ("send", {"status": 401}),
    ("send", {"status": 400}),
    ("send", {"status": 404}),
    ("start", {"status": 429}),
    ("start", {"status": 503}),
    ("start", {"status": 500, "after": True}),
    ("start", {"drop": True}),
    ("start", {"status": 401}),
    ("end", {"status": 500}),
    ("end", {"drop": True}),
    ("end", {"status": 429}),
    ("token", {"status": 503}),
)


def disturb(org, chance):
    for operation, fault in FAULTS:
        if chance.random() < 0.4:
            org.fail(operation, times=chance.randint(1, 4), **fault)
    if chance.random() < 0.3:
        org.revoke_tokens()


def hasty(client):
    """Have the client pause for moments only when the org refuses a start for its limits."""
    client.limiter.longest_pause = 0.05
    return client


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_nothing_is_asked_twice_and_no_answer_is_lost(make_client, folder, seed):
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    settings = {
        "script": lambda turn: f"About {turn.text}",
        "max_concurrent_sessions": chance.randint(2, 8),
        "max_sessions_per_hour": 100_000,
        "session_idle_timeout": 0.5,  # of the sessions whose start was lost, nobody knows the id
    }
    with Emulator(**settings) as org:
        records = accounts(RECORDS)
        options = {"messages_per_session": chance.choice([1, 1, 5]), "max_concurrency": chance.randint(1, 8)}
        for _ in range(4):
            disturb(org, chance)
            stop_at = org.applied() + chance.randint(3, 30)

            def killed(stop_at=stop_at):
                return org.applied() >= stop_at

            with contextlib.suppress(AgentforceError):
                job(hasty(make_client(org)), folder, records, **options).run(killed=killed)
        requests.delete(f"{org.url}/emulator/faults", timeout=5)  # the last try meets none
        with contextlib.suppress(BatchFailedError):
            job(hasty(make_client(org)), folder, records, **options).run(killed=lambda: False)

        done = rows(folder)
        assert len(done) == RECORDS
        for record in records:
            row, asked = done[record["id"]], f"Tell me of {record['name']}."
            assert org.applied(asked) <= 1
            if row["status"] == "answered":
                assert row["text"] == f"About {asked}"
                assert org.applied(asked) == 1
            elif row["applied"] is False:
                assert org.applied(asked) == 0
            else:
                assert row["status"] == "unknown"
                assert row["error"]
        assert all(row["status"] in {"answered", "unknown", "failed"} for row in done.values())
