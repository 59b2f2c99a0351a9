"""The steps of the agent's planner in one turn. Pure.

The call is not documented, and may disappear. Source: https://github.com/forcedotcom/agents (path,
header, and the types of the steps).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from airflow_provider_agentforce.client import responses, validation
from airflow_provider_agentforce.client.answer_reader import JsonReader
from airflow_provider_agentforce.client.api_requests import ApiRequest, HttpCall
from airflow_provider_agentforce.client.delivery_policy import Operation
from airflow_provider_agentforce.client.models import Turn
from airflow_provider_agentforce.exceptions import AgentforceInputError

_PATH = "/einstein/ai-agent/v1.1/preview/sessions"
_MOST_ACTIONS = 50


@dataclass(frozen=True, kw_only=True)
class PlanRequest(ApiRequest):
    """``GET …/preview/sessions/{id}/plans/{plan id}``, which serves sessions of the Agent API, too."""

    operation = Operation.READ
    doing = "Reading the planner's steps"
    session_id: str
    plan_id: str

    def call(self, api_url: str) -> HttpCall:
        """Return the request."""
        url = f"{api_url}{_PATH}/{quote(self.session_id, safe='')}/plans/{quote(self.plan_id, safe='')}"
        return HttpCall("GET", url, {"Accept": "application/json", "x-client-name": "afdx"})

    def read(self, reader: JsonReader) -> dict[str, Any]:
        """Return the plan as received."""
        return responses.as_object(reader.value)


def request_for(turn: object) -> PlanRequest:
    """Return the request for the plan of a turn.

    :param turn: a :class:`.Turn` or its dict.
    :raises AgentforceInputError: it names no plan.
    """
    value = vars(turn) if isinstance(turn, Turn) else turn
    if not isinstance(value, Mapping) or not value.get("plan_id"):
        raise AgentforceInputError("turn has no plan_id: pass the output of a send, or one of its turns.")
    return PlanRequest(
        session_id=validation.path_id(value.get("session_id"), "turn.session_id"),
        plan_id=validation.path_id(value["plan_id"], "turn.plan_id"),
    )


def summary_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the subagent that the planner chose, ``None`` if it names none, and the actions that it took.

    :param plan: as received.
    """
    steps = plan.get("plan")
    taken = [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    topic = plan.get("topic")
    return {
        "subagent": topic if isinstance(topic, str) else None,
        "actions": [_action(step) for step in taken if step.get("type") == "FunctionStep"][:_MOST_ACTIONS],
    }


def _action(step: Mapping[str, Any]) -> dict[str, Any]:
    function = step.get("function")
    known = function if isinstance(function, dict) else {}
    latency = step.get("executionLatency")
    seconds = latency / 1000 if isinstance(latency, int | float) else None
    return {**{name: known.get(name) for name in ("name", "input", "output")}, "seconds": seconds}
