"""Dags shown in the docs: messages as a function, variables, batches, safe hand-over, choosing retries."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow_provider_agentforce.client import Reply, Turn
from airflow_provider_agentforce.operators import (
    AnswerStore,
    Budget,
    ConversationBatchOperator,
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
    merge_shards,
    shards,
)

try:
    from airflow.providers.standard.operators.bash import BashOperator
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task
    from airflow.operators.bash import BashOperator

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)

with DAG("docs_function", start_date=BEGIN, schedule=None):
    # [START function]
    def following(turns: list[Turn]) -> str | Reply | None:
        """Ask for the refund, and confirm it if the agent wants that."""
        if not turns:
            return "Please refund order 4711."
        if len(turns) == 1 and turns[0].outcome == "needs_confirmation":
            return Reply()
        return None

    refund = ConversationOperator(task_id="refund", messages=following)
    # [END function]

with DAG("docs_variables", start_date=BEGIN, schedule=None):
    # [START variables]
    ask = ConversationOperator(
        task_id="ask",
        variables={"$Context.EndUserLanguage": "de", "$Context.Visits": 3},
        messages=[
            "What is the status of order 4711?",
            {
                "text": "And now in French, please.",
                "variables": [{"name": "$Context.EndUserLanguage", "type": "Text", "value": "fr"}],
            },
        ],
    )
    # [END variables]

with DAG("docs_batch", start_date=BEGIN, schedule=None):
    # [START batch_on_s3]
    industries = ConversationBatchOperator(
        task_id="industries",
        records="s3://aws_default@crm/accounts/{{ ds }}.jsonl",
        key="id",
        message="Which industry is {{ record.name }} in? Answer as JSON with the fields industry and reason.",
        result_path="s3://aws_default@crm/industries/{{ run_id }}",
        output_type={
            "type": "object",
            "properties": {"industry": {"type": "string"}, "reason": {"type": "string"}},
            "required": ["industry"],
        },
        on_unknown_delivery="resend",  # asking twice does no harm
        max_failures=0.05,
        messages_per_session=20,
        deferrable=True,
        retries=3,
    )
    # [END batch_on_s3]

    # [START batch_function]
    def questions(record: dict) -> list[str]:
        """Ask about every contract of an account in one conversation."""
        return [f"When does contract {contract} of {record['name']} end?" for contract in record["contracts"]]

    contracts = ConversationBatchOperator(
        task_id="contracts",
        records=[{"name": "Acme", "contracts": ["C-1", "C-2"]}, {"name": "Globex", "contracts": ["C-7"]}],
        message=questions,
        variables={"Account": "{{ record.name }}"},
        result_path="file:///data/contracts/{{ run_id }}",
    )
    # [END batch_function]

    # [START shards]
    batch = ConversationBatchOperator.partial(
        task_id="industries_of_all",
        records="s3://aws_default@crm/accounts/{{ ds }}.csv",
        message="In which industry is the account {{ record.Name }}?",
        key="Id",
        result_path="s3://aws_default@crm/industries_of_all/{{ run_id }}",
    ).expand(shard=shards(5))

    @task
    def whole(manifests: list[dict]) -> dict:
        """Make one result of the results of all shards."""
        return merge_shards(manifests)

    whole(batch.output)
    # [END shards]

    # [START budget]
    a_part_a_day = ConversationBatchOperator(
        task_id="a_part_a_day",
        records="s3://aws_default@crm/accounts/all.csv",
        message="In which industry is the account {{ record.Name }}?",
        key="Id",
        result_path="s3://aws_default@crm/a_part_a_day/{{ run_id }}",
        budget=Budget("messages", per_day=5000, at_limit="wait"),
        retries=3,
    )
    # [END budget]

    # [START batch_dry_run]
    plan = ConversationBatchOperator(
        task_id="plan",
        records="s3://aws_default@crm/accounts/*.parquet",
        key="id",
        message="Which industry is {{ record.name }} in?",
        result_path="s3://aws_default@crm/plans/{{ run_id }}",
        dry_run=True,
        credits_per_message=20,
    )
    # [END batch_dry_run]

with DAG("docs_reuse", start_date=BEGIN, schedule=None):
    # [START batch_reuse]
    answers = AnswerStore("s3://aws_default@crm/answers", max_age=timedelta(days=30))

    ask = ConversationBatchOperator(
        task_id="ask",
        records="s3://aws_default@crm/accounts/*.parquet",
        key="id",
        message="Which industry is {{ record.name }} in?",
        result_path="s3://aws_default@crm/industries/{{ run_id }}",
        reuse=answers,
    )

    @task
    def prune() -> int:
        """Remove the answers that are older than 30 days."""
        return answers.prune()

    # [END batch_reuse]
    ask >> prune()

with DAG("docs_hand_over", start_date=BEGIN, schedule=None):
    # [START hand_over]
    ask = ConversationOperator(task_id="ask", messages=["Give me a summary of the pipeline."])

    # The shell and the database get the answer as a value, never as a part of the command or the statement.
    save = BashOperator(
        task_id="save",
        bash_command='printf "%s" "$ANSWER" > "$TARGET"',
        env={"ANSWER": ask.output["text"], "TARGET": "/data/summary.txt"},
    )
    insert = SQLExecuteQueryOperator(
        task_id="insert",
        conn_id="warehouse",
        sql="INSERT INTO summaries (run_id, answer) VALUES (%(run_id)s, %(answer)s)",
        parameters={"run_id": "{{ run_id }}", "answer": ask.output["text"]},
    )
    # [END hand_over]

with DAG("docs_retries", start_date=BEGIN, schedule=None):
    # [START retries]
    start = StartSessionOperator(task_id="start", retries=2)
    read = SendMessageOperator(
        task_id="read",
        session=start.output,
        text="How many open cases do we have?",
        on_unknown_delivery="resend",  # asking twice does no harm
        retries=2,
        retry_delay=timedelta(minutes=2),
    )
    change = SendMessageOperator(
        task_id="change",
        session=read.output,
        text="Please refund order 4711.",
        retries=2,  # it is not sent twice; below Airflow 3.3: 0
    )
    end = EndSessionOperator(task_id="end", session=start.output, retries=2)

    start >> read >> change >> end.as_teardown(setups=start)
    # [END retries]
