"""A batch of the tests in this folder: started, stopped in the middle, looked at in the end."""

from __future__ import annotations

import json
from collections import Counter

from real_airflow import until

RECORDS, AT_ONCE = 30, 4


def started_batch(cluster, org, dag_id="batch"):
    """Have a batch run until it has as many messages on their way as sessions, and all are written down."""
    hold = org.hold("send")
    run = cluster.trigger(dag_id)
    hold.wait_until_held(300, count=AT_ONCE)

    def noted():
        written = b"".join(cluster.services.objects(f"{dag_id}/{run.run_id}").values())
        return all(one.encode() in written for one in org.open_sessions)

    until("the sessions are written down", noted)
    return run, hold, cluster.worker_of(cluster.task_runners()[0])


def rows(cluster, folder):
    """Return the rows of all results below a folder of the store."""
    found = cluster.services.objects(folder).items()
    bodies = [body for name, body in found if name.endswith("/results.jsonl")]
    return [json.loads(line) for body in bodies for line in body.splitlines()]


def check_batch(cluster, org, run, *, unknown):
    """See that a batch is whole, and that each record was asked about once."""
    manifest = run.xcom("batch")
    expected = Counter(answered=RECORDS - unknown, unknown=unknown)
    assert manifest["counts"] == {status: count for status, count in expected.items() if count}
    assert Counter(row["status"] for row in rows(cluster, f"{run.dag_id}/{run.run_id}")) == +expected
    assert (org.count("send"), org.applied(), org.open_sessions) == (RECORDS, RECORDS, [])
