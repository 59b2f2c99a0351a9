"""What a person decides about the agent's question reaches the agent, or is refused before it is sent."""

import pytest

from airflow_provider_agentforce.client import Cancel, Reply, Session, Transfer, Turn
from airflow_provider_agentforce.client.messages import Message, given_message, message_of
from airflow_provider_agentforce.client.open_session import OpenSession
from airflow_provider_agentforce.exceptions import AgentforceInputError

ITEM = {"type": "copilotActionInput/Refund", "property": "amount", "value": 12}
CONFIRM = {"type": "Confirm", "id": "c1", "confirm": [{**ITEM, "label": "Amount"}]}
INQUIRE = {
    "type": "Inquire",
    "id": "i1",
    "collect": [{"targetType": "order", "targetProperty": "number", "data": None}],
}
FILLED = {**INQUIRE, "collect": [{"targetType": "order", "targetProperty": "number", "data": 7}]}
NUMBER = {"type": "order", "property": "number", "value": 9}


def turn(*messages, number=3):
    return Turn("s", number, None, "", "needs_confirmation", messages=list(messages))


LAST = Session("s", 3)
ANSWERS = {
    "approve": (Reply(), CONFIRM, ("Reply", {"reply": [ITEM]}, "c1")),
    "approve other values": (
        Reply([{**ITEM, "value": 5}]),
        CONFIRM,
        ("Reply", {"reply": [{**ITEM, "value": 5}]}, "c1"),
    ),
    "decline": (Cancel(), CONFIRM, ("Cancel", {}, "c1")),
    "fill": (Reply([NUMBER]), INQUIRE, ("Reply", {"reply": [NUMBER]}, "i1")),
    "fill with what is proposed": (Reply(), FILLED, ("Reply", {"reply": [{**NUMBER, "value": 7}]}, "i1")),
    "cancel an Inquire": (Cancel(), INQUIRE, ("Cancel", {}, "i1")),
    "handed over": (Transfer(), INQUIRE, ("TransferSucceeded", {}, None)),
    "not handed over": (
        Transfer("NoAgentAvailable", "It is Sunday."),
        INQUIRE,
        ("TransferFailed", {"reason": "NoAgentAvailable", "description": "It is Sunday."}, None),
    ),
}
REFUSED = {
    "no turn": (Reply(), None, "reply needs the turn with the question"),
    "nothing asked": (Reply(), turn({"type": "Inform", "id": "m"}), "has no Confirm or Inquire"),
    "session ended": (Cancel(), turn(CONFIRM, {"type": "SessionEnded"}), "cancel has nothing to answer"),
    "question without an id": (Reply(), turn({**CONFIRM, "id": ""}), "nothing to answer"),
    "older turn": (Reply(turn=turn(CONFIRM, number=2)), None, "answers message 2 of session s, but the last"),
    "no proposal": (Reply(), turn(INQUIRE), r"asks for number and proposes no value.*Give reply=\["),
    "unknown property": (
        Reply([{**ITEM, "property": "sum"}]),
        turn(CONFIRM),
        r"reply\[0\] is for copilotActionInput/Refund/sum, but the agent asks about \S+/amount",
    ),
    "unknown type": (Reply([{**ITEM, "type": "x"}]), turn(CONFIRM), r"reply\[0\] is for x/amount"),
    "another type of value": (
        Reply([{**ITEM, "value": "12"}]),
        turn(CONFIRM),
        r"reply\[0\].value must be a number, but is '12'",
    ),
    "a switch for a number": (Reply([{**ITEM, "value": True}]), turn(CONFIRM), "must be a number"),
    "no value": (Reply([{**ITEM, "value": None}]), turn(CONFIRM), "must be a number"),
    "turn without ids": (
        Reply(turn={"messages": [CONFIRM], "outcome": "needs_confirmation"}),
        turn(CONFIRM),
        "reply is given a turn without session_id",
    ),
    "no items": (Reply([]), turn(CONFIRM), "reply must be a list of items.*but is an empty list"),
    "an item twice": (Reply([ITEM, {**ITEM, "value": 5}]), turn(CONFIRM), r"reply\[1\] is for the same as"),
    "one item": (Reply(ITEM), turn(CONFIRM), "reply must be a list of items"),
    "text": (Reply("yes"), turn(CONFIRM), "reply must be a list of items"),
    "half an item": (Reply([{"property": "amount"}]), turn(CONFIRM), r"reply\[0\] must have type, property"),
    "no JSON": (Reply([{**ITEM, "value": {1}}]), turn(CONFIRM), r"reply\[0\] must contain only JSON values"),
    "NaN": (
        Reply([{**ITEM, "value": float("nan")}]),
        turn(CONFIRM),
        r"reply\[0\] must contain only JSON values",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("as_dict", [False, True], ids=["turn", "its dict"])
def test_message_fits_the_question(name, as_dict):
    said, question, expected = ANSWERS[name]
    last = turn({"type": "Inform", "message": "Well."}, question)
    message = message_of(said, session=LAST, last=last.to_dict() if as_dict else last)
    assert (message.type, message.content, message.in_reply_to) == expected


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name):
    said, last, words = REFUSED[name]
    with pytest.raises(AgentforceInputError, match=words):
        message_of(said, session=LAST, last=last)


@pytest.mark.parametrize(
    "given", [{}, {"text": "a", "cancel": True}, {"reply": [ITEM], "transfer": Transfer()}, {"cancel": False}]
)
def test_exactly_one_is_said(given):
    with pytest.raises(AgentforceInputError, match="exactly one of text, reply, cancel and transfer"):
        given_message(**{"text": None, "reply": None, "cancel": None, "transfer": None, **given})


def test_in_reply_to_is_for_texts():
    with pytest.raises(AgentforceInputError, match="a cancel finds the question by itself"):
        message_of(Cancel(), in_reply_to="m1", session=LAST, last=turn(CONFIRM))
    assert message_of("yes", in_reply_to="m1") == Message("Text", {"text": "yes"}, "m1")


def test_what_was_asked_can_be_stored_whatever_was_sent(org, client):
    # PostgreSQL refuses NUL in an XCom, and msgpack a number of more than 64 bits: after the agent has acted.
    text, variables = "a\0b", {"\0": 10**30}
    asked = client.send_message(client.start_session(), text, variables=variables).request
    assert asked["text"] == "a\ufffdb"
    assert asked["variables"] == [{"name": "\ufffd", "type": "Number", "value": str(10**30)}]
    assert org.requests[-1].body["message"]["text"] == text
    reply = message_of(Reply([{**ITEM, "value": 10**30}]), session=LAST, last=turn(CONFIRM))
    assert reply.request["reply"] == [{**ITEM, "value": str(10**30)}]


def test_reason_of_a_failed_transfer_is_one_of_two():
    with pytest.raises(AgentforceInputError, match="failed must be NoAgentAvailable or Error, or None"):
        Transfer("lunch")


@pytest.mark.parametrize(("said", "acted"), [(Reply(), 1), (Cancel(), 0), ("well, hm", 0)])
@pytest.mark.parametrize("stream", [False, True])
def test_agent_acts_only_when_it_is_approved(org, client, said, acted, stream):
    session = client.start_session()
    asked = client.send_message(session, "refund order 7", stream=stream)
    assert asked.outcome == "needs_confirmation"
    answered = client.send_message(asked, said, stream=stream)
    assert (answered.sequence_id, answered.outcome) == (2, "answered")
    assert len(answered.results) == acted
    assert answered.request["type"] == (type(said).__name__ if acted or isinstance(said, Cancel) else "Text")
    client.end_session(answered)


def test_conversation_knows_its_last_question(org, client):
    with client.conversation() as chat:
        with pytest.raises(AgentforceInputError, match="reply needs the turn"):
            chat.send(Reply())
        asked = chat.send("refund order 7")
        done = chat.send(Reply())
        assert done.request["reply"] == [
            {name: item[name] for name in ("type", "property", "value")} for item in asked.question["confirm"]
        ]
        with pytest.raises(AgentforceInputError, match="nothing to answer"):
            chat.send(Reply())
    assert isinstance(chat, OpenSession)
    assert [len(session.turns) for session in org.sessions.values()] == [2]
