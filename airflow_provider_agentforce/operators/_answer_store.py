"""The answers that batches store, so that they need not ask unchanged questions again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.exceptions import AgentforceInputError
from airflow_provider_agentforce.operators._arguments import may_change
from airflow_provider_agentforce.operators._paths import check_uri, path_of

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.answer_folder import AnswerFolder


@dataclass(frozen=True)
class AnswerStore:
    """A folder of earlier answers, for ``reuse`` of a batch. Several batches and agents may share it.

    :param path: URI of the folder, such as ``s3://bucket/answers``; in a batch also a template or
        the output of a task.
    :param max_age: maximum age of an answer that is reused; ``None``: no limit.
    :raises AgentforceInputError: *path* is not a URI, or *max_age* is not a ``timedelta`` above zero.
    """

    path: Any
    max_age: timedelta | None = None

    def __post_init__(self) -> None:
        path, age = self.path, cast("Any", self.max_age)
        if not may_change(path):
            check_uri(str(path), "reuse")
        if age is not None and not (isinstance(age, timedelta) and age > timedelta(0)):
            raise validation.refusal(age, "max_age", "must be a timedelta above zero, or None")

    def prune(self) -> int:
        """Remove the answers that are older than ``max_age``. Batches may run at the same time.

        :returns: the number of answers removed.
        :raises AgentforceInputError: if ``max_age`` is not given, *path* is a template, or the folder cannot
            be used.
        :raises LedgerError: if the answers cannot be read or removed.
        """
        if self.max_age is None:
            raise AgentforceInputError("max_age says which answers are removed. Give it to the AnswerStore.")
        if may_change(self.path):
            raise AgentforceInputError(
                "path is a template or the output of a task, which prune does not resolve. Give the URI of "
                "the folder to an AnswerStore, such as in a @task."
            )
        return folder_at(self.path, self.max_age).prune()


def store_of(given: Any) -> AnswerStore | None:
    """Return the store for the argument ``reuse`` of a batch, ``None`` if it is not given.

    :raises AgentforceInputError: if *given* is neither an :class:`AnswerStore` nor a URI.
    """
    return given if given is None or isinstance(given, AnswerStore) else AnswerStore(given)


def folder_at(uri: str, max_age: timedelta | None) -> AnswerFolder:
    """Return the folder of answers at a URI.

    :raises AgentforceInputError: if it cannot be used.
    """
    from airflow_provider_agentforce.batch.answer_folder import AnswerFolder  # noqa: PLC0415 - not at parse time

    return AnswerFolder(path_of(uri, "reuse"), max_age)
