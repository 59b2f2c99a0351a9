"""Request bodies, as strict as the documents allow: required, unknown and malformed fields are refused.

Source: the request schemas of the Agent API reference
(https://developer.salesforce.com/docs/ai/agentforce/references/agent-api?meta=Summary).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from airflow_provider_agentforce.emulator.errors import ApiError

# `value` may be a text for every type: the base schema says so, and clients send it. `Id` is not an official
# type, but public samples use it.
_VALUES: dict[str, tuple[type, ...]] = {
    "Text": (),
    "Id": (),
    "Date": (),
    "DateTime": (),
    "Number": (int, float),
    "Money": (int, float),
    "Boolean": (bool,),
    "Object": (dict,),
    "Json": (dict, list),
    "Ref": (dict,),
    "List": (list,),
}
# The documents have a text of their own for what is wrong with these fields.
_DOCUMENTED = {"sequenceId": "invalid_sequence_id", "endpoint": "bad_endpoint"}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


def _fitting(variable: Variable) -> Variable:
    kind, value = variable.type, variable.value
    if kind not in _VALUES:
        raise ValueError(f"{kind} is not a type of variable: one of {', '.join(_VALUES)}")
    boolean = isinstance(value, bool)
    if value is not None and (boolean != (kind == "Boolean") or not isinstance(value, (str, *_VALUES[kind]))):
        raise ValueError(f"the value of the variable {variable.name} is not a {kind}")
    return variable


class Variable(_Body):
    """A variable as it is sent at a start or with a message."""

    name: Annotated[str, Field(min_length=1)]
    type: str
    value: Any


Variables = list[Annotated[Variable, AfterValidator(_fitting)]] | None


def values_of(variables: Variables) -> dict[str, Any]:
    """Return the values of ``variables`` by their names."""
    return {variable.name: variable.value for variable in variables or []}


class _InstanceConfig(_Body):
    endpoint: Annotated[str, Field(pattern=r"^https?://\S+$")]


class _StreamingCapabilities(_Body):
    chunk_types: list[str] = []


def _boolean(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


class StartBody(_Body):
    """The body of a session start."""

    external_session_key: Annotated[str, Field(min_length=1)]
    instance_config: _InstanceConfig
    tz: str | None = None
    variables: Variables = None
    feature_support: Literal["Sync", "Streaming"] | None = None
    streaming_capabilities: _StreamingCapabilities | None = None
    bypass_user: Annotated[bool | None, BeforeValidator(_boolean)] = None
    surface_config: Any = None


def _sequence_number(value: Any) -> Any:
    """Return the number; clients are known to send it as a text too."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


class _Message(_Body):
    sequence_id: Annotated[int | float, BeforeValidator(_sequence_number)]
    in_reply_to_message_id: str | None = None


class _Text(_Message):
    type: Literal["Text"]
    text: str


class _ReplyItem(_Body):
    type: Any = None
    property: Any = None
    value: Any = None


class _Reply(_Message):
    type: Literal["Reply"]
    reply: list[_ReplyItem]


class _Bare(_Message):
    type: Literal["Cancel", "TransferSucceeded"]


class _TransferFailed(_Message):
    type: Literal["TransferFailed"]
    reason: Literal["NoAgentAvailable", "Error"]
    description: str | None = None


class _PlanTemplate(_Message):
    type: Literal["PlanTemplate"]
    details: dict[str, Any]


class SendBody(_Body):
    """The body of a message."""

    message: Annotated[_Text | _Reply | _Bare | _TransferFailed | _PlanTemplate, Field(discriminator="type")]
    variables: Variables = None


class FeedbackBody(_Body):
    """The body of a feedback."""

    feedback_id: str
    feedback: Literal["GOOD", "BAD"]
    text: str | None = None
    details: Annotated[dict[str, Any], Field(max_length=10)] | None = None


_AnyBody = TypeVar("_AnyBody", bound=_Body)


def parse(kind: type[_AnyBody], body: dict[str, Any]) -> _AnyBody:
    """Return ``body`` as a value of ``kind``.

    :raises ApiError: 400, with the documented text where there is one.
    """
    if "sequenceId" in body and body.get("message") is None:
        # Beside the message is the commonest mistake; the server names the one that is missing inside.
        raise ApiError("missing_sequence_id")
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise _refusal(error.errors()[0]) from None


def _refusal(problem: ErrorDetails) -> ApiError:
    place = [str(part) for part in problem["loc"]]
    documented = next((part for part in place if part in _DOCUMENTED), None)
    field = "type" if problem["type"] == "union_tag_not_found" else documented or place[-1]
    if problem["type"] == "extra_forbidden":
        return ApiError("unrecognized_field", field=field)
    if problem["type"] in ("missing", "union_tag_not_found") or problem["input"] is None:
        return ApiError("missing_property", field=field)
    name = _DOCUMENTED[documented] if documented else "bad_request"
    return ApiError(name, detail=f"{'.'.join(place)}: {problem['msg']}")
