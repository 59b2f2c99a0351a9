"""The options of a batch, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

from airflow_provider_agentforce.batch.agent_versions import MARK
from airflow_provider_agentforce.batch.parquet import pyarrow
from airflow_provider_agentforce.batch.sample import Sample
from airflow_provider_agentforce.batch.table import CSV, JSON_LINES, PARQUET
from airflow_provider_agentforce.client.models import SessionOptions
from airflow_provider_agentforce.client.settings import Settings
from airflow_provider_agentforce.exceptions import AgentforceInputError
from airflow_provider_agentforce.structured import OutputType


@dataclass(frozen=True)
class Options:
    """The options of a batch, as the arguments of ``ConversationBatchOperator``.

    :param message: a template, a list of templates, or a function of the record.
    :param start: options of a session's start, with the agent's id.
    :param key: the field that names a record; ``None``: its position does.
    :param variables: context variables of a record, templates or a function; or ``None``.
    :param max_concurrency: sessions open at once; ``None``: what the connection allows.
    :param messages_per_session: records share a session until it has had this many messages.
    :param max_failures: stop when more records than this have failed, a number or a share.
    :param fail_on_partial_error: fail if any record did.
    :param output_type: the type of an answer, or ``None``.
    :param output_retries: corrective questions that may be asked about an answer.
    :param resend_unknown: ask again even if the agent may have acted.
    :param changes_allowed: take over the rows of a batch that differs.
    :param empty_allowed: a batch without records succeeds.
    :param yields: raise :class:`.LongWait` instead of waiting for a minute or more.
    :param store_requests: keep in each row what was asked.
    :param include_record: write the fields of the record beside its row.
    :param output_formats: which tables are written, of ``csv``, ``jsonl`` and ``parquet``.
    :param csv_bom: begin the CSV with a byte order mark.
    :param on_agent_change: ``mark`` or ``stop``, if another version of the agent is published meanwhile.
    :param credits_per_message: what a message costs, ``None`` if that is not known.
    :param sample: ask only these records, ``None`` for all.
    :param agreement_share: the share of the records that is asked a second time.
    :param min_agreement: fail if the two answers agree less often, ``None``: never.
    """

    message: Any
    start: SessionOptions
    key: str | None = None
    variables: Any = None
    max_concurrency: int | None = None
    messages_per_session: int = 1
    max_failures: int | float | None = None
    fail_on_partial_error: bool = False
    output_type: Any = None
    output_retries: int = 1
    resend_unknown: bool = False
    changes_allowed: bool = False
    empty_allowed: bool = False
    yields: bool = False
    store_requests: bool = True
    include_record: bool = True
    output_formats: Sequence[str] = (CSV, JSON_LINES)
    csv_bom: bool = False
    on_agent_change: str = MARK
    credits_per_message: float | None = None
    sample: Sample | None = None
    agreement_share: float = 0.0
    min_agreement: float | None = None

    def check(self, settings: Settings) -> None:
        """Refuse options that would fail every session.

        :raises AgentforceInputError: if an option cannot be used.
        """
        _ = self.output
        if PARQUET in self.output_formats:
            pyarrow('output_formats="parquet"')
        most = settings.max_messages_per_session
        if self.messages_per_session > most:
            raise AgentforceInputError(
                f"messages_per_session is {self.messages_per_session}, and the connection allows {most} "
                "messages a session (extra max_messages_per_session)."
            )

    @property
    def shares_sessions(self) -> bool:
        """Whether records share a session."""
        return self.messages_per_session > 1

    @cached_property
    def output(self) -> OutputType | None:
        """The type of an answer, ready to parse one.

        :raises AgentforceInputError: if ``output_type`` cannot be used.
        """
        return None if self.output_type is None else OutputType(self.output_type)

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema of an answer, ``None`` if there is none."""
        return None if self.output is None else self.output.schema

    def workers(self, settings: Settings) -> int:
        """Return the number of records that are asked at once."""
        allowed = settings.max_concurrent_sessions
        return min(self.max_concurrency or allowed, allowed)

    def most_failures(self, total: int) -> int | None:
        """Return how many of *total* records may fail, ``None`` for all."""
        return most_failures(self.max_failures, total)


def most_failures(given: float | None, total: int) -> int | None:
    """Return how many of *total* records may fail, ``None`` for all.

    :param given: a number or a share.
    """
    # In decimal: 0.29 * 100 is 28.999999999999996.
    return int(Decimal(repr(float(given))) * total) if isinstance(given, float) else given
