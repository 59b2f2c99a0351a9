"""The planner's trace of one turn, as the preview API returns it for sessions of the Agent API.

It is not documented. Source: https://github.com/forcedotcom/agents (path, and the types of the steps), and
traces in public repositories: names of actions come without the suffix of their id.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_agentforce.emulator.agent_api import authorize
from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.exchange import OrgRequest, OrgResponse, json_response
from airflow_provider_agentforce.emulator.models import TurnRecord

_OUTPUT = "copilotActionOutput/"
# The topic of an agent that has one.
_TOPIC = "DefaultTopic"
LATENCY_MS = 412
_HARMS = ("toxicity", "hate", "identity", "violence", "physical", "sexual", "profanity", "biased")


async def plan(request: OrgRequest) -> OrgResponse:
    """Answer ``GET /sessions/{session_id}/plans/{plan_id}``; the session may have ended."""
    authorize(request)
    session_id, plan_id = request.params["session_id"], request.params["plan_id"]
    session = request.org.sessions.get(session_id)
    turns = session.turns if session is not None else []
    turn = next((turn for turn in turns if plan_id in [one.get("planId") for one in turn.messages]), None)
    if turn is None:
        raise ApiError("not_found")
    await request.wait_while_held()
    return json_response(
        {
            "type": "PlanSuccessResponse",
            "planId": plan_id,
            "sessionId": session_id,
            "intent": _TOPIC,
            "topic": _TOPIC,
            "plan": _steps(turn),
        }
    )


def _steps(turn: TurnRecord) -> list[dict[str, Any]]:
    chosen = {"topic": _TOPIC, "description": _TOPIC, "job": "", "instructions": [], "availableFunctions": []}
    return [
        {"type": "UserInputStep", "message": turn.text},
        {"type": "UpdateTopicStep", **chosen},
        *(_function(name, value, int(turn.at * 1000)) for name, value in action_calls(turn)),
        {"type": "ReasoningStep", "reason": "GROUNDED: The response follows from the instructions."},
        *(_response(message) for message in turn.messages if message.get("message")),
    ]


def action_calls(turn: TurnRecord) -> list[tuple[str, Any]]:
    """Return the actions that the agent ran for a turn: the name of each, and its result."""
    results = [item for message in turn.messages for item in message.get("result") or []]
    calls = [item for item in results if str(item.get("type")).startswith(_OUTPUT)]
    return [(item["type"].removeprefix(_OUTPUT).rpartition("_")[0], item.get("value")) for item in calls]


def _function(name: str, value: Any, ended: int) -> dict[str, Any]:
    return {
        "type": "FunctionStep",
        "function": {"name": name, "input": {}, "output": value},
        "executionLatency": LATENCY_MS,
        "startExecutionTime": ended - LATENCY_MS,
        "endExecutionTime": ended,
    }


def _response(message: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "PlannerResponseStep",
        "message": message["message"],
        "responseType": message["type"],
        "isContentSafe": message.get("isContentSafe", True),
        "safetyScore": {"safety_score": 0.99, "category_scores": dict.fromkeys(_HARMS, 0.0)},
    }
