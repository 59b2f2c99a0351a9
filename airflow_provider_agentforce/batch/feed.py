"""Which records a try still has to ask about, given what earlier tries did."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from airflow_provider_agentforce.batch.asking import Ask
from airflow_provider_agentforce.batch.questions import Questions
from airflow_provider_agentforce.batch.records import Record
from airflow_provider_agentforce.batch.rows import UNKNOWN, Row, RowStore
from airflow_provider_agentforce.client.models import FAILED


def asks(
    records: Iterable[Record],
    store: RowStore,
    questions: Questions,
    *,
    pending: Collection[str],
    resend_unknown: bool,
) -> Iterator[Ask]:
    """Yield what is to be asked; put the rows of what cannot or must not be asked into *store*.

    :param pending: names of records that an earlier try may have asked, with no row.
    :param resend_unknown: ask again about those, and about the rows ``unknown``.
    """
    for record in records:
        name, before = record.name, 0
        if name in pending:
            before = 1
            if not resend_unknown:
                store.put(name, _unknown(record))
                continue
        elif name in store:
            done = _redone(store, name, resend_unknown=resend_unknown)
            if done is None:
                continue
            before = done.attempts
        store.drop(name)
        ask = questions.about(record)
        if isinstance(ask, Row):
            store.put(name, ask)
        else:
            yield replace(ask, before=before)


def _redone(store: RowStore, name: str, *, resend_unknown: bool) -> Row | None:
    """Return the row of a record that is to be asked again, ``None`` for one that is not."""
    if store.status(name) not in {FAILED, UNKNOWN}:
        return None
    row = store.get(name)
    wanted = row is not None and (row.again or (resend_unknown and row.status == UNKNOWN))
    return row if wanted else None


def _unknown(record: Record) -> Row:
    return Row(
        key=record.key,
        status=UNKNOWN,
        applied=None,
        attempts=1,
        error="An earlier try was killed while it asked, or before its answer was written down.",
    )
