"""The content of a message to an agent: a text, or a decision about the agent's question. Pure.

Formats: https://developer.salesforce.com/docs/ai/agentforce/references/agent-api?meta=Summary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.json_values import as_decoded, storable
from airflow_provider_agentforce.client.models import Session, Turn
from airflow_provider_agentforce.exceptions import AgentforceInputError

_ITEM = ("type", "property", "value")
_REASONS = ("NoAgentAvailable", "Error")
_GIVE_ITEMS = 'Give reply=[{"type": …, "property": …, "value": …}] with a value for each.'


@dataclass(frozen=True)
class Reply:
    """Approves what the agent wants to do (``Confirm``), or provides what it asks for (``Inquire``).

    :param items: ``[{"type", "property", "value"}]``; ``None``: the items of the question itself.
    :param turn: the turn with the question, a :class:`.Turn` or its dict; ``None``: the session's last turn.
    """

    items: Sequence[Mapping[str, Any]] | None = None
    turn: Turn | Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Cancel:
    """Declines what the agent wants to do or asks for.

    :param turn: as for a :class:`Reply`.
    """

    turn: Turn | Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Transfer:
    """Reports the result of an escalation, which the API leaves to its client.

    :param failed: ``None`` if a person has taken over, otherwise ``NoAgentAvailable`` or ``Error``.
    :param description: why it failed.
    :raises AgentforceInputError: *failed* has any other value.
    """

    failed: str | None = None
    description: str | None = None

    def __post_init__(self) -> None:
        if self.failed not in (None, *_REASONS):
            raise validation.refusal(self.failed, "failed", f"must be {' or '.join(_REASONS)}, or None")
        if self.description is not None:
            validation.message_text(self.description, "description")


@dataclass(frozen=True)
class Message:
    """A checked message that is ready to be sent.

    :param type: ``Text``, ``Reply``, ``Cancel``, ``TransferSucceeded`` or ``TransferFailed``.
    :param content: the fields of its type, in the API's form; not shown, because they may be confidential.
    :param in_reply_to: id of the agent's message that it answers.
    :param variables: context variables that are set with it, in the API's form.
    """

    type: str
    content: dict[str, Any] = field(default_factory=dict, repr=False)
    in_reply_to: str | None = None
    variables: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @property
    def text(self) -> str | None:
        """The text, ``None`` for a message of another type."""
        return self.content.get("text")

    def body(self, sequence_id: int) -> dict[str, Any]:
        """Return the message in the API's form."""
        answers = {} if self.in_reply_to is None else {"inReplyToMessageId": self.in_reply_to}
        return {"sequenceId": sequence_id, "type": self.type, **self.content, **answers}

    @property
    def request(self) -> dict[str, Any]:
        """The value for :attr:`.Turn.request`: as it is sent, but every database can store it."""
        reply = self.content.get("reply")
        return {
            "type": self.type,
            "text": storable(self.text),
            "reply": reply and as_decoded(reply),
            "variables": as_decoded(self.variables) if self.variables else [],
        }

    def asked(self, known_as: str | None = None) -> dict[str, Any]:
        """Return the fields that identify the message in a journal.

        :param known_as: replaces its text.
        """
        text = known_as or self.text
        asked = {"text": text, "variables": self.variables, "in_reply_to": self.in_reply_to}
        return asked if self.type == "Text" else {**asked, "type": self.type, **self.content}


MessageLike = str | Reply | Cancel | Transfer | Message


def given_message(
    *, text: str | None, reply: Any, cancel: Any, transfer: Transfer | None, last: object = None
) -> MessageLike:
    """Return the argument that is given.

    :param reply: a :class:`Reply`, its items, ``True``, or the turn with the question.
    :param cancel: a :class:`Cancel`, ``True``, or the turn with the question.
    :param last: the session's last turn, or its dict, for a *reply* or *cancel* that names none.
    :raises AgentforceInputError: none is given, or more than one.
    """
    given = {"text": text, "reply": reply, "cancel": cancel or None, "transfer": transfer}
    name = validation.only_one_of(**given)
    readers: dict[str, Callable[[Any], MessageLike]] = {
        "reply": _reply,
        "cancel": _cancel,
        "transfer": _transfer,
    }
    only: MessageLike = readers[name](given[name]) if name in readers else given[name]
    if isinstance(only, Reply | Cancel) and only.turn is None:
        return replace(only, turn=_turn(last))
    return only


def _reply(given: Any) -> Reply:
    reply = given if isinstance(given, Reply) else None
    if reply is None:
        reply = Reply(turn=given) if _turn(given) else Reply(None if given is True else given)
    if reply.items is not None:
        _checked_items(reply.items)
    return reply


def _cancel(given: Any) -> Cancel:
    if isinstance(given, Cancel):
        return given
    if given is not True and not _turn(given):
        raise validation.refusal(given, "cancel", "must be True, or the turn with the question")
    return Cancel(turn=_turn(given))


def _transfer(given: Any) -> Transfer:
    if not isinstance(given, Transfer):
        raise validation.refusal(given, "transfer", "must be a Transfer")
    return given


def text_message(
    text: object, variables: list[dict[str, Any]] | None = None, *, field: str = "text"
) -> Message:
    """Return the message with a text.

    :param variables: already checked.
    :param field: the name of the text in an error.
    :raises AgentforceInputError: it is not a string, or is blank.
    """
    return Message("Text", {"text": validation.message_text(text, field)}, variables=variables or [])


def message_of(
    said: MessageLike,
    *,
    variables: Any = None,
    in_reply_to: str | None = None,
    session: Session | None = None,
    last: object = None,
) -> Message:
    """Return *said* as a message. A :class:`Message` is already checked and has its variables.

    :param in_reply_to: id of the agent's message that a text answers.
    :param session: the session of the message; a question of another session or an older turn is refused.
    :param last: the session's last turn, or its dict.
    :raises AgentforceInputError: it is not a message, or does not fit the agent's question.
    """
    if isinstance(said, Message):
        return said
    given = validation.variables(variables)
    if not isinstance(said, Reply | Cancel | Transfer):
        answered = None if in_reply_to is None else validation.path_id(in_reply_to, "in_reply_to")
        return Message("Text", {"text": validation.message_text(said)}, answered, given)
    kind = type(said).__name__.lower()
    if in_reply_to is not None:
        raise AgentforceInputError(f"in_reply_to is only for a text; a {kind} finds the question by itself.")
    if isinstance(said, Transfer):
        return _transfer_message(said, given)
    turn = _turn(said.turn)
    if said.turn is not None and turn is None:
        raise AgentforceInputError(
            f"{kind} is given a turn without session_id or sequence_id. Give it as its task returned it."
        )
    question = _question_of(turn or _turn(last), session, kind)
    if isinstance(said, Cancel):
        return Message("Cancel", {}, question["id"], given)
    return Message("Reply", {"reply": _items(said.items, question)}, question["id"], given)


def _transfer_message(said: Transfer, variables: list[dict[str, Any]]) -> Message:
    why = {} if said.description is None else {"description": said.description}
    content = {} if said.failed is None else {"reason": said.failed, **why}
    return Message("TransferFailed" if content else "TransferSucceeded", content, variables=variables)


def reply_item(item: object, field: str) -> dict[str, Any]:
    """Return an item of a reply in the API's form.

    :param field: the name of the item in an error.
    :raises AgentforceInputError: it has fields other than ``type``, ``property`` and ``value``, or values
        that JSON cannot represent.
    """
    if not isinstance(item, Mapping) or set(item) != set(_ITEM):
        raise validation.refusal(item, field, "must have type, property and value, and nothing else")
    return validation.json_object(item, field)


def _turn(value: object) -> Turn | None:
    if isinstance(value, Mapping) and "messages" in value:
        try:
            return Turn.from_dict(value)
        except TypeError:
            return None
    return value if isinstance(value, Turn) else None


def _question_of(turn: Turn | None, session: Session | None, kind: str) -> dict[str, Any]:
    if turn is None:
        raise AgentforceInputError(f"{kind} needs the turn with the question: pass {kind}=turn.")
    if session is not None and (turn.session_id, turn.sequence_id) != (
        session.session_id,
        session.sequence_id,
    ):
        raise AgentforceInputError(
            f"{kind} answers message {turn.sequence_id} of session {turn.session_id}, but the last one is "
            f"message {session.sequence_id} of session {session.session_id}."
        )
    question = turn.question
    if question is None:
        raise AgentforceInputError(
            f"{kind} has nothing to answer: the outcome of the last turn is {turn.outcome}, and it has no "
            "Confirm or Inquire. Send a text."
        )
    return question


def _items(given: object, question: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the items of a reply.

    :param given: the caller's items; ``None``: those of the question.
    """
    asked = asked_in(question)
    if given is None:
        if question["type"] == "Inquire":
            _check_proposed(asked)
        return asked
    values = asked if question["type"] == "Confirm" else []
    items = [_fitting(item, number, asked, values) for number, item in enumerate(_checked_items(given))]
    for number, item in enumerate(items):
        if asked and _like(item, items[:number]) >= _like(item, asked):
            raise AgentforceInputError(
                f"{_item_name(number)} is for the same as an earlier item of the reply."
            )
    return items


def _check_proposed(asked: list[dict[str, Any]]) -> None:
    if not all(_is_value(item["value"]) for item in asked):
        names = ", ".join(str(item["property"]) for item in asked) or "nothing by name"
        raise AgentforceInputError(f"The agent asks for {names} and proposes no value. {_GIVE_ITEMS}")


def _like(item: Mapping[str, Any], items: Iterable[Mapping[str, Any]]) -> int:
    """Return how many of *items* are for the same subject as *item*."""
    return sum((one["type"], one["property"]) == (item["type"], item["property"]) for one in items)


def _checked_items(given: object) -> list[dict[str, Any]]:
    """Return the items of a reply in the API's form."""
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence) or not given:
        raise validation.refusal(given, "reply", "must be a list of items with type, property and value")
    return [reply_item(item, _item_name(number)) for number, item in enumerate(given)]


def _item_name(number: int) -> str:
    return f"reply[{number}]"


def asked_in(question: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the subjects of a ``Confirm`` or ``Inquire`` as the items of a reply."""
    if question["type"] == "Confirm":
        found = _dicts(question.get("confirm"))
        return [{name: item.get(name) for name in _ITEM} for item in found]
    return [
        {"type": item.get("targetType"), "property": item.get("targetProperty"), "value": item.get("data")}
        for item in _dicts(question.get("collect"))
    ]


def _fitting(
    checked: dict[str, Any], number: int, asked: list[dict[str, Any]], values: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return an item of a reply if it fits what is *asked*, and *values*, whose type it must keep."""
    field_name = _item_name(number)
    places = [(one["type"], one["property"]) for one in asked]
    if asked and (checked["type"], checked["property"]) not in places:
        known = ", ".join(f"{kind}/{name}" for kind, name in places)
        place = f"{checked['type']}/{checked['property']}"
        raise AgentforceInputError(f"{field_name} is for {place}, but the agent asks about {known}.")
    for one in values:
        same_place = (one["type"], one["property"]) == (checked["type"], checked["property"])
        wanted = _json_type(one["value"])
        if same_place and one["value"] is not None and _json_type(checked["value"]) != wanted:
            raise validation.refusal(checked["value"], f"{field_name}.value", f"must be {wanted}")
    return checked


def _json_type(value: object) -> str:
    """Return the type of a JSON value, in words."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    kinds = {str: "a string", int: "a number", float: "a number", list: "a list"}
    return next((words for kind, words in kinds.items() if isinstance(value, kind)), "an object")


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _is_value(value: object) -> bool:
    return value is not None and not isinstance(value, list)
