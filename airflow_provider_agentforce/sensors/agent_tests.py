"""The sensor that waits for a run of an agent test."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_agentforce._compat import (
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    Context,
    PokeReturnValue,
)
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.exceptions import AgentforceTransientError
from airflow_provider_agentforce.operators import _arguments as arguments
from airflow_provider_agentforce.operators._base import AgentforceBaseOperator, is_lost
from airflow_provider_agentforce.operators._testing import LONGEST_WAIT, TEST_APIS

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.agent_tests import AgentTestRun, AgentTests


class AgentTestSensor(AgentforceBaseOperator, BaseSensorOperator):
    """Wait until an agent test run that something else started has ended.

    **Sends** polls of the run, and reads its results. It starts and cancels nothing. **Succeeds** when the
    run has ended, regardless of the result, and **returns** the dict of a
    :class:`~airflow_provider_agentforce.operators.RunAgentTestOperator`, with ``run_status``, the org's final
    status of the run. A run that does not end within ``timeout`` fails the task with Airflow's
    ``AirflowSensorTimeout``, or skips it with ``soft_fail``.

    **A retry** is harmless: it waits again. **Templated:** ``run_id``, ``agentforce_conn_id``.

    :param run_id: id of the run.
    :param api: ``legacy``, ``testing`` or ``conversation``. Default: each of the first two is asked.
    :param path: path of the runs on the org's host, if it is not the usual one.
    :param poke_interval: pause between two polls of the run, a ``timedelta`` or seconds.
    :param timeout: how long to wait, a ``timedelta`` or seconds.
    :param deferrable: wait without a worker slot. Default: ``[operators] default_deferrable``.
    :param agentforce_conn_id: connection of type ``agentforce``.
    """

    template_fields: Sequence[str] = ("run_id", *AgentforceBaseOperator.template_fields)

    def __init__(
        self,
        *,
        run_id: str,
        api: Literal["legacy", "testing", "conversation"] | None = None,
        path: str | None = None,
        poke_interval: timedelta | float = timedelta(minutes=1),
        timeout: timedelta | float = timedelta(hours=1),
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, timeout=timeout, **kwargs)
        self.run_id = run_id
        self.api = api
        self.path = path
        self.deferrable = arguments.check_deferrable(deferrable)
        self.check_literals()

    def check_arguments(self) -> None:
        """Refuse literals that cannot be the id of a run, an API, or a time."""
        if not 0 <= float(self.timeout) <= LONGEST_WAIT.total_seconds():
            raise validation.refusal(self.timeout, "timeout", f"must be at most {LONGEST_WAIT.days} days")
        if not arguments.may_change(self.run_id):
            validation.path_id(self.run_id, "run_id")
        if self.api is not None:
            arguments.check_choice("api", self.api, *TEST_APIS)

    def execute(self, context: Context) -> Any:
        """Wait, with a worker slot or without."""
        if not self.deferrable:
            return super().execute(context)
        found = self.poke(context)
        return found.xcom_value if found else self._defer(datetime.now(timezone.utc) + self._timeout)

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002 - as Airflow calls it
        """Look at the run, and read its results when it has ended."""
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415

        with airflow_errors():
            tests = self.open_client().agent_tests
            try:
                run = tests.find(self.run_id, api=self.api, path=self.path)
            except AgentforceTransientError as error:
                # A trigger must know which API has the run.
                if self._killed or (self.deferrable and self.path is None):
                    raise
                self.log.warning("%s", error)
                return PokeReturnValue(is_done=False)
            self.api, self.path = run.api, run.path  # type: ignore[assignment] # known by now
            return PokeReturnValue(run.ended, _result(tests, run) if run.ended else None)

    def execute_complete(self, context: Context, event: Any = None) -> Any:
        """Continue after a wait."""
        found = self.poke(context)
        if found:
            return found.xcom_value
        if is_lost(event):
            return self._wait_in_slot(context, late=event["late"])
        until = datetime.fromisoformat(event["until"])
        if datetime.now(timezone.utc) < until:
            return self._defer(until)
        raise self._timeout_error()

    def _wait_in_slot(self, context: Context, *, late: bool) -> Any:
        """Wait without a triggerer. When the wait began is not known, so it may take the whole time again."""
        self.deferrable = False
        tests = self.open_client().agent_tests
        until = datetime.now(timezone.utc) + (timedelta(0) if late else self._timeout)
        while (left := (until - datetime.now(timezone.utc)).total_seconds()) > 0:
            tests.wait(min(float(self.poke_interval), left))
            if found := self.poke(context):
                return found.xcom_value
        raise self._timeout_error()

    def _timeout_error(self) -> Exception:
        late = f"The test run {self.run_id} has not ended within {self._timeout}."
        return AirflowSkipException(late) if self.soft_fail else AirflowSensorTimeout(late)

    @property
    def _timeout(self) -> timedelta:
        return timedelta(seconds=float(self.timeout))

    def _defer(self, until: datetime) -> Any:
        from airflow_provider_agentforce.triggers.agent_tests import AgentTestTrigger  # noqa: PLC0415 - not at parse time

        trigger = AgentTestTrigger(
            run_id=self.run_id,
            api=str(self.api),
            path=str(self.path),
            until=until,
            agentforce_conn_id=self.agentforce_conn_id,
            poke_interval=timedelta(seconds=self.poke_interval),
        )
        self.defer_until(until, trigger)


def _result(tests: AgentTests, run: AgentTestRun) -> dict[str, Any]:
    from airflow_provider_agentforce.testing.report import Report  # noqa: PLC0415 - not at parse time

    results = tests.results(run)
    report = Report(run.run_id, results.cases, results.trouble)
    return {**report.to_dict(1.0), "run_id": run.run_id, "run_status": results.run.status}
