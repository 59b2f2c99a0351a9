"""A run of an agent test, recorded in the task's ledger, so that a later try finds it."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceInputError,
    DeliveryUnknownError,
)
from airflow_provider_agentforce.operators._ledger import Ledger, LedgerEntry, unreadable_entry

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.agent_tests import AgentTestRun, AgentTests

log = logging.getLogger(__name__)

_RUN = "test_run"
# The API that is known to start no second run of a test while one is in progress.
_STARTS_NO_SECOND = "testing"
# No case is judged faster: it needs the agent and then a model.
_SHORTEST_RUN_SECONDS = 3.0


class ResumableRun:
    """The one run of a task.

    :param fingerprint: fingerprint of the connection, test and API.
    :param test: API name of the test.
    :param api: as for :meth:`.AgentTests.start`.
    :param path: as for :meth:`.AgentTests.start`.
    """

    def __init__(
        self, ledger: Ledger, fingerprint: str, *, test: str, api: str | None, path: str | None
    ) -> None:
        self._ledger = ledger
        self._fingerprint = fingerprint
        self._test = test
        self._api = api
        self._path = path
        self._asked: str | None = None

    def run(
        self, tests: AgentTests, *, timeout: timedelta, versions: dict[str, str | None]
    ) -> tuple[AgentTestRun, datetime]:
        """Return the run of an earlier try, or start one; and when to give up.

        :param versions: the active version of each agent, stored with the run.
        :raises DeliveryUnknownError: a run may have been started, and its id is not known.
        """
        entry = self._ledger.read(_RUN)
        if entry is not None and entry.fingerprint != self._fingerprint:
            raise AgentforceInputError(
                "The test or the connection has changed since an earlier try started a run. Clear the task "
                "to start another."
            )
        if entry is not None and entry.done:
            run, until = _run_in(entry)
            log.info("Continuing with the test run %s of an earlier try.", run.run_id)
            return run, until
        if entry is not None:
            raise unknown_run(f"An earlier try may have started a run of the agent test {self._test}.")
        run = self._start(tests)
        until = datetime.now(timezone.utc) + timeout
        kept: dict[str, Any] = {
            "run_id": run.run_id,
            "api": run.api,
            "path": run.path,
            "until": until.isoformat(),
        }
        kept["versions"] = versions
        self._ledger.settle(_RUN, self._fingerprint, kept)
        log.info("Started the run %s of the agent test %s (api=%r).", run.run_id, self._test, run.api)
        return run, until

    def known(self) -> tuple[AgentTestRun, datetime] | None:
        """Return the recorded run and when to give up, ``None`` if no run is recorded."""
        entry = self._ledger.read(_RUN)
        return _run_in(entry) if entry is not None and entry.done else None

    def versions(self) -> dict[str, str | None] | None:
        """Return the versions that the agents had when the run was started, ``None`` if that is not known."""
        return self._ledger.value_of(_RUN).get("versions")

    def forget(self) -> None:
        """Make the next try start another run."""
        self._ledger.forget(_RUN)

    def _intend(self, api: str) -> None:
        """Record that *api* is about to be asked for a run."""
        self._asked = api
        self._ledger.intend(_RUN, self._fingerprint, {"api": api})

    def _start(self, tests: AgentTests) -> AgentTestRun:
        began = tests.now()
        try:
            return tests.start(self._test, api=self._api, path=self._path, before_send=self._intend)
        except DeliveryUnknownError as lost:
            # An org that answers 2xx has started a run, which may have ended before it is asked once more.
            answered = lost.status is not None and 200 <= lost.status < 300  # noqa: PLR2004
            if self._asked != _STARTS_NO_SECOND or answered:
                raise
            return self._asked_again(tests, lost, began)
        except AgentforceError:
            self.forget()
            raise

    def _asked_again(self, tests: AgentTests, lost: DeliveryUnknownError, began: float) -> AgentTestRun:
        """Ask the same API once more: a run that the lost request started is still in progress.

        It starts no second run then. Later this is not possible: the run may have ended, and no API lists its
        runs.

        :param began: when the lost request left, by the client's clock.
        """
        until = began + _SHORTEST_RUN_SECONDS

        def check_time(_api: str) -> None:
            if tests.now() > until:
                raise lost

        try:
            # The org may still be working on the lost request.
            tests.wait(min(began + tests.start_pause - tests.now(), tests.start_pause))
        except AgentforceError:
            raise lost from None
        try:
            run = tests.start(self._test, api=self._asked, path=self._path, before_send=check_time)
        except AgentforceError as error:
            if error is lost:
                raise
            raise lost.replaced(what=f"{lost.what} The second request: {error.what}") from error
        if tests.now() > until:
            log.warning(
                "An earlier request may have started another run, which has ended meanwhile. %s", lost
            )
        return run


def _run_in(entry: LedgerEntry) -> tuple[AgentTestRun, datetime]:
    from airflow_provider_agentforce.client.agent_tests import AgentTestRun  # noqa: PLC0415 - not at parse time

    try:
        kept = dict(entry.value or {})
        return AgentTestRun(kept["run_id"], kept["api"], kept["path"]), datetime.fromisoformat(kept["until"])
    except (KeyError, TypeError, ValueError):
        raise unreadable_entry(_RUN) from None


def unknown_run(what: str) -> DeliveryUnknownError:
    """Return the error for a run that may exist, but whose id is not known."""
    from airflow_provider_agentforce.client.failure_catalogue import RUN_IN_DOUBT  # noqa: PLC0415 - not at parse time

    return DeliveryUnknownError(what, hint=RUN_IN_DOUBT, operation="test", applied=None)
