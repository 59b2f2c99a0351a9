"""A run of an agent test, recorded in the task's ledger, so that a later try finds it."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceInputError,
    AgentforceTransientError,
    DeliveryUnknownError,
)
from airflow_provider_agentforce.operators._ledger import Ledger, LedgerEntry, unreadable_entry

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.agent_tests import AgentTestRun, AgentTests

log = logging.getLogger(__name__)

_RUN = "test_run"
_LEGACY = "legacy"


class ResumableRun:
    """The one run of a task.

    :param mark: what a later try must have in common: connection, test and API.
    :param test: API name of the test.
    :param api: as of :meth:`.AgentTests.start`.
    :param path: as of :meth:`.AgentTests.start`.
    """

    def __init__(self, ledger: Ledger, mark: str, *, test: str, api: str | None, path: str | None) -> None:
        self._ledger = ledger
        self._mark = mark
        self._test = test
        self._api = api
        self._path = path
        self._asked: str | None = None

    def run(
        self, tests: AgentTests, *, timeout: timedelta, versions: dict[str, str | None]
    ) -> tuple[AgentTestRun, datetime]:
        """Return the run of an earlier try, or start one; and when to give up.

        :param versions: the active version of each agent, to be kept with the run.
        :raises DeliveryUnknownError: a run may have been started, and its id is not known.
        """
        record = self._ledger.read(_RUN)
        if record is not None and record.fingerprint != self._mark:
            raise AgentforceInputError(
                "The test or the connection has changed since an earlier try started a run. Clear the task "
                "to start another."
            )
        if record is not None and record.done:
            run, until = _run_in(record)
            log.info("Going on with the test run %s of an earlier try.", run.run_id)
            return run, until
        run = self._start(tests, lost=None if record is None else str((record.value or {}).get("api")))
        until = datetime.now(timezone.utc) + timeout
        kept: dict[str, Any] = {
            "run_id": run.run_id,
            "api": run.api,
            "path": run.path,
            "until": until.isoformat(),
        }
        kept["versions"] = versions
        self._ledger.settle(_RUN, self._mark, kept)
        log.info("Started the run %s of the agent test %s (api=%r).", run.run_id, self._test, run.api)
        return run, until

    def versions(self) -> dict[str, str | None] | None:
        """Return the versions that the agents had when the run was started, ``None`` if that is not known."""
        record = self._ledger.read(_RUN)
        return None if record is None else (record.value or {}).get("versions")

    def forget(self) -> None:
        """Have the next try start another run."""
        self._ledger.forget(_RUN)

    def _intend(self, api: str) -> None:
        """Record that *api* is about to be asked for a run."""
        self._asked = api
        self._ledger.intend(_RUN, self._mark, {"api": api})

    def _start(self, tests: AgentTests, *, lost: str | None) -> AgentTestRun:
        """Start a run.

        :param lost: the API that an earlier try has asked for a run without getting an answer.
        """
        from airflow_provider_agentforce.client.agent_tests import is_unknown  # noqa: PLC0415 - not at parse time

        if lost == _LEGACY:
            raise _unknown(f"An earlier try may have started a run of the agent test {self._test}.")
        try:
            return tests.start(self._test, api=lost or self._api, path=self._path, before_send=self._intend)
        except DeliveryUnknownError as error:
            # The others start no second run while one is in progress, so the next try may ask them.
            raise error.replaced(retryable=self._asked != _LEGACY) from error.__cause__
        except AgentforceError as error:
            if lost is None:
                self.forget()
                raise
            if is_unknown(error):
                # Nothing was started there: it is asked again, as if for the first time, and the others too.
                return self._start(tests, lost=None)
            if isinstance(error, AgentforceTransientError):
                raise _unknown(f"{error.what} An earlier try may have started it.") from error
            raise


def _run_in(record: LedgerEntry) -> tuple[AgentTestRun, datetime]:
    from airflow_provider_agentforce.client.agent_tests import AgentTestRun  # noqa: PLC0415 - not at parse time

    try:
        kept = dict(record.value or {})
        return AgentTestRun(kept["run_id"], kept["api"], kept["path"]), datetime.fromisoformat(kept["until"])
    except (KeyError, TypeError, ValueError):
        raise unreadable_entry(_RUN) from None


def _unknown(what: str) -> DeliveryUnknownError:
    from airflow_provider_agentforce.client.failure_catalogue import RUN_IN_DOUBT  # noqa: PLC0415 - not at parse time

    return DeliveryUnknownError(what, hint=RUN_IN_DOUBT, operation="test", applied=None)
