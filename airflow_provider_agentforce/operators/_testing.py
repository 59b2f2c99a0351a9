"""What the operators that test agents have in common: their verdict, their files, and earlier passes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    AgentforceRequestError,
    AgentTestFailedError,
)
from airflow_provider_agentforce.operators._base import AgentforceBaseOperator
from airflow_provider_agentforce.operators._paths import path_of

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.storage import Storage
    from airflow_provider_agentforce.client.client import AgentforceClient
    from airflow_provider_agentforce.testing.report import Report

_RESULTS, _LAST_PASS = "results.json", "last_pass.json"


class AgentTesting(AgentforceBaseOperator):
    """An operator that tests an agent.

    :param agent_id: id (``0Xx…``) or API name of the agent. Default: the connection's extra ``agent_id``.
    :param min_pass_rate: share of the cases that has to pass, from 0 to 1.
    :param junit_path: URI of a file for the results as JUnit XML.
    :param result_path: URI of a folder for all results.
    :param skip_if_passed_within: do not test again what has passed in that time.
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
            self.skip_if_passed_within = check_timedelta(skip_if_passed_within, "skip_if_passed_within")
            if result_path is None:
                raise AgentforceInputError("skip_if_passed_within needs result_path, where a pass is kept.")

    def check_paths(self) -> None:
        """Refuse paths that cannot be used, before anything is sent."""
        for field in ("junit_path", "result_path"):
            if getattr(self, field) is not None:
                path_of(getattr(self, field), field)

    def earlier_pass(self, mark: str, versions: Mapping[str, str | None]) -> dict[str, Any] | None:
        """Return the result of an earlier pass that still counts, ``None`` if there is none.

        :param mark: what tells this test from another.
        :param versions: the active version of each agent that is tested.
        """
        from airflow_provider_agentforce.testing.report import enough  # noqa: PLC0415 - not at parse time

        within = self.skip_if_passed_within
        if within is None or None in versions.values():
            return None
        try:
            kept = json.loads(self._storage().read(_LAST_PASS) or b"{}")
            passed_at = datetime.fromisoformat(kept["at"])
            same = kept["test"] == mark and kept["agent_versions"] == dict(versions)
            counts = enough(kept["result"], self.min_pass_rate)
            result = {**kept["result"], "skipped": True}
        except (KeyError, ValueError, TypeError):
            return None
        if not (same and counts) or datetime.now(timezone.utc) - passed_at > within:
            return None
        self.log.info("Not tested again: the same version of the agent passed at %s.", kept["at"])
        return result

    def conclude(
        self,
        report: Report,
        mark: str,
        versions: Mapping[str, str | None],
        context: Context,
        **more: Any,
    ) -> dict[str, Any]:
        """Log and keep what came of the test, and return it.

        :param versions: the version of each agent that was tested, ``None`` where that is not certain.
        :param more: belongs to the result, too.
        :raises AgentTestFailedError: not enough has passed.
        """
        self.log.info("%s", report.in_words())
        result = {**report.to_dict(self.min_pass_rate), **more}
        self._write(report, result)
        if not report.passes(self.min_pass_rate):
            self.push_in_failure(context, "result", result)
            raise AgentTestFailedError(report.failure(self.min_pass_rate), result=result)
        if self.skip_if_passed_within is not None and None not in versions.values():
            at = datetime.now(timezone.utc).isoformat()
            _write_json(
                self._storage(),
                _LAST_PASS,
                {"test": mark, "agent_versions": dict(versions), "at": at, "result": result},
            )
        return self.tell_outlets(context, result)

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
        """Return the versions that were tested: those of now, if they are the ones of before."""
        if before == now:
            return dict(now)
        self.log.warning("Which version of the agent was tested is not certain, so its pass is not kept.")
        return dict.fromkeys(now)

    def _write(self, report: Report, result: dict[str, Any]) -> None:
        from airflow_provider_agentforce.batch.storage import guarded, storage_of  # noqa: PLC0415 - not at parse time

        if self.junit_path is not None:
            path = path_of(self.junit_path, "junit_path")
            folder = storage_of(path.parent)
            content = report.junit()

            def write() -> None:
                folder.prepare()
                folder.write(path.name, lambda: [content])

            guarded(write, "The JUnit file cannot be written")
        if self.result_path is not None:
            whole = {**result, "name": report.name, "cases": report.details()}
            _write_json(self._storage(), _RESULTS, whole)

    def _storage(self) -> Storage:
        from airflow_provider_agentforce.batch.storage import guarded, storage_of  # noqa: PLC0415 - not at parse time

        storage = storage_of(path_of(self.result_path, "result_path"))
        guarded(storage.prepare, "result_path cannot be used")
        return storage


def _write_json(storage: Storage, name: str, value: dict[str, Any]) -> None:
    from airflow_provider_agentforce.batch.storage import guarded  # noqa: PLC0415 - not at parse time

    content = json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8")
    guarded(lambda: storage.write(name, lambda: [content]), f"{name} cannot be written")


def check_timedelta(value: Any, field: str) -> timedelta:
    """Return a time that is more than none."""
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise validation.refusal(value, field, "must be a timedelta above 0")
    return value
