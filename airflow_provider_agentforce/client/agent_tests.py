"""Runs of agent tests: both generations of the Testing API, and runs of whole conversations.

Sources: https://developer.salesforce.com/docs/ai/agentforce/guide/testing-api-connect.html for the first
generation (``ai-evaluations``), and https://github.com/forcedotcom/agents for its successor (``ai-testing``).
Of the third, only the start is known: it returns the ids of a workbook, a worksheet (the run) and rows
(https://developer.salesforce.com/docs/ai/agentforce/guide/testing-api-conversational.html).
No call accepts a key by which the org recognizes a repetition, and none lists the runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from airflow_provider_agentforce.client import responses, validation
from airflow_provider_agentforce.client.agent_test_results import PASSED, Case, cases_of, contradiction
from airflow_provider_agentforce.client.answer_reader import MAX_BODY_BYTES, JsonReader, LongReader
from airflow_provider_agentforce.client.api_requests import DATA_PATH, ApiRequest, HttpCall, OrgRead, post
from airflow_provider_agentforce.client.attempt import CallOptions
from airflow_provider_agentforce.client.delivery_policy import Operation
from airflow_provider_agentforce.client.org_resource import OrgResource
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    AgentforceRequestError,
    AgentforceTransientError,
)

LEGACY, TESTING, CONVERSATION = APIS = ("legacy", "testing", "conversation")
# 1,000 cases, the most that a test may have, take about a tenth of it.
_MAX_RESULTS = 32 * 1024 * 1024
_PATHS = {
    LEGACY: f"{DATA_PATH}/einstein/ai-evaluations/runs",
    TESTING: f"{DATA_PATH}/einstein/ai-testing/runs",
}
_PATH = re.compile(r"/services/data/v[0-9]{2,3}\.[0-9](?:/[A-Za-z0-9_-]+)+")
_GOOD = {"COMPLETED", "SUCCESS"}
_IN_PROGRESS = "IN_PROGRESS"
_NOT_ENDED = {"", "NEW", "CREATED", _IN_PROGRESS}
_STOPPED = {"TERMINATED", "CANCELLED", "CANCELED"}
_ENDED = {*_GOOD, "ERROR", "FAILED", *_STOPPED}
# One API answers 400 for a test that it does not know, as it does for many other errors.
_NO_SUCH_TEST = re.compile(r"invalid \w*definition\w* identifier", re.IGNORECASE)


@dataclass(frozen=True)
class AgentTestRun:
    """A run of an agent test.

    :param run_id: the org's id of the run.
    :param api: ``legacy``, ``testing`` or ``conversation``.
    :param path: path of the runs on the org's host.
    :param status: the org's status, in upper case; ``""`` before the first poll.
    :param error: the org's reason for a failure, ``""`` without one.
    :param ended_at: when the run has ended, as the org says, ``""`` before.
    """

    run_id: str
    api: str
    path: str
    status: str = ""
    error: str = ""
    ended_at: str = ""

    @property
    def ended(self) -> bool:
        """Whether the run has ended, even with an unknown status."""
        return self.status in _ENDED or (bool(self.ended_at) and self.status not in _NOT_ENDED)

    @property
    def state(self) -> str:
        """Its status in words."""
        return f"ended as {self.status}" if self.ended else f"has not ended ({self.status or 'no status'})"

    @property
    def completed(self) -> bool:
        """Whether the run completed normally, which says nothing about its cases."""
        return self.status in _GOOD

    @property
    def stopped(self) -> bool:
        """Whether someone stopped the run."""
        return self.status in _STOPPED

    @property
    def can_be_cancelled(self) -> bool:
        """Whether the API can cancel the run."""
        return self.api == LEGACY


@dataclass(frozen=True)
class AgentTestResults:
    """The results of a run.

    :param run: the run after its end.
    :param subject: API name of the agent, ``""`` if the API does not say.
    :param contradiction: how the results contradict their cases, ``""`` if they agree.
    """

    run: AgentTestRun
    cases: list[Case]
    subject: str = ""
    contradiction: str = ""

    @property
    def trouble(self) -> str:
        """Why the cases are incomplete, ``""`` if they are complete."""
        run = self.run
        if run.stopped:
            return f"The run {run.run_id} was stopped ({run.status})."
        # One API calls a run FAILED only because a case has failed.
        failed = run.status == "FAILED" and any(case.status != PASSED for case in self.cases)
        if run.error or not (run.completed or failed):
            return f"The run {run.run_id} {run.state}: {run.error.rstrip('.') or 'without a reason'}."
        if self.contradiction:
            return f"The results of the run {run.run_id} are incomplete: {self.contradiction}."
        return "" if self.cases else f"The run {run.run_id} has no cases."


@dataclass(frozen=True, kw_only=True)
class _StartRunRequest(ApiRequest):
    """``POST …/runs``. It returns no id if the org says that such a run is in progress."""

    operation = Operation.TEST
    doing: str  # type: ignore[misc] # of each call
    url: str
    name: str
    api: str

    def call(self, api_url: str) -> HttpCall:  # noqa: ARG002 - the org's own host runs tests
        parameter = "aiEvaluationDefinitionName" if self.api == LEGACY else "testDefinitionName"
        return post(self.url, {parameter: self.name})

    def read(self, reader: JsonReader) -> str | None:
        reply = responses.as_object(reader.value)
        run_id = reply.get("runId")
        if run_id is None and self.api == CONVERSATION:
            run_id = reply.get("worksheetId")
        if (
            run_id is None
            and self.api == TESTING
            and str(reply.get("status")).strip().upper() == _IN_PROGRESS
        ):
            return None
        if not isinstance(run_id, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", run_id):
            raise responses.UnreadableReplyError("a JSON object without a usable runId")
        return run_id


@dataclass(frozen=True, kw_only=True)
class _RunRequest(ApiRequest):
    """A call about an existing run: its status, its results, or its cancellation."""

    operation = Operation.READ
    doing: str  # type: ignore[misc] # of each call
    url: str
    method: str = "GET"

    def call(self, api_url: str) -> HttpCall:  # noqa: ARG002 - the org's own host runs tests
        if self.method == "POST":
            return post(self.url, {})
        return HttpCall(self.method, self.url, {"Accept": "application/json"})

    def read(self, reader: JsonReader) -> dict[str, Any]:
        return responses.as_object(reader.value)


@dataclass(frozen=True, kw_only=True)
class _ResultsRequest(OrgRead):
    """``GET …/results``. It returns ``None`` for results that are too long to be read."""

    # The reader stops first, with a clearer message.
    max_body = _MAX_RESULTS + MAX_BODY_BYTES
    doing: str  # type: ignore[misc] # of each call

    def reader(self, content_type: str | None) -> LongReader:  # noqa: ARG002 - it is JSON
        return LongReader(_MAX_RESULTS)

    def read(self, reader: LongReader) -> dict[str, Any] | None:
        return None if reader.too_long else responses.decode_object(reader.body)


class AgentTests(OrgResource):
    """The agent tests of an org."""

    def start(
        self,
        test: str,
        *,
        api: str | None = None,
        path: str | None = None,
        before_send: Callable[[str], None] = lambda _: None,
    ) -> AgentTestRun:
        """Start a run.

        :param test: API name of the test definition.
        :param api: ``legacy``, ``testing`` or ``conversation``; ``None``: ``testing``, and if the org does
            not know the test there, ``legacy``.
        :param path: path of the runs, if it is not the usual one.
        :param before_send: is called with the name of the API right before the first byte leaves; if it
            raises, no byte leaves.
        :raises DeliveryUnknownError: a run may have been started, and its id is not known.
        :raises AgentforceTransientError: such a run is in progress; the API gives no id and starts no other.
        """
        name = validation.name(test, "test")
        return _first_that_knows(
            _candidates(api, path), lambda runs: self._start(runs, name, before_send), _is_no_such_test
        )

    def look(self, run: AgentTestRun) -> AgentTestRun:
        """Return the current state of the run.

        :raises AgentforceRequestError: it does not exist in this org.
        """
        request = _RunRequest(doing=f"Looking at the test run {run.run_id}", url=self._url(run))
        return _updated(run, self._executor.execute(request).value)

    def find(self, run_id: str, *, api: str | None = None, path: str | None = None) -> AgentTestRun:
        """Return a run by its id.

        :param api: as for :meth:`start`.
        :raises AgentforceRequestError: the org has no such run.
        """
        known = validation.path_id(run_id, "run_id")
        return _first_that_knows(
            _candidates(api, path), lambda runs: self.look(replace(runs, run_id=known)), _is_no_run_here
        )

    def results(self, run: AgentTestRun) -> AgentTestResults:
        """Return the results of a run that has ended."""
        doing = f"Reading the results of the test run {run.run_id}"
        request = _ResultsRequest(doing=doing, url=f"{self._url(run)}/results")
        reply: dict[str, Any] | None = self._executor.execute(request).value
        if reply is None:
            raise AgentforceRequestError(
                f"The results of the test run {run.run_id} are longer than {_MAX_RESULTS >> 20} MiB "
                "and are not read.",
                hint="Look at them in Testing Center, or split the test.",
                operation=request.operation.value,
            )
        ended, cases = _updated(run, reply), cases_of(reply)
        if run.ended and not run.completed and ended.completed:
            ended = replace(ended, status=run.status)
        return AgentTestResults(
            ended, cases, str(reply.get("subjectName") or ""), contradiction(reply, cases)
        )

    def cancel(self, run: AgentTestRun, *, during_cleanup: bool = False) -> None:
        """Cancel a run.

        :param during_cleanup: try for a few seconds only, even after a stop.
        :raises AgentforceInputError: the API cannot cancel a run.
        """
        if not run.can_be_cancelled:
            raise AgentforceInputError(f"The API {run.api} cannot cancel the test run {run.run_id}.")
        request = _RunRequest(
            doing=f"Cancelling the test run {run.run_id}", url=f"{self._url(run)}/cancel", method="POST"
        )
        self._executor.execute(request, CallOptions(during_cleanup=during_cleanup))

    @property
    def start_pause(self) -> float:
        """The seconds between a start whose answer is lost and the second request for it."""
        return self._executor.deadline.start_pause

    def now(self) -> float:
        """Return the seconds of a monotonic clock."""
        return self._executor.deadline.clock()

    def wait(self, seconds: float) -> None:
        """Wait for *seconds*.

        :raises TaskStoppedError: as soon as the client is stopped.
        """
        self._executor.deadline.sleep(seconds)

    def _start(self, runs: AgentTestRun, test: str, before_send: Callable[[str], None]) -> AgentTestRun:
        doing = f"Starting the agent test {test}"
        request = _StartRunRequest(doing=doing, url=f"{self._host}{runs.path}", name=test, api=runs.api)
        options = CallOptions(before_send=lambda _: before_send(runs.api))
        run_id = self._executor.execute(request, options).value
        if run_id is None:
            raise AgentforceTransientError(
                f"A run of the agent test {test} is in progress; the org starts no other and does not return "
                "its id.",
                hint="Try again when it has ended. AgentTestSensor waits for a run by its id.",
                operation=Operation.TEST.value,
                applied=False,
            )
        return replace(runs, run_id=run_id)

    def _url(self, run: AgentTestRun) -> str:
        return f"{self._host}{run.path}/{quote(run.run_id, safe='')}"


def _first_that_knows(
    candidates: Sequence[AgentTestRun],
    ask: Callable[[AgentTestRun], AgentTestRun],
    is_unknown: Callable[[AgentforceRequestError], bool],
) -> AgentTestRun:
    """Return the answer of the first API that knows the test or run.

    :param is_unknown: whether a refusal says that the API does not know it.
    :raises AgentforceRequestError: no API knows it.
    """
    refusals: dict[str, AgentforceRequestError] = {}
    for runs in candidates:
        try:
            return ask(runs)
        except AgentforceRequestError as error:  # noqa: PERF203 - the next one is asked
            if not is_unknown(error):
                raise
            refusals[runs.api] = error
    *_, last = refusals.values()
    if len(refusals) == 1:
        raise last
    raise last.replaced(what=" ".join(f"With api={api!r}: {one.what}" for api, one in refusals.items()))


def _is_no_such_test(error: AgentforceRequestError) -> bool:
    """Return whether an API says that it does not know the test: a limit, or no permission, is not that."""
    return error.status == 404 or (  # noqa: PLR2004
        error.status == 400 and _NO_SUCH_TEST.search(error.what) is not None  # noqa: PLR2004
    )


def _is_no_run_here(error: AgentforceRequestError) -> bool:
    """Return whether the run may be one of another API: a look changes nothing, so that is asked, too."""
    return error.status in {400, 403, 404}


def check_api(api: str | None, path: str | None) -> None:
    """Refuse arguments that name no API.

    :raises AgentforceInputError: for a name or path that is not valid.
    """
    _candidates(api, path)


def _candidates(api: str | None, path: str | None) -> list[AgentTestRun]:
    if api is not None:
        validation.one_of(APIS, api, "api")
    if path is not None and not _PATH.fullmatch(str(path)):
        requirement = "must be a path such as /services/data/v66.0/einstein/ai-testing/runs"
        raise validation.refusal(path, "path", requirement)
    if api is None and path is not None:
        raise AgentforceInputError("path needs api, which decides how the runs there are started.")
    if api == CONVERSATION and path is None:
        raise AgentforceInputError(
            "api='conversation' needs path: where the org runs such tests is not documented."
        )
    return [AgentTestRun("", one, path or _PATHS[one]) for one in ([api] if api else [TESTING, LEGACY])]


def _updated(run: AgentTestRun, reply: dict[str, Any]) -> AgentTestRun:
    status, error = reply.get("status") or run.status, reply.get("errorMessage") or run.error
    ended_at = reply.get("endTime") or run.ended_at
    return replace(run, status=str(status).strip().upper(), error=str(error), ended_at=str(ended_at))
