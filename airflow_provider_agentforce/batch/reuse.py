"""Uses earlier answers instead of sending messages: compares questions, and selects the rows to reuse."""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.batch.answer_folder import Answer, AnswerFolder, VersionAnswers
from airflow_provider_agentforce.batch.plain_json import as_json
from airflow_provider_agentforce.batch.results import Row
from airflow_provider_agentforce.batch.worker import WorkItem
from airflow_provider_agentforce.client.models import ANSWERED, Turn
from airflow_provider_agentforce.exceptions import InvalidOutputError

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.checkpoint import Checkpoint
    from airflow_provider_agentforce.batch.options import Options
    from airflow_provider_agentforce.client.settings import Settings

log = logging.getLogger(__name__)


class Questions:
    """Hashes a question: its messages and variables, the agent, the user and the output type.

    Two records with the same hash get the same messages in a session that starts the same way.
    """

    def __init__(self, options: Options, settings: Settings) -> None:
        start = options.start
        bypass = settings.bypass_user if start.bypass_user is None else start.bypass_user
        common = {
            "user": [settings.consumer_key, settings.username, bypass],
            "start": [start.tz, start.surface_type, options.shares_sessions],
            "output": None if options.output is None else [options.schema, options.output.sources],
        }
        self._common = hashlib.sha256(_bytes(common))

    def hash_of(self, item: WorkItem) -> str:
        """Return the hash of the question about a record."""
        digest = self._common.copy()
        digest.update(content_of(item))
        return digest.hexdigest()[:32]


class Reuse:
    """Finds earlier answers for the records of a batch, and stores its answers for later batches.

    :param version: returns the active version of the agent, ``None`` if it is not known.
    """

    def __init__(
        self, folder: AnswerFolder, options: Options, settings: Settings, version: Callable[[], str | None]
    ) -> None:
        self._folder = folder
        self._options = options
        self._host = settings.host
        self._questions = Questions(options, settings)
        self._version = version
        self._of_version: dict[str, VersionAnswers] = {}
        self._warned = False

    def question(self, item: WorkItem) -> str:
        """Return the hash of the item's question."""
        return self._questions.hash_of(item)

    def row_for(self, item: WorkItem, question: str) -> Row | None:
        """Return a row with the earlier answer to the same question, ``None`` if there is none.

        :raises LedgerError: if the earlier answers cannot be read.
        """
        version = self._version()
        if version is None:
            if not self._warned:
                self._warned = True
                log.warning("No earlier answer is reused while the agent's version is not known.")
            return None
        answer = self._answers(version).find(question)
        return self._row(item, answer, version) if answer is not None and self._fits(answer) else None

    def has_answer(self, item: WorkItem) -> bool:
        """Return whether there is an earlier answer to the same question.

        :raises LedgerError: if the earlier answers cannot be read.
        """
        return self.row_for(item, self.question(item)) is not None

    def keep(self, checkpoint: Checkpoint) -> None:
        """Store the answers of a batch that are not stored yet.

        :raises LedgerError: if they cannot be written.
        """
        for version, positions in self._new(checkpoint).items():
            self._answers(version).add(lambda chosen=positions: _answers_at(checkpoint, chosen))  # type: ignore[misc]

    def close(self) -> None:
        """Remove the temporary databases."""
        for answers in self._of_version.values():
            answers.close()

    def _new(self, checkpoint: Checkpoint) -> dict[str, array[int]]:
        """Return the positions of the rows to store, by the version that answered."""
        found: dict[str, array[int]] = {}
        for position in checkpoint.rows.having(ANSWERED):
            question = checkpoint.rows.question(position)
            row = Row.from_line(checkpoint.row_at(position)) if question else None
            # A resolved answer may be a person's words.
            if row is None or row.agent_version is None or row.resolution is not None:
                continue
            if not self._answers(row.agent_version).has(question, str(row.started_at)):
                found.setdefault(row.agent_version, array("Q")).append(position)
        return found

    def _answers(self, version: str) -> VersionAnswers:
        if version not in self._of_version:
            agent_id = str(self._options.start.agent_id)
            self._of_version[version] = self._folder.answers(self._host, agent_id, version)
        return self._of_version[version]

    def _fits(self, answer: Answer) -> bool:
        """Return whether ``output_type`` still reads the same result.

        Its code may depend on values that no hash of a question contains.
        """
        output = self._options.output
        if output is None:
            return True
        for text in (answer.text, json.dumps(answer.result)):
            with suppress(InvalidOutputError):
                if output.read(Turn(answer.session_id, 1, None, text, ANSWERED)) == answer.result:
                    return True
        return False

    def _row(self, item: WorkItem, answer: Answer, version: str) -> Row:
        *earlier, last = [
            message.request if self._options.store_requests else None for message in item.messages
        ]
        return Row(
            key=item.record.key,
            status=ANSWERED,
            text=answer.text,
            outcome=answer.outcome,
            result=answer.result,
            earlier_answers=answer.earlier_answers,
            request=last,
            earlier_requests=[one for one in earlier if one],
            applied=True,
            agent_version=version,
            reused_from={"session_id": answer.session_id, "at": answer.at},
        )


def content_of(item: WorkItem) -> bytes:
    """Return the messages and variables of a record, each as a line of JSON."""
    variables = item.variables or item.messages[0].variables
    return b"\n".join(map(_bytes, [*(message.text for message in item.messages), *variables]))


def _answers_at(checkpoint: Checkpoint, positions: array[int]) -> Iterator[Answer]:
    for position in positions:
        row = Row.from_line(checkpoint.row_at(position))
        yield Answer.of(checkpoint.rows.question(position), row)


def _bytes(value: Any) -> bytes:
    return as_json(value, ordered=True).encode("utf-8", "surrogatepass")
