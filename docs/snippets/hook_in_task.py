"""The hook in a task of one's own."""

from __future__ import annotations

from datetime import datetime, timezone

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

with DAG("docs_hook", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None):
    # [START hook]
    @task
    def ask_and_rate(order: str) -> dict:
        """Ask about an order and rate the answer."""
        from airflow_provider_agentforce.hooks.agentforce import AgentforceHook  # noqa: PLC0415

        hook = AgentforceHook(agentforce_conn_id="agentforce_default")
        with hook.conversation(variables={"$Context.EndUserLanguage": "en_US"}) as chat:
            turn = chat.send(f"What is the status of order {order}?")
            if turn.outcome == "answered" and turn.feedback_id:
                hook.submit_feedback(turn, turn.feedback_id, "GOOD", text="clear")
        return {"order": order, "status": turn.text}

    # [END hook]

    # [START structured]
    @task(retries=0)
    def items_of(order: str) -> int:
        """Ask for data, and once more if what comes does not fit."""
        from airflow_provider_agentforce.exceptions import InvalidOutputError  # noqa: PLC0415
        from airflow_provider_agentforce.hooks.agentforce import AgentforceHook  # noqa: PLC0415
        from airflow_provider_agentforce.structured import OutputType  # noqa: PLC0415

        schema = {"type": "object", "properties": {"items": {"type": "integer"}}, "required": ["items"]}
        output = OutputType(schema)
        with AgentforceHook().conversation() as chat:
            turn = chat.send(f"Give me order {order} as JSON.")
            try:
                return output.read(turn)["items"]
            except InvalidOutputError as error:
                return output.read(chat.send(output.question(error)))["items"]

    # [END structured]

    # [START unknown]
    @task
    def refund(order: str) -> dict:
        """Refund an order; leave an unknown delivery to a person."""
        from airflow_provider_agentforce.exceptions import DeliveryUnknownError  # noqa: PLC0415
        from airflow_provider_agentforce.hooks.agentforce import AgentforceHook  # noqa: PLC0415

        with AgentforceHook().conversation() as chat:
            session_key = chat.session.external_session_key
            try:
                return {"order": order, "answer": chat.send(f"Please refund order {order}.").text}
            except DeliveryUnknownError as error:
                return {"order": order, "look_at": session_key, "why": str(error)}

    # [END unknown]

    ask_and_rate("4711")
    refund("4711")
    items_of("4711")

if __name__ == "__main__":
    print(ask_and_rate.function("4711"))
    print(refund.function("4711"))
    print(items_of.function("4711"))
