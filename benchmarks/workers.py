"""A batch of two workers: how much of an org's cap its shards use, and how often their machine logs in.

Each worker is a process that runs ``ConversationBatchOperator`` for one shard, as a task does; the org is
another process (``org.py``). No service connects the workers. They share the login of their machine, and a
token is so short-lived that it is renewed several times.
"""

from __future__ import annotations

import math
from collections import Counter

from batch import bench, warm_up
from report import Row, table

from airflow_provider_agentforce.batch.shard import Shard

WORKERS = 2
RECORDS = 10_000
_DELAY = 0.3
_TOKEN_SECONDS = 60
# A token that lives so shortly is renewed after five eighths of its life at the earliest.
_SECONDS_PER_LOGIN = _TOKEN_SECONDS * 5 / 8


def main(records: int = RECORDS) -> list[Row]:
    """Measure, and return the rows of the report."""
    warm_up()
    with bench(records, delay=_DELAY, token_lifetime=_TOKEN_SECONDS) as it:
        runs = it.in_shards(WORKERS, share_token=True)
        counts, ideal = it.org.counts(), it.org.ideal(records)
        folders = [f"results/{Shard(number, WORKERS).folder}" for number in range(WORKERS)]
        rows = sum((it.statuses(folder) for folder in folders), Counter[str]())
    seconds = max(run["seconds"] for run in runs)
    sizes = [run["counts"].get("answered", 0) for run in runs]
    lost = records - rows["answered"]
    logins = math.ceil(seconds / _SECONDS_PER_LOGIN)
    return [
        Row(
            f"{records:,} records in {WORKERS} shards, a worker process each, an org that allows "
            f"{it.org.terms.cap} sessions, {_DELAY} s per call: share of the ideal {ideal:.1f} s",
            "at least 95 %",
            f"{ideal / seconds:.1%} ({seconds:.1f} s; the hash assigns "
            f"{' and '.join(f'{size:,}' for size in sizes)} records)",
            ideal / seconds >= 0.95,
        ),
        Row(
            "The same: records without an answer, starts refused, messages sent twice, sessions left open",
            "0, 0, 0 and 0",
            f"{lost}, {counts['refused']}, {counts['twice']} and {counts['open']} (most sessions open at "
            f"once: {counts['peak']})",
            not (lost or counts["refused"] or counts["twice"] or counts["open"]),
        ),
        Row(
            f"The same: logins of the machine, with `share_token` and a token that lives {_TOKEN_SECONDS} s",
            f"at most {logins}, one for each renewal",
            str(counts["tokens"]),
            counts["tokens"] <= logins,
        ),
    ]


if __name__ == "__main__":
    print(table(main()))
