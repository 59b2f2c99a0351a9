"""The common part of the operators that test agents: verdict, files, and earlier passes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    AgentforceRequestError,
    AgentTestFailedError,
    one_line,
)
from airflow_provider_agentforce.operators import _arguments as arguments
from airflow_provider_agentforce.operators._base import AgentforceBaseOperator
from airflow_provider_agentforce.operators._ledger import fingerprint_of
from airflow_provider_agentforce.operators._paths import check_literal_uri, path_of

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.storage import Storage
    from airflow_provider_agentforce.client.client import AgentforceClient
    from airflow_provider_agentforce.testing.report import Report

TEST_APIS: tuple[Literal["legacy", "testing", "conversation"], ...] = ("legacy", "testing", "conversation")
LONGEST_WAIT = timedelta(days=366)
_RESULTS, _LAST_PASS = "results.json", "last_pass.json"


class AgentTesting(AgentforceBaseOperator):
    """An operator that tests an agent.

    :param agent_id: id (``0Xx…``) or API name of the agent. Default: the connection's extra ``agent_id``.
    :param min_pass_rate: share of the cases that must pass, from 0 to 1.
    :param junit_path: URI of a file for the results as JUnit XML, with skipped cases for a skipped test.
    :param result_path: URI of a folder for all results.
    :param skip_if_passed_within: do not repeat a test that passed within this time.
    """

    template_fields: Sequence[str] = (
        *("agent_id", "junit_path", "result_path"),
        *AgentforceBaseOperator.template_fields,
    )

    def __init__(
        self,
        *,
        agent_id: str | None = None,
        min_pass_rate: float = 1.0,
        junit_path: str | None = None,
        result_path: str | None = None,
        skip_if_passed_within: timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.min_pass_rate = validation.share(min_pass_rate, "min_pass_rate")
        self.junit_path = junit_path
        self.result_path = result_path
        self.skip_if_passed_within = None
        if skip_if_passed_within is not None:
            self.skip_if_passed_within = validation.duration(skip_if_passed_within, "skip_if_passed_within")
            if result_path is None:
                raise AgentforceInputError("skip_if_passed_within needs result_path, where a pass is stored.")

    def check_arguments(self) -> None:
        """Refuse literals that are not URIs, or cannot be the name of an agent."""
        for field in ("junit_path", "result_path"):
            check_literal_uri(getattr(self, field), field)
        arguments.check_values(self, agent_id=validation.agent)

    def check_paths(self) -> None:
        """Refuse paths that cannot be used, before anything is sent."""
        for field in ("junit_path", "result_path"):
            if getattr(self, field) is not None:
                path_of(getattr(self, field), field)

    def earlier_pass(
        self, fingerprint: str, versions: Mapping[str, str | None], context: Context
    ) -> dict[str, Any] | None:
        """Return the result of an earlier pass that still counts, ``None`` if there is none.

        :param fingerprint: fingerprint of the test.
        :param versions: the active version of each agent that is tested.
        """
        within = self.skip_if_passed_within
        if within is None or None in versions.values():
            return None
        written = self._storage().read(_LAST_PASS)
        if written is None:
            return None
        try:
            kept = _LastPass.read(written)
            same = kept.test == fingerprint and kept.agent_versions == dict(versions)
            if not (same and kept.still_counts(within, self.min_pass_rate)):
                return None
            report = kept.report()
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            self.log.warning("%s cannot be read (%s), so the test runs.", _LAST_PASS, type(error).__name__)
            return None
        self.log.info("%s", report.skipped)
        self._write_junit(report)
        return self._with_outlet_events(context, {**kept.result, "skipped": True}, versions)

    def conclude(
        self,
        report: Report,
        fingerprint: str,
        versions: Mapping[str, str | None],
        context: Context,
        **more: Any,
    ) -> dict[str, Any]:
        """Log, store and return the result of the test.

        :param versions: the version of each agent that was tested, ``None`` where that is not certain.
        :param more: more keys of the result.
        :raises AgentTestFailedError: not enough cases passed.
        """
        self.log.info("%s", report.summary())
        result = {**report.to_dict(self.min_pass_rate), **more}
        self._write(report, result)
        if not report.passes(self.min_pass_rate):
            self.forget_pass()
            self.push_in_failure(context, "result", result)
            raise AgentTestFailedError(report.failure(self.min_pass_rate), result=result)
        if self.skip_if_passed_within is not None and None not in versions.values():
            at = datetime.now(timezone.utc).isoformat()
            passed = _LastPass(fingerprint, dict(versions), at, result, report.name, report.details())
            _write_json(self._storage(), _LAST_PASS, vars(passed))
        return self._with_outlet_events(context, result, versions)

    def forget_pass(self) -> None:
        """Remove an earlier pass, which a failure has invalidated, even if the task stores none."""
        if self.result_path is None:
            return
        try:
            self._storage().remove(_LAST_PASS)
        except Exception as error:  # noqa: BLE001 - any storage; it must not hide why the test failed
            self.log.warning("%s could not be removed: %s", _LAST_PASS, one_line(str(error), 200))

    def fingerprint_in_org(self, *what: Any) -> str:
        """Return the fingerprint of *what* and the org, which an earlier try or pass must share."""
        return fingerprint_of(self.agentforce_conn_id, self.hook.plain_client.settings.host, *what)

    def _with_outlet_events(
        self, context: Context, result: dict[str, Any], versions: Mapping[str, str | None]
    ) -> dict[str, Any]:
        """Return the result, and add it to the events of the outlets, with the agent's version."""
        known = set(versions.values())
        version = known.pop() if len(known) == 1 else None
        self.update_outlet_events(context, {**result, "agent_version": version})
        return result

    def version_of(self, client: AgentforceClient, agent: str | None, *, newest: bool = False) -> str | None:
        """Return the id of an agent's active version, ``None`` when it cannot be read.

        :param newest: that version counts only if it is the newest one.
        """
        try:
            found = client.find_agents(client.agent(agent))
        except AgentforceRequestError as error:
            self.log.warning("%s", error)
            return None
        active = found[0].version if found else None
        if active is None or (newest and active != found[0].newest_version):
            return None
        return active

    def unchanged(
        self, before: Mapping[str, str | None] | None, now: Mapping[str, str | None]
    ) -> dict[str, str | None]:
        """Return the versions that were tested: the current ones, if they are still those of before."""
        if before == now:
            return dict(now)
        self.log.warning("It is not certain which agent version was tested, so the pass is not stored.")
        return dict.fromkeys(now)

    def _write_junit(self, report: Report) -> None:
        from airflow_provider_agentforce.batch.storage import guarded, storage_of  # noqa: PLC0415 - not at parse time

        if self.junit_path is None:
            return
        path = path_of(self.junit_path, "junit_path")
        folder = storage_of(path.parent)
        content = report.junit()

        def write() -> None:
            folder.prepare()
            folder.write(path.name, lambda: [content])

        guarded(write, "The JUnit file cannot be written")

    def _write(self, report: Report, result: dict[str, Any]) -> None:
        self._write_junit(report)
        if self.result_path is not None:
            whole = {**result, "name": report.name, "cases": report.details()}
            _write_json(self._storage(), _RESULTS, whole)

    def _storage(self) -> Storage:
        from airflow_provider_agentforce.batch.storage import prepared, storage_of  # noqa: PLC0415 - not at parse time

        storage = storage_of(path_of(self.result_path, "result_path"))
        prepared(storage, "result_path cannot be used")
        return storage


@dataclass(frozen=True)
class _LastPass:
    """The last pass, in ``last_pass.json``.

    :param test: fingerprint of the test.
    :param at: when it passed, in ISO 8601.
    :param result: the task's result.
    :param name: name of the test.
    :param cases: all of them, with their checks.
    """

    test: str
    agent_versions: dict[str, str | None]
    at: str
    result: dict[str, Any]
    name: str
    cases: list[dict[str, Any]]

    @classmethod
    def read(cls, written: bytes) -> _LastPass:
        """Return the contents of the file.

        :raises KeyError, TypeError, ValueError: it is damaged.
        """
        return cls(**json.loads(written))

    def still_counts(self, within: timedelta, min_pass_rate: float) -> bool:
        """Return whether it is not too old, and enough had passed."""
        from airflow_provider_agentforce.testing.report import enough  # noqa: PLC0415 - not at parse time

        age = datetime.now(timezone.utc) - datetime.fromisoformat(self.at)
        return timedelta(0) <= age <= within and enough(self.result, min_pass_rate)

    def report(self) -> Report:
        """Return its report, as that of a skipped test.

        :raises KeyError, TypeError, ValueError: it is damaged, such as by cases that contradict its figures.
        """
        from airflow_provider_agentforce.testing.report import Report, case_from  # noqa: PLC0415 - not at parse time

        why = f"Not tested again: the same version of the agent passed at {self.at}."
        report = Report(self.name, [case_from(case) for case in self.cases], skipped=why)
        counts = report.counts
        same = all(self.result[name] == count for name, count in counts.items())
        if not same or sum(counts.values()) != len(report.cases):
            raise ValueError("its cases contradict its figures")
        return report


def _write_json(storage: Storage, name: str, value: dict[str, Any]) -> None:
    from airflow_provider_agentforce.batch.storage import guarded  # noqa: PLC0415 - not at parse time

    content = json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8")
    guarded(lambda: storage.write(name, lambda: [content]), f"{name} cannot be written")


def check_wait(value: Any, field: str) -> timedelta:
    """Return a valid time to wait."""
    wait = validation.duration(value, field)
    if wait > LONGEST_WAIT:
        raise validation.refusal(str(value), field, f"must be at most {LONGEST_WAIT.days} days")
    return wait
