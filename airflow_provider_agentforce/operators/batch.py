"""The operator that asks the same question about each of many records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_agentforce._compat import (
    Context,
    can_ask,
)
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.delivery import RESEND
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line
from airflow_provider_agentforce.links.agent import AgentLink
from airflow_provider_agentforce.links.page import BatchLink
from airflow_provider_agentforce.operators import _batch_arguments as batch_arguments
from airflow_provider_agentforce.operators._answer_store import AnswerStore, folder_at, store_of
from airflow_provider_agentforce.operators._arguments import check_choice, check_values
from airflow_provider_agentforce.operators._base import AgentforceBaseOperator, mask_keys
from airflow_provider_agentforce.operators._continuing import (
    STORED,
    arguments_of,
    continued_folder,
    take_over,
)
from airflow_provider_agentforce.operators._identity import task_identity
from airflow_provider_agentforce.operators._paths import check_literal_uri, path_of
from airflow_provider_agentforce.operators._rendering import as_template, resolved
from airflow_provider_agentforce.operators._result_folder import check_folder, remote_executor
from airflow_provider_agentforce.operators._row_templates import compiler
from airflow_provider_agentforce.operators._shared import SendsMessages, StartsSessions

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.continuation import Handover
    from airflow_provider_agentforce.batch.job import Job
    from airflow_provider_agentforce.batch.options import Options
    from airflow_provider_agentforce.batch.sample import Sample
    from airflow_provider_agentforce.batch.shard import Shard
    from airflow_provider_agentforce.batch.unknown import UnknownRows
    from airflow_provider_agentforce.operators._batch_page import BatchPage
    from airflow_provider_agentforce.operators._unknown_delivery import ResolverState

_SHOWN_KEYS = 20


class WritesResults(AgentforceBaseOperator):
    """An operator that writes the results of a batch, or only a plan of it."""

    def __init__(
        self,
        *,
        include_record: bool = True,
        output_formats: Sequence[str] = ("csv", "jsonl"),
        csv_bom: bool = False,
        dry_run: bool = False,
        credits_per_message: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.include_record = check_choice("include_record", include_record, True, False)
        self.output_formats = batch_arguments.formats(output_formats)
        self.csv_bom = check_choice("csv_bom", csv_bom, True, False)
        # Airflow's operators have a method of the argument's name.
        self.only_plans = check_choice("dry_run", dry_run, True, False)
        self.credits_per_message = batch_arguments.rate(credits_per_message)


class ConversationBatchOperator(StartsSessions, SendsMessages, WritesResults):
    """Ask an agent about each of many records in one task, as fast as the org allows.

    **Sends**, for each record, the start of a session, its messages and the end; with
    ``messages_per_session``, several records share a session. At most ``max_concurrency`` sessions are open
    at once, and session starts stay within the connection's hourly limit. If the org refuses a session (HTTP
    429), the record is asked again: the task waits as long as the org asks, reduces the number of sessions,
    and raises it again step by step.

    **Writes** to ``result_path``: ``results.jsonl``, with one row per record in the order of the input; the
    same as tables, ``results.csv`` and on request ``results.parquet``, with the fields of the record and of
    ``result`` as columns; if records failed, ``dead_letter.jsonl`` or ``.csv`` with these records, as input
    for another batch; and ``_ledger/``, the checkpoint for the next try. A row has ``key``, ``status``,
    ``text``, ``outcome``, ``result``, ``earlier_answers``, ``request`` and ``earlier_requests`` (what was
    asked), ``session_id``, ``sequence_id``, ``error``, ``applied``, ``attempts``, ``started_at`` (ISO 8601),
    ``duration`` (seconds), ``resolution``, ``external_session_key``, ``agent_version`` (an id),
    ``reused_from`` and ``record``, the record itself.

    **Returns** a dict, never the rows; if the task fails, it is in the XCom ``manifest``. Its keys are
    ``result_path``, ``results``, ``dead_letter`` (URIs; ``None`` without failures), ``tables`` (a URI per
    format), ``records``, ``counts`` (per status), ``sessions``, ``messages``, ``duration`` (seconds since the
    first try began), ``sample`` (``size``, ``remaining``, ``preview``), ``agreement`` (``records``,
    ``share``, ``low``, ``high``, ``fields``, ``results``), ``reused`` (records with an earlier answer),
    ``resolved`` (unknown deliveries that were resolved, over all tries), ``shard``, ``agent_id``,
    ``agent_versions`` (ids, in the order in which they were active) and ``agent_version`` (the only one, or
    ``None``).

    **A retry**, and clearing the task, keeps every row that is written and asks the remaining records, on
    every version of Airflow. Nothing is asked twice: a record that was being asked when the process was
    killed gets the status ``unknown`` (at most ``max_concurrency`` records), and ``on_unknown_delivery``
    decides about it. Records with the status ``failed`` on which the agent did not act are asked again.
    Sessions that a killed try left open are ended. To ask everything again, choose another ``result_path`` or
    delete the folder.

    **Templated:** ``records`` (a URI, or the output of a task), ``soql``, ``continue_from``,
    ``result_path``, ``reuse``, ``shard``, ``agent_id``, ``tz``, ``agentforce_conn_id``. ``message`` and
    ``variables`` are separate templates, rendered for each record with ``record`` and the task's context. The
    contents of a record are never rendered.

    :param records: a list of dicts; the URI of a file of JSON Lines (``.jsonl``, ``.ndjson``), CSV
        (``.csv``, with a header) or Parquet (``.parquet``), of a folder of such files, or a pattern such as
        ``s3://bucket/accounts/*.csv``; an iterator of dicts; or a function that returns an iterable of dicts
        and may take values of the context, such as ``ds``. Records of an iterator or a function are kept for
        the next tries.
    :param soql: instead of ``records``: a query of the org's records. Values have their types; a related
        record (``Owner.Name``) is a dict in the record, a sub-select a list. The records are kept for the
        next tries. If the query finds none, the task succeeds with a warning and starts no session.
    :param message: a template such as ``"What do you know of {{ record.name }}?"``; a list of templates, for
        a conversation of several messages; or a function that receives the record (a dict) and returns a
        string or a list of strings. Required, except with ``continue_from``.
    :param result_path: URI of the folder for the results, such as ``"s3://bucket/accounts/{{ run_id }}"``.
        It belongs to this task alone, is the same for every try, and must be visible to all workers. With an
        executor that runs tasks on other machines, a local disk of the worker causes a warning; a try that
        finds a different folder there than an earlier one fails and sends nothing (Airflow 3.3 and later).
        Required, except with ``continue_from``.
    :param key: the field that identifies a record, unique. Default: the position of the record, from 0.
    :param shard: the part of the records that this task asks, to divide the batch among mapped tasks:
        ``ConversationBatchOperator.partial(…).expand(shard=shards(5))``. A hash of the key assigns each
        record to a shard, the same in every process. The task writes to ``result_path/shard-0-of-5`` and
        takes its share of ``max_concurrency`` and of the connection's limits. ``max_failures`` and the other
        arguments apply to each shard separately. Not with ``soql``.
    :param variables: context variables per record, in the form of a session's, with templates as strings; or
        a function that receives the record and returns them. They are set at the start of the record's
        session, or with its first message if sessions are shared.
    :param agent_id: id (``0Xx…``) or API name of the agent. Default: the connection's extra ``agent_id``.
    :param tz: time zone name, such as ``Europe/Berlin``.
    :param bypass_user: ``True`` for service agents, ``False`` for employee agents. Default: the value that
        fits the connection's ``auth``.
    :param surface_type: ``Custom`` for an agent that has a custom connection, to get answers in that
        connection's response formats, which ``output_type`` reads.
    :param max_concurrency: sessions open at once, at most the connection's ``max_concurrent_sessions``.
        Default: ``max_concurrent_sessions``.
    :param messages_per_session: let records share a session until it has had this many messages. Only for
        questions that do not depend on a fresh context, because the agent remembers the earlier records. A
        session is not shared further after anything but a plain answer.
    :param max_failures: stop when more records than this have failed: a number (``0``: none may), or a share
        between 0 and 1 of all records. The remaining records get the status ``skipped``. Default: never.
    :param fail_on_partial_error: fail the task, with all results written, if the status of any record is
        ``failed``, ``unknown`` or ``invalid_output``. A task whose records all failed always fails.
    :param output_type: the type of every answer: a pydantic model, a ``TypedDict`` or a JSON schema. The
        row's ``result`` is the value.
    :param output_retries: 1: ask the agent once to correct an answer that does not fit; 0: do not.
    :param on_unknown_delivery: the reaction if it is not known whether the agent acted: ``"fail"``; a
        function that takes an :class:`~airflow_provider_agentforce.delivery.UnknownDelivery` and returns
        ``True``, ``False`` or ``None``; ``"trace"``; ``"ask"``; ``"resend"``, for messages that do no harm
        if they arrive twice; a :class:`~airflow_provider_agentforce.delivery.Check`, ``Trace`` or ``Ask``;
        or a list of these, which run in order, for all unknown records together.
    :param on_change: the reaction if ``result_path`` has results of other records, messages or another agent:
        ``"fail"``; or ``"continue"``: keep the rows of the keys that exist, and ask only the rest.
    :param reuse: a folder (URI), or an :class:`~airflow_provider_agentforce.operators.AnswerStore`: use the
        earlier answer for a record whose messages, variables, agent version and ``output_type`` are
        unchanged, and add the answers of this batch. Only plain answers (status ``answered``) are reused, and
        none if the agent's version cannot be read. ``reused_from`` of a row says when and in which session it
        was asked.
    :param on_agent_change: the reaction if another version of the agent is published during the batch:
        ``"mark"``: each row names the version that answered; or ``"stop"``: ask nothing more, write the
        results, and fail; clearing the task continues with the new version. The version is read at the
        beginning, every minute and at the end; a row names none if that does not determine it.
    :param store_requests: keep in each row what was asked.
    :param include_record: write the fields of each record beside its answer.
    :param output_formats: the tables to write: ``csv``, ``jsonl``, ``parquet`` (needs ``pyarrow``).
        ``results.jsonl`` is always written.
    :param csv_bom: begin ``results.csv`` with a byte order mark, so that Excel recognizes UTF-8.
    :param dry_run: start no session and send nothing. Check every record, render every message, and write
        ``plan.json`` and ``plan.txt``: the number of records, messages, sessions, characters and duplicates,
        the hours and the credits. Return ``plan`` (a URI), ``summary`` (for people) and these numbers. Fail
        if the batch would fail because of records that cannot be asked.
    :param credits_per_message: what a message costs you, for the plan.
    :param sample: ask only this many records, chosen by a hash of their keys; or a
        :class:`~airflow_provider_agentforce.batch.sample.Sample`, such as ``Sample(20, by="country")``. A
        task with ``continue_from`` asks the rest. Default: all.
    :param continue_from: instead of ``records``: the output of a task with ``sample``, or its
        ``result_path``. This task takes over its folder and asks the remaining records, with the records,
        ``message``, ``variables``, ``key``, agent, connection and session options of the first task. If you
        give one of these except the records, it must be equal; functions and ``output_type`` must be given
        again. ``reuse`` and ``on_agent_change`` are those of the first task, too, unless you give others. The
        first task must have ended, and only one task can continue it. From then on a later try of the first
        task returns its manifest and asks nothing.
    :param agreement_share: ask this share of the records a second time, each in a separate session, and
        compare both answers. **An agent that acts, acts twice on them.** Every try chooses the same records.
    :param min_agreement: fail the task, with all results written, if the share of records whose answers agree
        is lower.
    :param budget: limit on the use per day, over all runs:
        :class:`Budget("messages", per_day=5000) <airflow_provider_agentforce.client.budget.Budget>`. When it
        is used up, the remaining records are ``skipped``; with ``at_limit="wait"`` the task continues the
        next day.
    :param deferrable: free the worker slot during a wait of a minute or more. Default:
        ``[operators] default_deferrable``.
    :param agentforce_conn_id: connection of type ``agentforce``.
    """

    operator_extra_links = (BatchLink(), AgentLink())
    _event: Any = None
    template_fields: Sequence[str] = (
        "records",
        "soql",
        "continue_from",
        "message",
        "variables",
        "result_path",
        "reuse",
        "shard",
        "agent_id",
        "tz",
        "agentforce_conn_id",
    )
    template_fields_renderers = {  # noqa: RUF012 - Airflow's own form
        "records": "json",
        "soql": "sql",
        "variables": "json",
    }

    def __init__(
        self,
        *,
        records: Any = None,
        soql: str | None = None,
        continue_from: Any = None,
        message: str | Sequence[str] | Callable[[Mapping[str, Any]], Any] | None = None,
        result_path: str | None = None,
        key: str | None = None,
        shard: str | None = None,
        variables: Any = None,
        max_concurrency: int | None = None,
        messages_per_session: int = 1,
        max_failures: float | None = None,
        fail_on_partial_error: bool = False,
        on_change: Literal["fail", "continue"] = "fail",
        reuse: str | AnswerStore | None = None,
        on_agent_change: Literal["mark", "stop"] = "mark",
        sample: int | Sample | None = None,
        agreement_share: float = 0.0,
        min_agreement: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(variables=batch_arguments.no_function(variables), **kwargs)
        self.soql = soql
        self.continue_from = continue_from
        # Decided here, because the output of a task may render to None.
        self.continues = continue_from is not None
        self.message = batch_arguments.no_function(message)
        # Airflow calls a template field that is a function itself, with other arguments.
        self.message_function = message if callable(message) else None
        self.variables_function = variables if callable(variables) else None
        # Records are data, which Airflow must not show on the page of rendered fields.
        given = batch_arguments.is_data(records)
        self.given_records = records if given else None
        self.records = None if given else records
        self.result_path = result_path
        self.key = batch_arguments.name_of_field(key)
        self.shard = shard
        self.max_concurrency = (
            None if max_concurrency is None else validation.count(max_concurrency, "max_concurrency")
        )
        self.messages_per_session = validation.count(messages_per_session, "messages_per_session")
        self.max_failures = validation.failures(max_failures)
        self.fail_on_partial_error = check_choice("fail_on_partial_error", fail_on_partial_error, True, False)
        self.on_change = check_choice("on_change", on_change, "fail", "continue")
        store = store_of(batch_arguments.copied(reuse))
        self.reuse = None if store is None else store.path
        self.max_age = None if store is None else store.max_age
        self.on_agent_change = check_choice("on_agent_change", on_agent_change, "mark", "stop")
        self.sample = batch_arguments.sample_of(sample)
        self.agreement_share = validation.share(agreement_share, "agreement_share")
        self.min_agreement = (
            None if min_agreement is None else validation.share(min_agreement, "min_agreement")
        )
        self.check_literals()

    def check_arguments(self) -> None:
        """Refuse literals that are not URIs or messages, and arguments that exclude each other."""
        super().check_arguments()
        given = self.records if self.given_records is None else self.given_records
        validation.only_one_of(records=given, soql=self.soql, continue_from=self.continue_from)
        batch_arguments.check_combinations(
            message=self.message_function if self.message is None else self.message,
            result_path=self.result_path,
            continues=self.continues,
            only_plans=self.only_plans,
            samples=self.sample is not None,
            agreement_share=self.agreement_share,
            min_agreement=self.min_agreement,
        )
        batch_arguments.check_records(given)
        if isinstance(self.variables, str):
            # A template renders to a text, which cannot be variables.
            validation.variables(self.variables)
        check_values(
            self,
            shard=lambda _: self._parsed_shard(),
            records=partial(check_literal_uri, field="records"),
            result_path=partial(check_literal_uri, field="result_path"),
            continue_from=batch_arguments.check_continue_from,
            soql=validation.soql,
        )
        batch_arguments.check_message(self.message)

    def render_template(
        self, content: Any, context: Context, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Resolve references; render what is not rendered per record. Called by Airflow."""
        fields = self.fields_with(content)
        if "message" in fields or "variables" in fields:
            as_text = partial(as_template, environment=jinja_env or self.get_template_env())
            from_xcom = self.came_from_xcom(content, context, seen_oids)
            return mask_keys(as_text(content) if from_xcom else resolved(content, context, as_text))
        if "records" not in fields or batch_arguments.names_a_file(content):
            return super().render_template(content, context, jinja_env, seen_oids)
        records = resolved(content, context)
        if batch_arguments.names_a_file(records) or not isinstance(records, Sequence):
            return records
        # Also the records of a task must not be shown on the page of rendered fields.
        self.given_records = list(records)
        return f"{len(self.given_records):,} records"

    def on_kill(self) -> None:
        """Make ``execute`` stop; it ends all sessions, including those that are being started."""
        self._killed = True

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask about all records, or the rest of those that earlier tries began."""
        return self._ask(context)

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Continue after a wait."""
        self._event = event
        return self._ask(context)  # only Airflow may call execute()

    def _ask(self, context: Context) -> dict[str, Any]:
        from airflow_provider_agentforce.batch.todo import LongWait  # noqa: PLC0415 - not at parse time
        from airflow_provider_agentforce.exceptions import BatchFailedError  # noqa: PLC0415
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415
        from airflow_provider_agentforce.operators._batch_page import BatchPage  # noqa: PLC0415

        page = self.page = BatchPage(self, context)
        page.write()
        with airflow_errors():
            try:
                manifest = self._run(self._job(context), page)
                page.add_results(manifest)
            except LongWait as wait:
                self.wait_without_slot(wait.seconds)
            except BatchFailedError as error:
                page.add_results(error.manifest)
                self.push_in_failure(context, "manifest", error.manifest)
                raise
        return self.update_outlet_events(context, manifest, nothing_changed=self.only_plans)

    def _run(self, job: Job, page: BatchPage) -> dict[str, Any]:
        if self.only_plans:
            return job.plan(killed=lambda: self._killed)
        from airflow_provider_agentforce.operators._batch_page import BatchWatcher  # noqa: PLC0415

        return job.run(killed=lambda: self._killed, watcher=BatchWatcher(page))

    def lineage_uris(self) -> tuple[list[str], list[str]]:
        """Return the file of the records, and the files of the results."""
        from airflow_provider_agentforce.batch.output import result_names  # noqa: PLC0415
        from airflow_provider_agentforce.operators._sharding import folder_of  # noqa: PLC0415

        inputs = [str(self.records)] if batch_arguments.names_a_file(self.records) else []
        if self.only_plans or self.result_path is None:
            return inputs, []
        folder = folder_of(path_of(self.result_path, "result_path"), self._parsed_shard())
        return inputs, [str(folder / name) for name in result_names(self.output_formats)]

    def _job(self, context: Context) -> Job:
        from airflow_provider_agentforce.batch.job import Job  # noqa: PLC0415
        from airflow_provider_agentforce.operators._sharding import folder_of, with_share  # noqa: PLC0415

        handover = self._take_over() if self.continues else None
        shard, given = self._parsed_shard(), self._records_with(context)
        client = self.open_client()
        if shard is not None:
            client = with_share(client, shard)
        agent_id = client.agent(self.agent_id)
        self.link_to(agent_id, context)
        task, folder = task_identity(context["ti"]), path_of(self.result_path, "result_path")
        folder = folder if handover else folder_of(folder, shard)
        identity = handover.identity if handover else _identity(task, self.agentforce_conn_id, self.soql)
        return Job(
            client,
            records=given,
            source_path=path_of(given, "records") if batch_arguments.names_a_file(given) else None,
            result_folder=folder,
            identity=identity,
            shard=shard,
            continues_as=" ".join(task.values()) if handover else None,
            begins=self._handover(identity, agent_id) if self.sample else None,
            compile_template=compiler(self.get_template_env(), context, "record"),
            resolve=partial(self._resolve, context) if self.resolves else None,
            check_folder=check_folder(folder, remote_executor(self), context),
            cycle=getattr(context["ti"], "max_tries", 0),
            reuse=None if self.reuse is None else folder_at(self.reuse, self.max_age),
            options=self._options(agent_id, shard),
        )

    def _parsed_shard(self) -> Shard | None:
        """Return the shard that this task asks, ``None`` if it asks all records.

        :raises AgentforceInputError: if there is no such shard, or the records come from a query.
        """
        from airflow_provider_agentforce.batch.shard import Shard  # noqa: PLC0415 - not at parse time

        if self.shard is None:
            return None
        if self.soql is not None:
            raise AgentforceInputError(
                "shard cannot be used with soql: each task would query on its own, and records that change "
                "between the queries would be missed. Query in a task before, with AgentforceHook.query, and "
                "give its output as records."
            )
        return Shard.read(self.shard)

    def _options(self, agent_id: str, shard: Shard | None) -> Options:
        from airflow_provider_agentforce.batch.options import Options  # noqa: PLC0415
        from airflow_provider_agentforce.client.models import SessionOptions  # noqa: PLC0415
        from airflow_provider_agentforce.operators._sharding import share_of  # noqa: PLC0415

        return Options(
            message=self.message_function or self.message,
            start=SessionOptions(
                agent_id, tz=self.tz, bypass_user=self.bypass_user, surface_type=self.surface_type
            ),
            key=self.key,
            variables=self.variables_function or self.variables,
            max_concurrency=share_of(self.max_concurrency, shard, "max_concurrency"),
            messages_per_session=self.messages_per_session,
            max_failures=self.max_failures,
            fail_on_partial_error=self.fail_on_partial_error,
            output_type=self.output_type,
            output_retries=self.output_retries,
            resend_unknown=self.resends,
            changes_allowed=self.on_change == "continue",
            # A query may find nothing, and the first task has checked the records of a continued batch.
            empty_allowed=self.soql is not None or self.continues,
            yields=self.deferrable,
            store_requests=self.store_requests,
            include_record=self.include_record,
            output_formats=self.output_formats,
            csv_bom=self.csv_bom,
            on_agent_change=self.on_agent_change,
            credits_per_message=self.credits_per_message,
            sample=self.sample,
            agreement_share=self.agreement_share,
            min_agreement=self.min_agreement,
        )

    def _take_over(self) -> Handover:
        """Take over the batch of the task that has asked a sample of it."""
        from airflow_provider_agentforce.batch.continuation import Continuation  # noqa: PLC0415
        from airflow_provider_agentforce.batch.storage import storage_of  # noqa: PLC0415 - not at parse time

        folder = continued_folder(self.continue_from)
        if self.result_path is not None and str(path_of(self.result_path, "result_path")) != str(folder):
            raise AgentforceInputError(
                f"continue_from: the results of the first task are in {folder}, and result_path is another "
                "folder. Leave it out."
            )
        self.result_path = str(folder)
        handover = Continuation.of(folder, storage_of).handover(STORED)
        take_over(self, handover)
        return handover

    def _handover(self, identity: dict[str, str], agent_id: str) -> Handover:
        from airflow_provider_agentforce.batch.continuation import Handover  # noqa: PLC0415 - not at parse time

        in_files = self.given_records is None and batch_arguments.names_a_file(self.records)
        return Handover(identity, arguments_of(self, agent_id, self.records if in_files else None))

    def _resolve(self, context: Context, unknown: UnknownRows) -> None:
        """Run the steps of ``on_unknown_delivery`` for all unknown records together."""
        from airflow_provider_agentforce.operators._resolving import TaskServices  # noqa: PLC0415 - not at parse time
        from airflow_provider_agentforce.operators._unknown_delivery import Resolver  # noqa: PLC0415

        self.log.warning(
            "It is not known whether the agent acted on %d records. The steps of on_unknown_delivery try to "
            "find out.",
            len(unknown.open()),
        )
        # The event belongs to the records that waited, which come first.
        event, self._event = self._event, None
        services = TaskServices(self, context, can_defer=can_ask(), event=event)
        resolver = Resolver(self.steps, unknown, services, self._shows(unknown))
        left = resolver.run()
        unknown.give_up(resolver.findings, resend=left == RESEND, refusal=resolver.refusal)

    def _shows(self, unknown: UnknownRows) -> Callable[[ResolverState], None]:
        """Return a function that shows the state of the steps on the page."""
        from airflow_provider_agentforce.operators._page import step_state  # noqa: PLC0415 - not at parse time

        def show(state: ResolverState) -> None:
            keys = [one_line(str(one.record_key), 80) for one in unknown.open().values()]
            found = {"records": len(keys), "keys": keys[:_SHOWN_KEYS], **step_state(state)}
            if self.page is not None:
                self.page.write(unknown=found if keys else None)

        return show

    def _records_with(self, context: Context) -> Any:
        """Return the records; a function is bound to the values of the context that it takes."""
        from airflow_provider_agentforce._compat import determine_kwargs  # noqa: PLC0415 - not at parse time

        if self.soql is not None:
            return partial(self._queried, self.soql)
        given = self.records if self.given_records is None else self.given_records
        if not callable(given):
            return given
        return partial(given, **determine_kwargs(given, [], context))

    def _queried(self, soql: str) -> Iterator[dict[str, Any]]:
        for record in self.open_client().records.query(soql):
            self.check_not_killed()
            yield record


def _identity(task: dict[str, str], connection: str, soql: str | None) -> dict[str, str]:
    return {
        **task,
        "connection": connection,
        # The stored records of another query must not be used.
        **({"soql": soql} if soql is not None else {}),
    }
