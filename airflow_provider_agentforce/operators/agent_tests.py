"""The operator that runs an agent test of the org."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceInputError,
    AgentforceTransientError,
    AgentTestFailedError,
)
from airflow_provider_agentforce.operators import _arguments as arguments
from airflow_provider_agentforce.operators._base import is_lost
from airflow_provider_agentforce.operators._ledger import Ledger
from airflow_provider_agentforce.operators._resumable_run import ResumableRun, unknown_run
from airflow_provider_agentforce.operators._testing import TEST_APIS, AgentTesting, check_wait

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.agent_tests import AgentTestResults, AgentTestRun, AgentTests


class RunAgentTestOperator(AgentTesting):
    """Run an agent test that is defined in the org, and fail unless enough of its cases pass.

    **Sends** the start of one run, polls it until it has ended, and reads its results. **Returns** a dict
    with ``status`` (``passed``), ``passed``, ``failed``, ``errors`` (counts), ``run_id``, and ``cases``, one
    dict each with ``number``, ``name``, ``status``, ``reason``, ``seconds`` and ``session_id``; if there are
    too many for XCom, those that did not pass come first, and others are left out. The result of an earlier
    pass has ``skipped`` (``True``), too. If the task fails because of the cases, the XCom ``result`` has the
    same dict. The XCom ``run_id`` exists as soon as the run is started.

    **A retry** on Airflow 3.3 and later finds the run of the previous try and starts no other. If the answer
    to a start is lost, the same try asks once more if the API starts no second run while one is in progress
    (``testing``). If that does not help, the task fails without a retry, because there may be a run that
    no API lists. On older Airflow a retry starts another run. A kill, a timeout and a clear cancel the run if
    the API can (``legacy``).

    **Templated:** ``test``, ``agent_id``, ``junit_path``, ``result_path``, ``agentforce_conn_id``.

    :param test: API name of the test definition.
    :param api: ``legacy`` (``ai-evaluations``), ``testing`` (``ai-testing``) or ``conversation``. Default:
        ``testing``, and if the org does not know the test there, ``legacy``.
    :param path: path of the runs on the org's host, if it is not the usual one:
        ``/services/data/v66.0/einstein/ai-testing/runs``. Required with ``conversation``.
    :param agent_id: id (``0Xx…``) or API name of the agent that is tested; only needed for
        ``skip_if_passed_within``, where an API other than ``legacy`` does not name it. Default: the
        connection's extra ``agent_id``.
    :param min_pass_rate: share of the cases that must pass, from 0 to 1. A case that ends with an error
        always fails the task.
    :param timeout: time limit of the run, at most 366 days. A longer run fails the task, and is cancelled if
        the API can. A case that hangs takes about 20 minutes.
    :param poke_interval: pause between two polls of the run; each poll counts towards the org's daily API
        limit.
    :param junit_path: URI of a file for the results as JUnit XML.
    :param result_path: URI of a folder for all results (``results.json``), the same for every Dag run.
    :param skip_if_passed_within: return the result of an earlier pass that is not older than this, and start
        nothing, if the agent's active version is the one that passed, and enough cases passed for the current
        *min_pass_rate*. Needs ``result_path``, and Airflow 3.3 or later. A change of the test itself is not
        noticed.
    :param deferrable: wait without a worker slot. Default: ``[operators] default_deferrable``.
    :param agentforce_conn_id: connection of type ``agentforce``.
    """

    template_fields: Sequence[str] = ("test", *AgentTesting.template_fields)

    def __init__(
        self,
        *,
        test: str,
        api: Literal["legacy", "testing", "conversation"] | None = None,
        path: str | None = None,
        timeout: timedelta = timedelta(hours=1),
        poke_interval: timedelta = timedelta(minutes=1),
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.test: Any = test
        self.api = None if api is None else arguments.check_choice("api", api, *TEST_APIS)
        self.path = path
        if path is None and api == "conversation":
            raise AgentforceInputError("api='conversation' needs path, which is not documented.")
        self.timeout = check_wait(timeout, "timeout")
        self.poke_interval = check_wait(poke_interval, "poke_interval")
        self.deferrable = arguments.check_deferrable(deferrable)
        self.check_literals()

    def check_arguments(self) -> None:
        """Refuse literals that cannot be the name of a test or of an agent, or a URI."""
        super().check_arguments()
        if not arguments.may_change(self.test):
            validation.name(self.test, "test")

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the test, or continue with the run of an earlier try."""
        from airflow_provider_agentforce.client.agent_tests import check_api  # noqa: PLC0415 - not at parse time
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415

        with airflow_errors():
            check_api(self.api, self.path)
            self.check_paths()
            client = self.open_client()
            self.link_to(client.settings.agent_id, context)
            versions = self._versions()
            passed = self.earlier_pass(self._fingerprint, versions, context)
            if passed is not None:
                return passed
            tests = client.agent_tests
            run, until = self._resumable_run(context).run(tests, timeout=self.timeout, versions=versions)
            self.push_in_failure(context, "run_id", run.run_id)
        return self._wait(run, until, context)

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Continue after a wait."""
        from airflow_provider_agentforce.client.agent_tests import AgentTestRun  # noqa: PLC0415 - not at parse time

        if is_lost(event):
            # The task waits for the rest of the time in its slot, without a triggerer.
            self.deferrable = False
            return self._wait(*self._run_of_this_try(context, late=event["late"]), context)
        run = AgentTestRun(event["run_id"], event["api"], event["path"])
        return self._wait(run, datetime.fromisoformat(event["until"]), context)

    def _run_of_this_try(self, context: Context, *, late: bool) -> tuple[AgentTestRun, datetime]:
        """Return the run that this try has started, and when to give up.

        :param late: whether the time is up.
        """
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415

        with airflow_errors():
            known = self._resumable_run(context).known()
            if known is not None:
                return known
            # Below Airflow 3.3 nothing is recorded.
            ti = context["ti"]
            run_id = ti.xcom_pull(task_ids=self.task_id, key="run_id", map_indexes=ti.map_index)
            if run_id is None:
                raise unknown_run(f"The trigger of the test {self.test} is lost, and so is the run's id.")
            run = self.open_client().agent_tests.find(run_id, api=self.api, path=self.path)
            return run, datetime.now(timezone.utc) + (timedelta(0) if late else self.timeout)

    @property
    def _fingerprint(self) -> str:
        """The fingerprint that an earlier try or pass must share."""
        return self.fingerprint_in_org(self.test, self.api, self.path)

    def _resumable_run(self, context: Context) -> ResumableRun:
        ledger = Ledger.of(context)
        return ResumableRun(ledger, self._fingerprint, test=self.test, api=self.api, path=self.path)

    def _versions(self) -> dict[str, str | None]:
        if self.skip_if_passed_within is None:
            return {}
        client = self.hook.plain_client
        agent = client.settings.agent(self.agent_id)
        # According to reports, a test in the org runs against the newest version of the agent, active or not.
        version = self.version_of(client, agent, newest=True)
        if version is None:
            self.log.warning("The active version of %s is not its newest one, or cannot be read.", agent)
        return {agent: version}

    def _wait(self, run: AgentTestRun, until: datetime, context: Context) -> dict[str, Any]:
        """Poll the run, defer or wait until it has ended, and return the result of the task."""
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415

        with airflow_errors():
            tests = self.open_client().agent_tests
            try:
                run = self._poll(tests, run, until)
            except BaseException as error:
                # After a retryable error the next try continues with the run.
                if self._killed or not (isinstance(error, AgentforceError) and error.retryable):
                    self._cancel(tests, run, context)
                raise
            if run.ended:
                return self._conclude_with(tests.results(run), context)
            if not _seconds_left(until):
                self._cancel(tests, run, context)
                self.forget_pass()
                raise AgentTestFailedError(
                    f"The test run {run.run_id} has not ended within {self.timeout} (status {run.status}).",
                    hint="A case that hangs takes about 20 minutes. Raise timeout, or look at the run in "
                    "Testing Center.",
                )
        return self._defer(run, until)

    def _poll(self, tests: AgentTests, run: AgentTestRun, until: datetime) -> AgentTestRun:
        """Poll the run until it has ended or the time is up, once if the task can defer; return its state."""
        while True:
            left = _seconds_left(until)
            try:
                run = tests.look(run)
            except AgentforceTransientError as error:
                if self._killed or not left:
                    raise
                self.log.warning("%s", error)
            if run.ended or self.deferrable or not left:
                return run
            tests.wait(min(left, self.poke_interval.total_seconds()))

    def _conclude_with(self, results: AgentTestResults, context: Context) -> dict[str, Any]:
        from airflow_provider_agentforce.testing.report import Report  # noqa: PLC0415 - not at parse time

        report = Report(self.test, results.cases, results.trouble)
        versions = {}
        if self.skip_if_passed_within is not None and report.passes(self.min_pass_rate):
            versions = self.unchanged(self._resumable_run(context).versions(), self._versions())
            if None not in versions.values():
                versions = self._of_subject(results.subject, versions)
        return self.conclude(report, self._fingerprint, versions, context, run_id=results.run.run_id)

    def _of_subject(self, subject: str, versions: dict[str, str | None]) -> dict[str, str | None]:
        """Return the versions, unless the run has tested another agent."""
        client = self.hook.plain_client
        (agent,) = versions
        if not subject and self.agent_id:
            return versions
        if not subject:
            self.log.warning(
                "The org does not say which agent the test is about, so its pass is not kept: "
                "skip_if_passed_within has no effect. Set agent_id to the agent that is tested."
            )
            return {agent: None}
        if any(one.name == subject for one in client.find_agents(client.agent(agent))):
            return versions
        self.log.warning("The test is about the agent %s and not %s: its pass is not kept.", subject, agent)
        return {agent: None}

    def _cancel(self, tests: AgentTests, run: AgentTestRun, context: Context) -> None:
        if not run.can_be_cancelled:
            self.log.warning("The test run %s continues: its API cannot cancel it.", run.run_id)
            return
        try:
            tests.cancel(run, during_cleanup=True)
        except AgentforceError as error:
            self.log.warning("The test run %s may continue: %s", run.run_id, error)
            return
        self.log.info("The test run %s is cancelled.", run.run_id)
        self._resumable_run(context).forget()

    def _defer(self, run: AgentTestRun, until: datetime) -> NoReturn:
        from airflow_provider_agentforce.triggers.agent_tests import AgentTestTrigger  # noqa: PLC0415 - not at parse time

        trigger = AgentTestTrigger(
            run_id=run.run_id,
            api=run.api,
            path=run.path,
            until=until,
            cancels=True,
            agentforce_conn_id=self.agentforce_conn_id,
            poke_interval=self.poke_interval,
        )
        self.defer_until(until, trigger)


def _seconds_left(until: datetime) -> float:
    """Return the seconds until a moment, 0.0 when it has passed."""
    return max((until - datetime.now(timezone.utc)).total_seconds(), 0.0)
