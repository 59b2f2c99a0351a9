"""The records of a batch whose delivery is unknown, as the store of the steps that resolve them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from airflow_provider_agentforce.batch.checkpoint import Checkpoint
from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.prompts import Prompts
from airflow_provider_agentforce.batch.reader import Record
from airflow_provider_agentforce.batch.results import INVALID_OUTPUT, UNKNOWN, Row
from airflow_provider_agentforce.batch.worker import hash_of, settle
from airflow_provider_agentforce.client.messages import Message
from airflow_provider_agentforce.client.models import ANSWER_LOST, ANSWERED, FAILED, Turn
from airflow_provider_agentforce.client.trace_lookup import same_before
from airflow_provider_agentforce.delivery import UnknownDelivery, Verdict
from airflow_provider_agentforce.exceptions import InvalidOutputError
from airflow_provider_agentforce.structured import OutputType

_NOTE = "unknown.json"


class UnknownRows:
    """The rows with the status ``unknown``, for the steps of ``on_unknown_delivery``.

    The state of the steps and every verdict are in the checkpoint before anything depends on them.

    :param cycle: changes when the task is cleared, after which the steps run again.
    :ivar ask_again: the records on which the agent did not act.
    :ivar refusal: the text for a person's decision to fail the task; ``""`` if there is none.
    """

    refusal = ""

    def __init__(self, checkpoint: Checkpoint, prompts: Prompts, options: Options, *, cycle: int) -> None:
        self.ask_again: list[Record] = []
        self._checkpoint = checkpoint
        self._prompts = prompts
        self._agent_id = options.start.agent_id
        self._output = options.output
        self._cycle = cycle
        self._rows: dict[str, Row] = {}
        self._records: dict[str, Record] = {}
        self._messages: dict[str, tuple[Message, ...]] = {}
        self._open: dict[str, UnknownDelivery] = {}
        self._later: dict[str, UnknownDelivery] = {}
        self._note = checkpoint.read_note(_NOTE)

    def add(self, record: Record) -> None:
        """Keep a record with the status ``unknown``, so that the input need not be read again."""
        self._records[record.name] = record

    def load(self) -> None:
        """Read the rows of the records that are still unknown, in the order of the input."""
        rows = self._checkpoint.rows
        held = sorted(self._records.values(), key=lambda record: record.position)
        self._records = {one.name: one for one in held if rows.status(one.position) == UNKNOWN}
        for name, record in self._records.items():
            item = self._prompts.about(record)
            self._messages[name] = () if isinstance(item, Row) else item.messages
            self._rows[name] = Row.from_line(self._checkpoint.row_at(record.position))
        self._open = {name: self._delivery(name) for name in self._rows}
        # A wait, and a person's decision after it, concern only those that were unknown before it.
        begun = set(self._note.get("names", ())) if self._progress is not None else set()
        if begun & self._open.keys():
            self._later = {name: one for name, one in self._open.items() if name not in begun}
            self._open = {name: one for name, one in self._open.items() if name in begun}

    def continue_with_rest(self) -> None:
        """Continue with the rows that became unknown during the steps for the others, if there are any."""
        self._open, self._later = self._later, {}

    @property
    def resolved(self) -> int:
        """The number of resolved rows, over all tries."""
        return int(self._note.get("resolved", 0))

    def open(self) -> dict[str, UnknownDelivery]:
        """Return the messages that are still unknown, by the name of the record."""
        return dict(self._open)

    def was_received(self, name: str) -> bool:
        """Return whether the org is known to have a message."""
        return self._rows[name].applied is True

    def received(self, names: Iterable[str]) -> None:
        """Record that the org has received messages."""
        for name in names:
            self._rows[name] = replace(self._rows[name], applied=True)
            self._settle(name, self._rows[name])
        self._checkpoint.flush()

    def read(self) -> dict[str, Any] | None:
        """Return the state of the steps for these records."""
        same = self._open.keys() <= set(self._note.get("names", ()))
        return self._progress if same else None

    @property
    def _progress(self) -> dict[str, Any] | None:
        return self._note.get("progress") if self._note.get("cycle") == self._cycle else None

    def write(self, progress: dict[str, Any]) -> None:
        """Store their state."""
        self._note |= {"cycle": self._cycle, "names": list(self._open), "progress": progress}
        self._checkpoint.write_note(_NOTE, self._note)

    def settle(self, verdicts: Mapping[str, Verdict]) -> None:
        """Write the rows that follow from verdicts."""
        for name, verdict in verdicts.items():
            row = self._resolved_row(name, verdict)
            self._settle(name, row)
            del self._open[name]
            if row.again:
                self.ask_again.append(self._records[name])
        self._checkpoint.flush()
        self._note["resolved"] = self.resolved + len(verdicts)
        if not self._open:
            self._begin_again()
        self._checkpoint.write_note(_NOTE, self._note)

    def give_up(self, findings: Mapping[str, list[str]], *, resend: bool, refusal: str = "") -> None:
        """Write what the steps saw to the rows that stay unknown.

        :param resend: they are asked again, unless the org has the message.
        :param refusal: the text for a person's decision to fail the task.
        """
        self.refusal = refusal
        for name in self._open:
            record, row = self._records[name], self._rows[name]
            said = [one for one in findings.get(name, ()) if one not in (row.error or "")]
            more = replace(row, error=" ".join([row.error or "", *said]).strip())
            if resend and not self.was_received(name) and not self._has_changed(name):
                self.ask_again.append(record)
                more = replace(more, resolution=Verdict("resend", acted=None).resolution())
            if more != row:
                self._settle(name, more)
        self._checkpoint.flush()
        if resend:
            self._begin_again()
            self._checkpoint.write_note(_NOTE, self._note)

    def _begin_again(self) -> None:
        """Let the next unknown delivery of these records begin at the first step."""
        self._note.pop("progress", None)

    def _settle(self, name: str, row: Row) -> None:
        record = self._records[name]
        settle(self._checkpoint, record, row, self._checkpoint.rows.question(record.position))

    def _has_changed(self, name: str) -> bool:
        """Return whether a record's messages differ from those that were sent, which are not stored."""
        asked = self._checkpoint.rows.question(self._records[name].position)
        return bool(self._rows[name].request is None and asked and asked != hash_of(self._messages[name]))

    def _delivery(self, name: str) -> UnknownDelivery:
        row, messages = self._rows[name], self._messages[name]
        request = row.request
        if request is None and len(messages) == 1:
            request = messages[0].request
        text = request.get("text") if request else None
        began = None if row.started_at is None else datetime.fromisoformat(row.started_at)
        return UnknownDelivery(
            request=request,
            session_id=row.session_id,
            external_session_key=row.external_session_key,
            sequence_id=row.sequence_id,
            agent_id=self._agent_id,
            # Earlier messages of the record also took time.
            sent_at=None if began is None else began + timedelta(seconds=row.duration),
            first_sent_at=began,
            error=row.error or "",
            partial_text=row.text or None if row.outcome is None else None,
            record_key=row.key,
            same_before=same_before(text, row.sequence_id, row.earlier_requests),
        )

    def _resolved_row(self, name: str, verdict: Verdict) -> Row:
        row = replace(self._rows[name], resolution=verdict.resolution(), error=None)
        more = len(self._messages[name]) > 1
        if not verdict.acted:
            return self._not_acted(name, row, more=more)
        if more and len(row.earlier_requests) + 1 < len(self._messages[name]):
            why = "The agent acted on a message, and the rest cannot be asked, because the session has ended."
            return replace(row, status=FAILED, applied=True, error=why)
        outcome = ANSWER_LOST if verdict.answer == "lost" else verdict.outcome or ANSWERED
        if row.outcome is not None and len(row.earlier_answers) < len(row.earlier_requests):
            # The text is that of the earlier answer.
            row = replace(row, earlier_answers=[*row.earlier_answers, row.text])
        row = replace(row, status=outcome, outcome=outcome, applied=True, text=verdict.text)
        return row if self._output is None or outcome != ANSWERED else self._checked(row, self._output)

    def _not_acted(self, name: str, row: Row, *, more: bool) -> Row:
        if self._has_changed(name):
            why = "The agent did not act. The message is not sent again, because it has changed since."
            return replace(row, status=FAILED, applied=None, error=why)
        nothing_before = row.request is not None and not row.earlier_requests and row.outcome is None
        if not more or nothing_before:
            return replace(row, status=FAILED, applied=False, error="The agent did not act.")
        why = (
            "The agent did not act on the last message that was sent. It is not sent again: the session "
            "has ended, and earlier messages were answered there."
        )
        return replace(row, status=FAILED, applied=None, error=why)

    @staticmethod
    def _checked(row: Row, output: OutputType) -> Row:
        turn = Turn(str(row.session_id), row.sequence_id or 0, None, row.text, ANSWERED)
        try:
            return replace(row, result=output.result_of(turn))
        except InvalidOutputError as error:
            return replace(row, status=INVALID_OUTPUT, error=error.what)
