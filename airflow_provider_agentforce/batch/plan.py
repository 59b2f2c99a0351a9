"""A dry run: what a batch would ask, how long it may take, and what it costs. Nothing is sent."""

from __future__ import annotations

import heapq
import json
import math
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from airflow_provider_agentforce.batch.agreement import rank, records_in_share
from airflow_provider_agentforce.batch.hash_index import HashIndex
from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.progress import duration
from airflow_provider_agentforce.batch.prompts import Prompts
from airflow_provider_agentforce.batch.reader import Inspection, Record, read_all, refuse_same_key
from airflow_provider_agentforce.batch.results import Row, short_reason
from airflow_provider_agentforce.batch.reuse import Reuse
from airflow_provider_agentforce.batch.sources import Source
from airflow_provider_agentforce.batch.worker import WorkItem
from airflow_provider_agentforce.client.settings import Settings
from airflow_provider_agentforce.exceptions import BatchFailedError, TaskStoppedError, one_line

PLAN, SUMMARY = "plan.json", "plan.txt"
# Agents answer in 2 to 10 seconds.
_SECONDS_A_MESSAGE = 5
_MOST_REASONS = 1_000
_SHOWN_REASONS = 10
# Records between two checks whether the task was killed.
_CHECK_EVERY = 1_000


@dataclass
class Plan:
    """What a batch would send.

    :ivar records: number of all records.
    :ivar failed: records that cannot be asked.
    :ivar asked_twice: records that are asked a second time, to measure the agreement.
    :ivar messages: number of messages for all records that are asked, with second requests, without
        corrective questions.
    :ivar sessions: sessions for these messages.
    :ivar characters: characters of all these messages.
    :ivar longest: characters of the longest message.
    :ivar duplicates: records that ask the same as an earlier one.
    :ivar reused: records that use an earlier answer; they are not asked, and count only in ``records``.
    :ivar reasons: why records cannot be asked, with their number and the key of the first.
    :ivar hours: an estimate.
    :ivar credits: the cost, ``None`` without a rate.
    """

    options: Options
    settings: Settings
    records: int = 0
    failed: int = 0
    asked_twice: int = 0
    messages: int = 0
    sessions: int = 0
    characters: int = 0
    longest: int = 0
    duplicates: int = 0
    reused: int = 0

    def __post_init__(self) -> None:
        self._asked = HashIndex()
        self._in_session = 0
        # Totals that include the records with an earlier answer.
        self._all_messages = self._all_characters = 0
        # The ranks of all records, and of those that can be asked; empty unless some are asked twice.
        self._ranks, self._ranks_to_ask = array("Q"), array("Q")
        self._counted: Counter[str] = Counter()
        self._first: dict[str, Any] = {}

    def add(self, record: Record, item: WorkItem | Row, *, reused: bool = False) -> None:
        """Count a record.

        :param reused: it uses an earlier answer.
        """
        self.records += 1
        if self.options.agreement_share:
            self._ranks.append(rank(record.name))
            if isinstance(item, WorkItem):
                self._ranks_to_ask.append(self._ranks[-1])
        if isinstance(item, Row):
            self._add_failed(item)
            return
        texts = tuple(message.text or "" for message in item.messages)
        lengths = tuple(map(len, texts))
        self._all_messages += len(texts)
        self._all_characters += sum(lengths)
        if reused:
            self.reused += 1
            return
        self.messages += len(texts)
        self.characters += sum(lengths)
        self.longest = max(self.longest, *lengths)
        variables = item.variables or item.messages[0].variables
        self.duplicates += self._asked.add(repr((texts, variables)) if variables else repr(texts))
        self._in_session += len(texts)
        if not self.sessions or self._in_session > self.options.messages_per_session:
            self.sessions += 1
            self._in_session = len(texts)

    def finish(self) -> None:
        """Add the figures that depend on all records, once these are counted."""
        workers = min(self.options.workers(self.settings), self.asked)
        if workers:
            # Each worker fills its own sessions.
            each = math.ceil(self.messages / workers / self.options.messages_per_session)
            self.sessions = max(self.sessions, min(self.asked, workers * each))
        self._ask_twice()

    def _ask_twice(self) -> None:
        """Add the second requests, each with the average length.

        Records that use an earlier answer are asked a second time, too.
        """
        chosen = heapq.nsmallest(records_in_share(self.options.agreement_share, self.records), self._ranks)
        self.asked_twice = sum(one <= chosen[-1] for one in self._ranks_to_ask) if chosen else 0
        answered = self.asked + self.reused
        if answered:
            self.messages += round(self._all_messages * self.asked_twice / answered)
            self.characters += round(self._all_characters * self.asked_twice / answered)
        self.sessions += self.asked_twice

    def _add_failed(self, row: Row) -> None:
        self.failed += 1
        reason = short_reason(row.error or row.status)
        if reason in self._first or len(self._first) < _MOST_REASONS:
            self._counted[reason] += 1
            self._first.setdefault(reason, row.key)

    @property
    def reasons(self) -> list[dict[str, Any]]:
        """The most common reasons why records cannot be asked."""
        return [
            {"reason": reason, "count": count, "key": self._first[reason]}
            for reason, count in self._counted.most_common(_SHOWN_REASONS)
        ]

    @property
    def asked(self) -> int:
        """The number of records that are asked."""
        return self.records - self.failed - self.reused

    @property
    def hours(self) -> float:
        """An estimate from the connection's limits, and answers that take five seconds each."""
        at_once = max(1, min(self.options.workers(self.settings), self.sessions))
        answering = self.messages * _SECONDS_A_MESSAGE / at_once / 3600
        # The sessions of the first hour may all start at its beginning.
        starting = max(0, self.sessions - 1) // self.settings.max_sessions_per_hour
        return max(answering, starting)

    @property
    def credits(self) -> float | None:
        """The cost of the messages, ``None`` without a rate."""
        rate = self.options.credits_per_message
        return None if rate is None else round(self.messages * rate, 6)

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of the file."""
        counts = ("records", "failed", "asked_twice", "messages", "sessions", "characters")
        more = ("longest", "duplicates", "reused")
        return {
            **{name: getattr(self, name) for name in (*counts, *more)},
            "hours": round(self.hours, 2),
            "credits": self.credits,
            "reasons": self.reasons,
        }

    def summary(self) -> str:
        """Return the plan as text for people."""
        settings = self.settings
        at_once = self.options.workers(settings)
        limits = f"at most {settings.max_sessions_per_hour:,} sessions an hour and {at_once} at once"
        time = f"about {duration(self.hours * 3600)} ({limits}; {_SECONDS_A_MESSAGE} s an answer)"
        cost = "unknown, without credits_per_message" if self.credits is None else f"{self.credits:,} credits"
        extra = ""
        if self.options.output_type is not None and self.options.output_retries:
            extra = f", and up to {self.asked:,} corrective questions"
        lines = [
            f"A dry run of {self.records:,} records: nothing was sent.",
            f"  are asked         {self.asked:,}",
            f"  use an earlier answer            {self.reused:,}",
            f"  cannot be asked   {self.failed:,}",
            f"  ask the same as another record   {self.duplicates:,}",
            *([f"  asked twice       {self.asked_twice:,}"] if self.asked_twice else []),
            f"  messages          {self.messages:,}{extra}",
            f"  characters        {self.characters:,}; the longest message has {self.longest:,}",
            f"  sessions          {self.sessions:,}",
            f"  time              {time}",
            f"  cost              {cost}",
        ]
        return "\n".join([*lines, *(self._shown(**one) for one in self.reasons)])

    def judge(self, manifest: dict[str, Any]) -> None:
        """Fail the task if the batch would fail because of records that cannot be asked.

        :raises BatchFailedError: with the most common reason.
        """
        most = self.options.most_failures(self.records)
        partial = self.failed and self.options.fail_on_partial_error
        if partial or 0 < self.records == self.failed or (most is not None and self.failed > most):
            why = self._shown(**self.reasons[0]).strip()
            raise BatchFailedError(
                f"{self.failed} of {self.records} records cannot be asked: {why}. Plan: {manifest['plan']}.",
                manifest=manifest,
                retryable=False,
            )

    @staticmethod
    def _shown(reason: str, count: int, key: Any) -> str:
        where = "a record without a key" if key is None else one_line(str(key), 40)
        return f"  {count:,} \u00d7 {reason} (first: {where})"


def plan_of(
    source: Source,
    prompts: Prompts,
    options: Options,
    settings: Settings,
    *,
    killed: Callable[[], bool],
    reuse: Reuse | None = None,
) -> Plan:
    """Read the whole input, render all messages, and count. Two hashes of each record are in memory.

    :param reuse: the store of earlier answers.
    :raises AgentforceInputError: for input that a batch would refuse.
    """
    plan, names = Plan(options, settings), HashIndex()
    inspection = Inspection(options.key, empty_allowed=options.empty_allowed)
    for record in read_all(source, options.key):
        if record.position % _CHECK_EVERY == 0 and killed():
            raise TaskStoppedError("The task was killed.")
        inspection.add(record)
        if record.position < 0:
            continue
        if names.add(record.name):
            refuse_same_key(source, options.key, record)
        item = prompts.about(record)
        reused = reuse is not None and isinstance(item, WorkItem) and reuse.has_answer(item)
        plan.add(record, item, reused=reused)
    inspection.finish()
    plan.finish()
    return plan


def plan_files(plan: Plan) -> dict[str, bytes]:
    """Return the files of a plan by name."""
    text = json.dumps(plan.to_dict(), ensure_ascii=False, indent=2)
    files = {PLAN: text, SUMMARY: plan.summary()}
    return {name: f"{content}\n".encode("utf-8", "replace") for name, content in files.items()}
