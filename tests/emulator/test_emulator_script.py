import json

import pytest
from emulator_caller import assert_refused

from airflow_provider_agentforce.emulator import Emulator, ScriptError

SCRIPT = """
greeting: "Hello from YAML."
agents:
  - developer_name: Order_Agent
    label: Orders
answers:
  - match: "(?i)order (?P<number>\\\\d+)"
    text: "Order {{ number }} has shipped. You said: {{ text }}"
  - match: "who am i"
    text: "{{ variables['name'] }} in turn {{ turn }}, number {{ sequence_id }}, {{ session_id }}"
  - match: "(a+) (b+)"
    text: "{{ groups[1] }}"
  - match: "refund"
    type: Confirm
    text: "Refund {{ text }}?"
    confirm: [{type: t, property: p, value: {amount: "{{ text }}"}}]
  - match: "raw"
    messages:
      - {type: Inform, message: "no ids for {{ text }}"}
      - {type: LightningChunk, value: {a: 1}}
  - match: "slow"
    text: "at last"
    latency: 0.05
  - match: "unsafe"
    text: "hm"
    isContentSafe: false
    feedbackId: ""
  - text: "fallback"
"""


@pytest.fixture
def write(tmp_path):
    def write_file(name, content):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path

    return write_file


@pytest.fixture
def ask(make_caller, write):
    caller = make_caller(script=str(write("agent.yaml", SCRIPT)))
    session = caller.open(variables=[{"name": "name", "type": "Text", "value": "Ada"}])

    def ask_agent(text):
        return caller.send(session, text).json()["messages"]

    ask_agent.caller, ask_agent.session = caller, session
    return ask_agent


def test_half_of_a_surrogate_pair_goes_there_and_back(ask):
    caller, session = ask.caller, ask.session
    (message,) = ask("order 7 \ud83d")
    assert message["message"] == "Order 7 has shipped. You said: order 7 \ud83d"
    events = caller.stream(session, "order 7 \ud83d")
    assert "\\ud83d" in json.dumps(events)
    assert caller.call("GET", "/emulator/sessions").json()


def test_yaml_gives_greeting_and_agents(ask):
    org = ask.caller.org
    assert [agent.label for agent in org.agents] == ["Orders"]
    assert ask.caller.start().json()["messages"][0]["message"] == "Hello from YAML."


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Where is ORDER 7?", "Order 7 has shipped. You said: Where is ORDER 7?"),
        ("aa bb", "bb"),
        ("refund it", "Refund refund it?"),
        ("anything else", "fallback"),
        ("order {{ 7 * 7 }}", "fallback"),
    ],
)
def test_first_match_answers(ask, text, answer):
    assert ask(text)[0]["message"] == answer


def test_template_knows_variables_and_turn(ask):
    ask("x")
    assert ask("who am i")[0]["message"] == f"Ada in turn 2, number 1, {ask.session}"


def test_types_take_fields_of_their_own(ask):
    [confirm] = ask("refund 5")
    assert confirm["type"] == "Confirm"
    assert confirm["confirm"] == [{"type": "t", "property": "p", "value": {"amount": "refund 5"}}]
    [inform] = ask("unsafe")
    assert (inform["isContentSafe"], inform["feedbackId"]) == (False, "")


def test_raw_messages_are_sent_as_written(ask):
    assert ask("raw") == [
        {"type": "Inform", "message": "no ids for raw"},
        {"type": "LightningChunk", "value": {"a": 1}},
    ]


def test_a_script_sets_its_own_latency(ask):
    answer = ask.caller.send(ask.session, "slow")
    assert answer.elapsed.total_seconds() >= 0.05


def test_latency_of_the_emulator_holds_where_the_script_says_nothing(make_caller):
    script = {"answers": [{"match": "quick", "text": "x", "latency": 0}, {"text": "y"}]}
    caller = make_caller(latency=0.1, script=script)
    assert caller.send(caller.open(), "other").elapsed.total_seconds() >= 0.1
    caller = make_caller(latency=3600, script=script)
    assert caller.send(caller.open(), "quick").status_code == 200


def test_a_stream_begins_before_the_latency_is_over(make_caller):
    caller = make_caller(latency=3600)
    session = caller.open()
    caller.http.stream = True
    with caller.send(session, stream=True) as answer:
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("Inquire", "collect"),
        ("Confirm", "confirm"),
        ("Failure", "errors"),
        ("Escalate", "targets"),
        ("SessionEnded", "reason"),
        ("Error", "httpStatus"),
    ],
)
def test_every_type_has_its_documented_fields(make_caller, kind, field):
    caller = make_caller(script={"answers": [{"type": kind}]})
    [message] = caller.send(caller.open()).json()["messages"]
    assert message["type"] == kind
    assert message["id"]
    assert field in message
    assert "feedbackId" in message


def test_no_match_says_so(make_caller):
    caller = make_caller(script={"answers": [{"match": "x", "text": "y"}]})
    assert "No scripted answer" in caller.send(caller.open(), "?").json()["messages"][0]["message"]


def test_python_script_sees_the_turn(make_caller, write):
    program = (
        "greeting = 'Hello from Python.'\n"
        "def answer(turn):\n"
        "    if turn.text == 'list':\n"
        "        return ['one', {'type': 'Escalate'}]\n"
        "    if turn.text == 'dict':\n"
        "        return {'type': 'Inquire', 'text': 'which?', 'latency': 0}\n"
        "    past = [old.text for old in turn.history]\n"
        "    return f'{turn.text} {turn.sequence_id} {turn.number} {turn.type} {turn.variables} {past} '"
        " + turn.session.session_id\n"
    )
    caller = make_caller(script=write("agent.py", program))
    start = caller.start(variables=[{"name": "a", "type": "Text", "value": "b"}]).json()
    session = start["sessionId"]
    assert start["messages"][0]["message"] == "Hello from Python."
    assert [m["type"] for m in caller.send(session, "list", 1).json()["messages"]] == ["Inform", "Escalate"]
    assert caller.send(session, "dict", 2).json()["messages"][0]["type"] == "Inquire"
    told = caller.send(session, "hi", 3).json()["messages"][0]["message"]
    assert told == f"hi 3 3 Text {{'a': 'b'}} ['list', 'dict'] {session}"


def test_script_may_be_a_function(make_caller):
    caller = make_caller(script=lambda turn: turn.text.upper())
    assert caller.send(caller.open(), "loud").json()["messages"][0]["message"] == "LOUD"


@pytest.mark.parametrize(
    "answer", [lambda _: 5, lambda _: 1 / 0, lambda _: {"type": "Shout"}, lambda _: [None]]
)
def test_a_failing_script_answers_500_and_says_why(make_caller, answer):
    caller = make_caller(script=answer)
    assert_refused(caller.send(caller.open()), 500, "<lambda>")
    assert caller.org.applied() == 0


def test_a_template_that_fails_names_its_entry(make_caller):
    caller = make_caller(script={"answers": [{"text": "{{ variables['none'] }}"}]})
    assert_refused(caller.send(caller.open()), 500, "answers[0]")


def test_templates_cannot_leave_their_sandbox(make_caller):
    caller = make_caller(script={"answers": [{"text": "{{ text.__class__.__mro__ }}"}]})
    assert_refused(caller.send(caller.open()), 500, "answers[0]")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("answers: [", "agent.yaml: "),
        ("- a", "a script is a mapping with any of greeting, agents, answers"),
        ("answer: []", "unknown key 'answer'"),
        ("answers: {}", "answers must be a list"),
        ("answers: [x]", r"answers\[0\]: an answer is a mapping"),
        ("answers: [{text: a}, {match: '('}]", r"answers\[1\]: match is not a valid regular expression"),
        ("answers: [{match: 5, text: a}]", "match is not a valid regular expression"),
        ("answers: [{match: a}]", r"answers\[0\]: it has no text"),
        ("answers: [{text: 5}]", "text must be a string"),
        ("answers: [{type: Shout}]", "unknown type 'Shout': one of Inform, Inquire"),
        ("answers: [{text: '{{ numbr }}'}]", r"answers\[0\]: unknown name 'numbr'"),
        ("answers: [{text: '{{ text'}]", r"answers\[0\]: "),
        ("answers: [{text: a, latency: soon}]", "latency must be a number"),
        ("answers: [{text: a, latency: -1}]", "latency must be a number"),
        ("answers: [{text: a, stream: {speed: 1}}]", "stream must be a mapping with any of progress"),
        ("answers: [{messages: x}]", "messages must be a list of mappings"),
        ("answers: [{messages: [], text: a}]", "messages cannot be combined with text"),
        ("greeting: [1]", "greeting must be a string"),
        ("agents: []", "agents must be a list"),
        ("agents: [{name: x}]", r"agents\[0\]: "),
        ("agents: [{developer_name: x, id: y}]", r"agents\[0\]: 'y' is not an agent id"),
    ],
)
def test_a_bad_yaml_script_names_file_and_entry(write, content, problem):
    path = write("agent.yaml", content)
    with pytest.raises(ScriptError, match=problem) as caught:
        Emulator(script=path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("agent.py", "x = 1", r"must define a function answer\(turn\)"),
        ("agent.py", "1 / 0", "ZeroDivisionError"),
        ("agent.py", "def answer(", "SyntaxError"),
        ("agent.txt", "x", "ends in .yaml, .yml or .py"),
    ],
)
def test_a_bad_script_file_names_itself(write, name, content, problem):
    with pytest.raises(ScriptError, match=problem):
        Emulator(script=write(name, content))


def test_a_missing_script_file_is_named(tmp_path):
    with pytest.raises(ScriptError, match="there is no such file"):
        Emulator(script=tmp_path / "none.yaml")
