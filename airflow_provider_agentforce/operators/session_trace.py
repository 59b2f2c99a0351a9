"""The operator that reads the org's own traces of sessions."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.models import session_from
from airflow_provider_agentforce.exceptions import AgentforceInputError
from airflow_provider_agentforce.operators._arguments import check_choice, check_deferrable, check_values
from airflow_provider_agentforce.operators._base import AgentforceBaseOperator, is_lost
from airflow_provider_agentforce.operators._paths import check_literal_uri, path_of

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.session_traces import SessionTraces

# Seconds after which a task that waits in its slot looks whether it is to stop.
_SLICE = 0.5


class SessionTraceOperator(AgentforceBaseOperator):
    """Fetch the org's own traces of the sessions of a batch or a conversation, and resolve unknown rows.

    **Sends** no message, only ``GET …/einstein/audit/otel/{session_id}``, up to eight at once, repeatedly
    until every trace is complete or ``timeout`` is over, with pauses that grow to five minutes.
    Salesforce writes a trace 5 to 15 minutes after a turn, sometimes hours, and serves it for sessions that
    started within 72 hours. The org needs Data 360, see the page *Read the org's own traces*; without it the
    task fails, and the error says what to switch on.

    **Writes** for a batch ``traces.jsonl`` beside its results, a line per session: ``session_id``, ``found``,
    ``complete``, ``note``, ``agent``, ``actions`` (``name``, ``success``, ``duration`` in seconds),
    ``input_tokens``, ``output_tokens``, ``total_tokens``, ``models``, ``messages`` (a number), ``credits``.
    If the message of an ``unknown`` row of ``results.jsonl`` is in the trace, it was delivered: the row gets
    its answer and the status ``answered``, or after ``timeout`` ``answer_lost``, and a ``resolution``. A
    message that is not in the trace may still have been delivered, so its row stays ``unknown``. Values that
    a trace does not contain stay empty: citations, the kind of the answer, ``result``.

    **Returns** a dict: ``traces`` (the URI), ``found`` and ``missing`` (sessions), ``resolved`` and
    ``unknown`` (rows), ``actions``, ``total_tokens`` (counts) and ``credits``; for conversations also
    ``sessions``, the lines.

    **A retry** is harmless: it looks again. It exports a trace again that was not complete before.
    **Templated:** ``results``, ``agentforce_conn_id``.

    :param results: the output of a batch, a conversation, a send or a start, or a list of such sessions.
    :param timeout: how long to wait for traces that are not complete.
    :param credits_per_action: the price of an agent's action, for the estimate in ``credits``.
    :param export_spans: also export the spans of each trace with OpenTelemetry, below the span of this task,
        through the exporter of Airflow's ``[traces]``. Texts are left out, unless
        ``[agentforce] capture_content`` is set.
    :param deferrable: free the worker slot while waiting. Default: ``[operators] default_deferrable``.
    :param agentforce_conn_id: connection of type ``agentforce``.
    """

    template_fields: Sequence[str] = ("results", *AgentforceBaseOperator.template_fields)
    template_fields_renderers = {"results": "json"}  # noqa: RUF012 - Airflow's own form

    def __init__(
        self,
        *,
        results: Any,
        timeout: timedelta = timedelta(minutes=30),
        credits_per_action: float | None = None,
        export_spans: bool = False,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.results = results
        self.timeout = timeout
        self.credits_per_action = credits_per_action
        self.export_spans = check_choice("export_spans", export_spans, True, False)
        self.deferrable = check_deferrable(deferrable)
        self.check_literals()

    def check_arguments(self) -> None:
        """Refuse numbers that are not valid, and literals that are not sessions."""
        check_values(self, results=_check_results)
        _check_timeout(self.timeout)
        _check_rate(self.credits_per_action)

    def execute(self, context: Context) -> dict[str, Any]:
        """Look for the traces."""
        return self._run(context, time.time() + self.timeout.total_seconds(), None)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Continue after a wait."""
        if is_lost(event):
            # When the wait began is not known, so it may take the whole time once more, without a triggerer.
            self.deferrable = False
            return self._run(context, time.time() + self.timeout.total_seconds(), None)
        return self._run(context, event["end_time"], event["pause"])

    def _run(self, context: Context, end_time: float, pause: float | None) -> dict[str, Any]:  # noqa: ARG002
        from airflow_provider_agentforce.client.trace_lookup import (  # noqa: PLC0415 - not at parse time
            NO_KIND,
            first_pause,
            next_pause,
        )
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415

        with airflow_errors(), closing(self._traces()) as traces:
            while not traces.look(last=time.time() >= end_time):
                pause = first_pause(end_time - time.time()) if pause is None else next_pause(pause)
                until = min(time.time() + pause, end_time)
                if self.deferrable:
                    self._defer(until, {"end_time": end_time, "pause": pause})
                self._wait(until)
            result = traces.result()
        self.log.info(
            "Traces: %d found, %d missing. Unknown rows: %d resolved, %d left.",
            *(result[name] for name in ("found", "missing", "resolved", "unknown")),
        )
        if result["resolved"]:
            self.log.warning("A row that got its answer back has the status answered. %s", NO_KIND)
        return result

    def lineage_uris(self) -> tuple[list[str], list[str]]:
        """Return the results of the batch, and the traces beside them; nothing for single sessions."""
        from airflow_provider_agentforce.batch.output import RESULTS  # noqa: PLC0415
        from airflow_provider_agentforce.batch.session_traces import TRACES  # noqa: PLC0415

        uri = _folder_in(self.results)
        if uri is None:
            return [], []
        folder = path_of(uri, "results")
        return [str(folder / RESULTS)], [str(folder / TRACES)]

    def _traces(self) -> SessionTraces:
        from airflow_provider_agentforce.batch.session_traces import SessionTraces  # noqa: PLC0415
        from airflow_provider_agentforce.instrumentation import trace_exporter  # noqa: PLC0415

        uri = _folder_in(self.results)
        return SessionTraces(
            self.open_client(),
            folder=None if uri is None else path_of(uri, "results"),
            sessions=_sessions(self.results) if uri is None else {},
            credits_per_action=self.credits_per_action,
            on_trace=trace_exporter() if self.export_spans else None,
        )

    def _defer(self, until: float, event: dict[str, Any]) -> None:
        from airflow_provider_agentforce.triggers.pause import PauseTrigger  # noqa: PLC0415

        moment = datetime.fromtimestamp(until, timezone.utc)
        self.defer_until(moment, PauseTrigger(until=until, event=event))

    def _wait(self, until: float) -> None:
        while (left := until - time.time()) > 0:
            self.check_not_killed()
            time.sleep(min(left, _SLICE))


def _check_timeout(timeout: Any) -> None:
    if not isinstance(timeout, timedelta) or timeout < timedelta(0):
        raise validation.refusal(timeout, "timeout", "must be a timedelta that is not negative")


def _check_rate(rate: Any) -> None:
    is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if rate is not None and not (is_number and 0 <= rate < math.inf):
        raise validation.refusal(rate, "credits_per_action", "must be a number that is not negative")


def _check_results(results: Any) -> None:
    uri = _folder_in(results)
    if uri is None:
        _sessions(results)
    else:
        check_literal_uri(uri, "results")


def _folder_in(results: Any) -> Any:
    """Return the URI of the folder of a batch's results, ``None`` for sessions."""
    return (results.get("result_path") or None) if isinstance(results, Mapping) else None


def _sessions(results: Any) -> dict[str, int]:
    """Return the number of the last message of each session, by its id."""
    listed = isinstance(results, Sequence) and not isinstance(results, str)
    found: dict[str, int] = {}
    for value in results if listed else [results]:
        if isinstance(value, Mapping) and value.get("result_path"):
            raise AgentforceInputError(
                "results holds several batches. Map the task over them: "
                "SessionTraceOperator.partial(…).expand(results=ask.output)."
            )
        session = session_from(value, "results")
        found[session.session_id] = max(found.get(session.session_id, 0), session.sequence_id)
    if not found:
        raise AgentforceInputError("results is empty: the task before it left no session.")
    return found
