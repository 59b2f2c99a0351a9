"""The input of a batch: its records as the first reading found them, and the question about each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.prompts import Prompts
from airflow_provider_agentforce.batch.reader import Record, Survey, read_records, survey
from airflow_provider_agentforce.batch.reuse import content_of
from airflow_provider_agentforce.batch.sample import Sampler
from airflow_provider_agentforce.batch.sources import Source
from airflow_provider_agentforce.batch.table import PARQUET
from airflow_provider_agentforce.batch.worker import WorkItem

_FIRST = 100


@dataclass(frozen=True)
class BatchInput:
    """The input of a batch.

    :param found: the result of the first reading.
    :param fingerprints: hashes that identify the batch, by the names that users know.
    :param sample: positions of the records that are asked, ``None`` for all.
    """

    source: Source
    key: str | None
    found: Survey
    prompts: Prompts
    fingerprints: dict[str, str]
    sample: frozenset[int] | None

    @classmethod
    def of(
        cls, source: Source, prompts: Prompts, options: Options, fingerprints: dict[str, str]
    ) -> BatchInput:
        """Read the whole input once, and choose the sample.

        :param fingerprints: hashes that identify the batch, without that of its records.
        :raises AgentforceInputError: if it cannot be used.
        """
        sampler = None if options.sample is None else Sampler(options.sample)
        typed = PARQUET in options.output_formats
        found = survey(
            source,
            options.key,
            typed=typed,
            empty_allowed=options.empty_allowed,
            look=sampler.add if sampler else None,
        )
        fingerprints = {**fingerprints, "records": found.fingerprint}
        return cls(source, options.key, found, prompts, fingerprints, sampler.chosen() if sampler else None)

    def records(self) -> Iterator[Record]:
        """Yield all records.

        :raises AgentforceInputError: if they are not those of the first reading.
        """
        return self.found.unchanged(read_records(self.source, self.key))

    def first_question(self) -> str:
        """Return a hash of the first question, ``""`` if none of the first 100 records can be asked.

        If the templates and records of two tasks are the same, it shows whether other values in the
        templates, such as ``params``, differ.
        """
        items = map(self.prompts.about, islice(self.records(), _FIRST))
        contents = (content_of(item) for item in items if isinstance(item, WorkItem))
        return next((hashlib.sha256(one).hexdigest() for one in contents), "")

    def asks(self, position: int) -> bool:
        """Return whether the record at *position* is asked."""
        return self.sample is None or position in self.sample

    @property
    def total(self) -> int:
        """The number of records that are asked."""
        return len(self.found.positions if self.sample is None else self.sample)


def question_fingerprints(prompts: Prompts, options: Options, host: str) -> dict[str, str]:
    """Return the fingerprints of a batch's questions, by the names that users know.

    :param host: My Domain of the org.
    """
    return {"message or variables": prompts.fingerprint, "agent": str(options.start.agent_id), "org": host}
