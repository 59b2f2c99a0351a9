"""Dags for tests/provider/test_dag_runs.py."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow.sdk import DAG, task
from pydantic import BaseModel

from airflow_provider_agentforce.operators import (
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
)

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)

with DAG("chain", start_date=BEGIN, schedule=None):
    start = StartSessionOperator(task_id="start")
    first = SendMessageOperator(task_id="first", session=start.output, text="one")
    second = SendMessageOperator(
        task_id="second",
        session_id=start.output["session_id"],
        sequence_id="{{ ti.xcom_pull('first')['sequence_id'] }}",
        text="two {{ run_id }}",
    )
    third = SendMessageOperator(task_id="third", session=second.output, text="three", stream=True)
    end = EndSessionOperator(task_id="end", session=start.output)
    start >> first >> second >> third >> end.as_teardown(setups=start)

with DAG("chain_that_fails", start_date=BEGIN, schedule=None):
    start = StartSessionOperator(task_id="start", retries=2)
    send = SendMessageOperator(task_id="send", session=start.output, text="please fail", retries=2)
    end = EndSessionOperator(task_id="end", session=start.output)
    start >> send >> end.as_teardown(setups=start)

with DAG("an_older_question", start_date=BEGIN, schedule=None):
    start = StartSessionOperator(task_id="start")
    ask = SendMessageOperator(task_id="ask", session=start.output, text="Please refund order 42.")
    # It fails with its answer, which has the number that counts.
    go_on = SendMessageOperator(task_id="go_on", session=ask.output, text="one", fail_on=("answered",))

    @task(trigger_rule="all_done")
    def between():
        pass

    reply = SendMessageOperator(task_id="reply", session=ask.output, reply=ask.output)
    start >> ask >> go_on >> between() >> reply

with DAG("conversation", start_date=BEGIN, schedule=None, params={"who": "Acme"}):
    talk = ConversationOperator(
        task_id="talk",
        messages=["one", {"text": "two {{ params.who }}", "variables": {"$Context.A": "{{ run_id }}"}}],
    )

    @task
    def use(answer, text):
        assert answer["text"] == text

    use(talk.output, talk.output["text"])

with DAG("function", start_date=BEGIN, schedule=None):
    ConversationOperator(
        task_id="talk", messages=lambda turns: f"message {len(turns) + 1}" if len(turns) < 3 else None
    )

with DAG("decorated", start_date=BEGIN, schedule=None, params={"who": "Acme", "agent": "Service_Agent"}):

    @task
    def found():
        return "{{ 7 * 7 }}"

    @task.agentforce(agent_id="{{ params.agent }}", variables={"$Context.A": "{{ params.who }}"})
    def talk(text, who, params=None, ti=None) -> dict:
        return [f"{ti.task_id} of {params['who']} and {who}: {text}", {"text": "{{ 1 + 1 }}"}]

    @task
    def use(answer, text):
        assert [turn["sequence_id"] for turn in answer["turns"]] == [1, 2]
        assert answer["text"] == text == "You said: {{ 1 + 1 }}"

    answer = talk(found(), who="{{ params.who }}")
    use(answer, answer["text"])

with DAG("decorated_and_mapped", start_date=BEGIN, schedule=None):

    @task
    def records():
        return ["one", "{{ 7 * 7 }}"]

    @task.agentforce
    def talk(record, greeting):
        return f"{greeting} {record}"

    @task
    def use(answers):
        assert len({answer["session_id"] for answer in answers}) == 2

    # The arguments of the call stay, the task is another one.
    use(talk.override(task_id="ask", stream=True).partial(greeting="hello").expand(record=records()))

with DAG("decorated_with_nothing", start_date=BEGIN, schedule=None):

    @task.agentforce(retries=2)
    def talk(ti=None):
        assert ti.try_number == 1, "a second try"

    talk()

with DAG("mapped", start_date=BEGIN, schedule=None):

    @task
    def records():
        return [["one"], ["two"], ["three"]]

    ConversationOperator.partial(task_id="talk").expand(messages=records())

with DAG("answer_with_a_template", start_date=BEGIN, schedule=None):
    start = StartSessionOperator(task_id="start")
    first = SendMessageOperator(task_id="first", session=start.output, text="say template")
    again = SendMessageOperator(task_id="again", session=first.output, text=first.output["text"])
    pulled = SendMessageOperator(
        task_id="pulled", session=again.output, text="{{ ti.xcom_pull('first', key='text') }}"
    )
    end = EndSessionOperator(task_id="end", session=start.output)
    start >> first >> again >> pulled >> end.as_teardown(setups=start)


class Order(BaseModel):
    order: str
    items: int


with DAG("structured", start_date=BEGIN, schedule=None):
    one = ConversationOperator(task_id="one", messages=["order 1 as JSON"], output_type=Order)
    several = ConversationOperator.partial(task_id="several", output_type=Order).expand(
        messages=[["order 2 as JSON"], ["order 3 as JSON"]]
    )

    @task
    def use_values(first, others):
        assert [value["order"] for value in (first, *others)] == ["1", "2", "3"]

    use_values(one.output["result"], several.output.map(lambda done: done["result"]))
