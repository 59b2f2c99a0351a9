"""The operator that writes answers into records of the org."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.models import OUTCOMES
from airflow_provider_agentforce.exceptions import AgentforceInputError, shown
from airflow_provider_agentforce.operators._arguments import check_choice, check_templates, check_values
from airflow_provider_agentforce.operators._base import AgentforceBaseOperator
from airflow_provider_agentforce.operators._identity import folders_of, task_identity
from airflow_provider_agentforce.operators._paths import check_literal_uri, path_of
from airflow_provider_agentforce.operators._rendering import as_template
from airflow_provider_agentforce.operators._row_templates import as_field_text, compiler

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.record_writer import RecordWriter


class WriteRecordsOperator(AgentforceBaseOperator):
    """Write the answers of a batch into records of the org, by their ids or by an external id.

    Only rows whose ``status`` is one of ``outcomes`` are written. The operator first reads the description of
    the object: a field that does not exist or may not be written fails the task before anything is written.
    All values are rendered and checked before the first write: a value that its field does not accept, such
    as a text that is too long, is an error of that row. Two rows that name the same record fail the task.

    **Sends** the records with sObject Collections, 200 per call; a refused record does not prevent the others
    from being written. Records that another process has locked are tried again, in up to five attempts.

    **Writes** beside the results, if any record failed, ``write_errors.jsonl``: ``key``, ``target`` (the id
    of the record, or its external id), ``code`` and ``error`` (the org's words), ``fields`` and ``values``.
    It is in ``writes/dag_id=…/run_id=…/task_id=…/``, and has the failures of the last try, however that
    ended. A dry run writes ``dry_run_errors.jsonl`` instead.

    **Returns** a dict: ``written``, ``failed`` and ``records`` (counts), and ``errors`` (a URI, or ``None``).
    The task fails if all records failed, or more than ``max_failures``; then the XCom ``result`` has the
    dict.

    **A retry**, or a clear of a failed task, continues where the last try ended, and tries failed records
    again. A record that was being written when the process was killed is written once more, with the same
    values. If the templates render other values, or the connection leads to another org, all records are
    written. Clearing a task that has succeeded also writes all records, even if some of them failed.

    **Templated:** ``results``, ``sobject``, ``external_id``, ``agentforce_conn_id``. The values of ``fields``
    are separate templates, rendered for each row with ``row`` and the task's context. The contents of a row
    are never rendered, nor are ``fields`` that a mapped task takes from XCom: their values are written as
    they are.

    :param results: the output of a :class:`ConversationBatchOperator`, or the URI of its ``results.jsonl``;
        or a list of either, such as the output of a mapped batch.
    :param sobject: API name of the object, such as ``Account``.
    :param fields: a template for each field, by its API name: ``{"Summary__c": "{{ row.text }}"}``. Its text
        is converted to a number, a boolean or a date if the field has that type; an empty text or ``None``
        empties the field; a dict, list or tuple becomes JSON. ``Id``, or the field of ``external_id``,
        identifies the record; default: the row's ``key``.
    :param external_id: upsert by this field, which should be unique in the org, and create a record that
        does not exist. Default: update by ``Id``.
    :param outcomes: the ``status`` values of the rows to write.
    :param max_failures: stop when more records than this have failed: a number (``0``: none may), or a share
        between 0 and 1. Default: never.
    :param dry_run: write nothing; render and check all values, and return as ``preview`` the changes of the
        first ten records. The outlets have no event.
    :param agentforce_conn_id: connection of type ``agentforce``.
    """

    template_fields: Sequence[str] = (
        *("results", "sobject", "external_id"),
        *AgentforceBaseOperator.template_fields,
    )
    template_fields_renderers = {"results": "json"}  # noqa: RUF012 - Airflow's own form

    def __init__(
        self,
        *,
        results: Any,
        sobject: str,
        fields: Mapping[str, str],
        external_id: str | None = None,
        outcomes: Collection[str] = ("answered",),
        max_failures: float | None = None,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.results = results
        self.sobject = sobject
        self.fields = _checked_fields(fields)
        self.external_id = external_id
        self.outcomes = _checked_outcomes(outcomes)
        self.max_failures = validation.failures(max_failures)
        # Airflow's operators have a method of the argument's name.
        self.dry_run_only = check_choice("dry_run", dry_run, True, False)
        self.check_literals()

    def check_arguments(self) -> None:
        """Refuse templates with a syntax error, and literals that are not URIs or API names."""
        check_templates("fields", self.fields, lambda text: self.get_template_env().parse(text))
        check_values(
            self,
            results=_check_results,
            sobject=validation.sobject,
            external_id=validation.external_id,
        )

    def execute(self, context: Context) -> dict[str, Any]:
        """Write the records, or the rest of those that earlier tries began."""
        from airflow_provider_agentforce.exceptions import BatchFailedError  # noqa: PLC0415
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415

        with airflow_errors():
            try:
                result = self._writer(context).run(dry_run=self.dry_run_only)
            except BatchFailedError as error:
                self.push_in_failure(context, "result", error.manifest)
                raise
        return self.update_outlet_events(context, result, nothing_changed=self.dry_run_only)

    def lineage_uris(self) -> tuple[list[str], list[str]]:
        """Return the files of the results, and the object that is written."""
        return [str(one) for one in _sources(self.results)], (
            [] if self.dry_run_only else self.uri_in_org(self.sobject)
        )

    def _writer(self, context: Context) -> RecordWriter:
        from airflow_provider_agentforce.batch.record_values import WriteOptions  # noqa: PLC0415
        from airflow_provider_agentforce.batch.record_writer import RecordWriter  # noqa: PLC0415

        client, sources = self.open_client(), _sources(self.results)
        ti: Any = context["ti"]
        environment = self.get_template_env()
        compile_template = compiler(environment, context, "row", as_field_text)
        from_xcom = "fields" in self.mapped_from_xcom(context)
        fields = as_template(self.fields, environment) if from_xcom else self.fields
        return RecordWriter(
            client.records,
            sources,
            sources[0].parent.joinpath("writes", *folders_of(ti)),
            WriteOptions(
                sobject=self.sobject,
                fields={name: compile_template(text) for name, text in fields.items()},
                external_id=self.external_id,
                outcomes=self.outcomes,
                max_failures=self.max_failures,
            ),
            identity=" ".join([client.settings.host, *task_identity(ti).values()]),
        )


def _checked_fields(fields: Any) -> dict[str, str]:
    if not isinstance(fields, Mapping) or not fields:
        raise AgentforceInputError(
            'fields must be a template for each field, such as {"Summary__c": "{{ row.text }}"}, '
            f"but is {shown(fields)}."
        )
    twice = [name for name, number in Counter(str(name).lower() for name in fields).items() if number > 1]
    if twice:
        raise AgentforceInputError(
            f"fields names {twice[0]} more than once; case does not distinguish names."
        )
    for name, template in fields.items():
        if not isinstance(template, str):
            raise AgentforceInputError(
                f"fields[{shown(name, 40)}] must be a template, a string, but is {type(template).__name__}."
            )
        validation.name(name, "a name in fields", "Summary__c")
    return dict(fields)


def _checked_outcomes(outcomes: Any) -> tuple[str, ...]:
    names = [outcomes] if isinstance(outcomes, str) else outcomes
    listed = isinstance(names, Collection) and not isinstance(names, Mapping) and names
    unknown = [name for name in names if name not in OUTCOMES] if listed else [outcomes]
    if unknown:
        raise AgentforceInputError(
            f"outcomes must be some of {', '.join(OUTCOMES)}, but has {shown(unknown[0], 60)}."
        )
    return tuple(names)


def _check_results(results: Any) -> None:
    for uri in _uris(results):
        check_literal_uri(uri, "results")


def _sources(results: Any) -> list[Any]:
    """Return the path objects of the files that *results* stands for."""
    return [path_of(uri, "results") for uri in _uris(results)]


def _uris(results: Any) -> list[Any]:
    """Return the URIs of the files that *results* stands for."""
    if isinstance(results, Mapping):
        uri = results.get("results")
        if not isinstance(uri, str):
            raise AgentforceInputError(
                "results has no results: give the output of a ConversationBatchOperator, or the URI of its "
                "results.jsonl."
            )
        return [uri]
    if isinstance(results, str) or hasattr(results, "joinpath"):
        return [results]
    if not isinstance(results, Sequence) or isinstance(results, bytes) or not results:
        raise AgentforceInputError(
            "results must be the output of a ConversationBatchOperator or the URI of its results.jsonl, "
            f"but is {'empty' if isinstance(results, Sequence) else type(results).__name__}."
        )
    return [uri for one in results for uri in _uris(one)]
