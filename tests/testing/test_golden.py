"""Golden conversations: what the YAML may say, and what an answer is compared with."""

from __future__ import annotations

import re
import sys
import textwrap

import pytest

from airflow_provider_agentforce.client import Reply, Turn
from airflow_provider_agentforce.exceptions import AgentforceInputError
from airflow_provider_agentforce.testing import golden
from airflow_provider_agentforce.testing.runner import ConversationTest, checks_of

WHOLE = r"""
name: refund policy
agent: Service_Agent
variables: {Locale: en_US}
turns:
  - say: Where is order 42?
    expect:
      outcome: answered
      contains: [being packed, "42"]
      not_contains: refund
      matches: "Order \\d+"
      check: "test_golden:names_no_person"
  - say: Please refund it.
    expect: {outcome: needs_confirmation}
  - reply: true
  - say: order 7 as json
    expect: {field: {status: has shipped, items: 3}}
"""


def names_no_person(turn):
    if "Mr" in turn.text:
        raise AssertionError("it names a person")


def boom(_turn):
    raise KeyError("boom")


def test_a_file_holds_one_conversation_or_several():
    (one,) = golden.read(WHOLE, "a.yaml")
    assert (one.name, one.agent, len(one.turns)) == ("refund policy", "Service_Agent", 4)
    assert one.variables == [{"name": "Locale", "type": "Text", "value": "en_US"}]
    assert one.turns[0].expected.contains == ("being packed", "42")
    assert one.turns[0].expected.not_contains == ("refund",)
    assert one.turns[2].said == Reply()
    listed = "\n- " + textwrap.indent(WHOLE.strip(), "  ").strip()
    other = listed.replace("refund policy", "another")
    assert [two.name for two in golden.read(listed + other, "a.yaml")] == ["refund policy", "another"]


# Modules that cannot be imported, and what is said of them.
BROKEN = {
    "check_syntax": ("def f(:", "SyntaxError"),
    "check_division": ("1 / 0", "ZeroDivisionError: division by zero"),
    "check_exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "check_skip": ("import pytest\npytest.skip('no', allow_module_level=True)", "Skipped: no"),
}
TURN = "name: a\nturns:\n  - say: Hi\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: the file must have fields: name"),
        ("[]", "line 1: the file must be a conversation"),
        ("name: a\n\nturn: []", "line 3: turn is not a field here; did you mean turns?"),
        ("name: a", "line 1: the file has no turns"),
        ("name: a\nturns: {}", "line 2: turns must be a list"),
        ("name: 7\nturns: [{say: Hi}]", "line 1: name must be a string .put it in quotes., but is 7"),
        (f"{TURN}  - say: yes", "line 4: turns[1].say must be a string .put it in quotes., but is True"),
        (f"{TURN}  - say: Hi\n    cancel: true", "line 4: turns[1] must have exactly one of say, reply"),
        (f"{TURN}  - {{}}", "line 4: turns[1] must have exactly one of"),
        (f"{TURN}  - reply: yes please", "line 4: turns[1].reply must be true, or a list"),
        (f"{TURN}    expect: {{}}", "line 4: turns[0].expect expects nothing"),
        (f"{TURN}    expect: {{contains: []}}", "line 4: turns[0].expect.contains must be a string, or"),
        (f"{TURN}    expect: {{matches: 'a{{99999999999}}'}}", "must be a regular expression"),
        (f"{TURN}    expect: {{field: {{d: [2026-01-01]}}}}", "d[0] is not JSON, but 2026-01-01 (date): put"),
        (f"{TURN}    expect: {{field: {{d: .nan}}}}", "field.d is not JSON, but nan (float)"),
        (f"{TURN}  - reply: [{{type: a, property: b, value: 2026-01-01}}]", "reply[0].value is not JSON"),
        (f"{TURN}  - cancel: false", "line 4: turns[1].cancel must be true"),
        (
            f"{TURN}    expect:\n      contain: [a]",
            "line 5: turns[0].expect.contain is not a field here; did you mean contains?",
        ),
        (f"{TURN}    expect: shipped", "line 4: turns[0].expect must have fields: outcome"),
        (f"{TURN}    expect:\n      outcome: anwered", "line 5: turns[0].expect.outcome must be one of"),
        (f"{TURN}    expect:\n      contains: [a, 1]", "line 5: turns[0].expect.contains[1] must be a str"),
        (f"{TURN}    expect:\n      matches: '('", "line 5: turns[0].expect.matches must be a regular"),
        (f"{TURN}    expect:\n      field: status", "line 5: turns[0].expect.field must be names"),
        (f"{TURN}    expect:\n      check: shipped", "line 5: turns[0].expect.check must be package.module"),
        (f"{TURN}    expect:\n      check: 'no.such:f'", "line 5: turns[0].expect.check cannot be imported"),
        (f"{TURN}    expect:\n      check: 'no_such:f'", "Its folder must be on sys.path"),
        (f"{TURN}    expect:\n      check: 're:no_such'", "line 5: turns[0].expect.check cannot be imported"),
        (f"{TURN}    expect:\n      check: 're:__doc__'", "line 5: turns[0].expect.check must be a function"),
        ("name: a\nagent: no agent\nturns: [{say: a}]", "line 2: agent cannot be used"),
        ("name: a\nvariables: {a: [1]}\nturns: [{say: a}]", "line 2: variables cannot be used"),
        ("name: a\nname: b\nturns: [{say: a}]", "line 2: name is given twice"),
        (f"{TURN}    expect:\n      field: {{1: a, '1': b}}", "line 5: 1 is given twice"),
        (f"{TURN}  - reply: []", "line 4: turns[1].reply must be true, or a list"),
        (f"{TURN}  - reply:\n    - {{typ: a}}", "line 5: turns[1].reply[0] cannot be used: it must have"),
        (f"{TURN}  - reply: [{{type: a, property: b, value: 2024-01-01}}]", "line 4: turns[1].reply[0]"),
        ("name: a\nturns:\n  - reply: true", "line 3: turns[0] has no question to answer"),
        ("name: a\nturns:\n  - cancel: true", "line 3: turns[0] has no question to answer"),
        *(
            (
                f"{TURN}    expect:\n      check: '{module}:f'",
                f"line 5: turns[0].expect.check cannot be imported: {error}",
            )
            for module, (_, error) in BROKEN.items()
        ),
        ("name: a\nturns:\n  - say: 2024-13-45", "line 3: turns[0].say cannot be read: 2024-13-45 is"),
        (f"{TURN}    expect:\n      field: {{a: !!bool abc}}", "line 5: turns[0].expect.field.a cannot"),
        (f"{TURN}    expect:\n      field: {{a: {'9' * 5000}}}", "line 5: turns[0].expect.field.a cannot"),
        (f"{TURN}    expect:\n      field: {{!!bool abc: 1}}", "line 5: turns[0].expect.field cannot"),
        ("name: a\nturns:\n  - say: a\x07", "line 3: not YAML: the character '\\x07' is not allowed"),
        (f"{TURN}    expect: {{<<: {{contains: a}}}}", "line 4: turns[0].expect is merged with <<"),
        ("name: a\n? [x]\n: b", "line 2: ['x'] is not a name"),
        ("name: a\nturns: [{say: a]", "line 2: not YAML"),
        ("name: a\n\tturns: b", "line 2: not YAML"),
        ("name: a\nturns: !!python/object:os.system []", "line 2: not YAML"),
        ("a: &a [*a]", "nested more than 50 levels deep"),
        ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(8)
        ), "more than 100,000 values"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_file_line_and_field(text, told, tmp_path, monkeypatch):
    for module, (source, _) in BROKEN.items():
        (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AgentforceInputError) as caught:
        golden.read(text, "refunds.yaml")
    assert str(caught.value).startswith("refunds.yaml")
    pattern = re.escape(told).replace(r"\.put", ".put").replace(r"quotes\.", "quotes.").replace(r"\|", "|")
    assert re.search(pattern, str(caught.value)), str(caught.value)


def expecting(text):
    lines = textwrap.indent(textwrap.dedent(text), "      ")
    return golden.read(f"{TURN}    expect:\n{lines}", "a.yaml")[0].turns[0].expected


def answer(text="Order 42 has shipped.", outcome="answered", **more):
    return Turn("s", 1, None, text, outcome, **more)


def failing(turn, expected):
    return [
        (check.kind, check.status, check.reason)
        for check in checks_of(turn, expecting(expected), "turn 1")
        if check.status != "passed"
    ]


@pytest.mark.parametrize(
    ("turn", "expected", "kinds"),
    [
        (answer(), "contains: [SHIPPED]", []),
        (answer(), "contains: [lost, shipped]", ["contains"]),
        (answer(), "not_contains: [Shipped, lost]", ["not_contains"]),
        (answer(), "matches: '^Order \\d+'", []),
        (answer(), "matches: 'ORD-'", ["matches"]),
        (answer(outcome="failed"), "contains: shipped", ["outcome"]),
        (answer(outcome="failed"), "outcome: failed", []),
        (answer(outcome="needs_input"), "outcome: answered", ["outcome"]),
        (answer('{"status": "shipped"}'), "field: {status: shipped}", []),
        (answer('It is {"order": {"n": 1}}.'), "field: {order.n: 1}", []),
        (answer('{"n": 1}'), "field: {n: true}", ["field"]),
        (answer('{"n": [1], "o": {"p": 1}}'), "field: {n: [true]}", ["field"]),
        (answer('{"n": [1], "o": {"p": 1}}'), "field: {o: {p: true}}", ["field"]),
        (answer('{"n": [1], "o": {"p": 1}}'), "field: {n: [1], o: {p: 1}}", []),
        (answer('It was {"n": 1}, and is {"n": 1, "m": 2}.'), "field: {n: 1, m: 2}", []),
        (answer('It was {"n": 1}, and is {"n": 2}.'), "field: {n: 1}", ["field"]),
        (answer('{"n": 1}'), "field: {m: 1}", ["field"]),
        (answer("no JSON"), "field: {m: null}", ["field"]),
        (answer(), "check: test_golden:names_no_person", []),
        (answer("Mr Smith"), "check: test_golden:names_no_person", ["check"]),
        (answer(), "check: test_golden:boom", ["check"]),
        (answer(), "check: test_golden:answer", ["check"]),
    ],
)
def test_an_answer_is_compared_with_what_is_expected(turn, expected, kinds):
    assert [kind for kind, _, _ in failing(turn, expected)] == kinds


def test_a_function_that_breaks_is_an_error_and_one_that_says_no_a_failure():
    assert failing(answer("Mr Smith"), "check: test_golden:names_no_person") == [
        ("check", "failed", "it names a person")
    ]
    ((_, status, reason),) = failing(answer(), "check: test_golden:boom")
    assert (status, "KeyError" in reason) == ("error", True)


def test_a_field_that_an_answer_has_with_different_values_is_an_error():
    said = answer('You sent {"n": 1}. I set {"n": 2}.')
    assert failing(said, "field: {n: 1}") == [
        ("field", "error", "the answer has several JSON values with this field, which differ: 1 and 2")
    ]


class UnprintableError(Exception):
    def __str__(self):
        raise RuntimeError("not printable")

    __repr__ = __str__


class UnprintableAssertionError(UnprintableError, AssertionError):
    pass


def unprintable(_turn):
    raise UnprintableError


def unprintable_assert(_turn):
    raise UnprintableAssertionError


def returns_unprintable(_turn):
    return UnprintableError()


def skips(_turn):
    pytest.skip("not today")


def fails(_turn):
    pytest.fail("it is late")


def exits(_turn):
    sys.exit(3)


@pytest.mark.parametrize(
    ("function", "status", "reason"),
    [
        ("skips", "error", "Skipped: not today"),
        ("fails", "error", "Failed: it is late"),
        ("exits", "error", "SystemExit: 3"),
        ("unprintable", "error", "UnprintableError: UnprintableError that cannot be printed"),
        ("unprintable_assert", "failed", "UnprintableAssertionError that cannot be printed"),
        ("returns_unprintable", "failed", "it returns UnprintableError that cannot be printed"),
    ],
)
def test_whatever_a_function_does_is_a_verdict(function, status, reason):
    assert failing(answer(), f"check: test_golden:{function}") == [("check", status, reason)]


def held(client, text):
    test = ConversationTest(client, golden.read(text, "a.yaml")[0])
    return test.hold(test.start())


def test_a_conversation_is_held_in_a_session_that_is_ended(org, client):
    case = held(client, WHOLE)
    assert (case.status, case.reason) == ("passed", "")
    (session,) = org.sessions.values()
    assert [turn.text or turn.type for turn in session.turns] == [
        *("Where is order 42?", "Please refund it.", "Reply", "order 7 as json")
    ]
    assert session.variables == {"Locale": "en_US"}
    assert (case.session_id, org.open_sessions) == (session.session_id, [])


def test_after_an_answer_that_is_not_as_it_must_be_nothing_more_is_said(org, client):
    case = held(
        client,
        "name: a\nturns:\n  - say: order 1\n    expect: {contains: lost}\n  - say: Please refund it.\n",
    )
    assert case.status == "failed"
    assert "turn 1: contains: expected 'lost', got" in case.reason
    assert org.applied() == 1
    assert org.open_sessions == []


@pytest.mark.parametrize(
    ("turns", "status", "reason"),
    [
        ("[{say: goodbye}, {say: Hi}]", "failed", "turn 2: the agent has ended the session|has ended"),
        ("[{say: Hi}, {reply: true}]", "error", "turn 2: reply has nothing to answer"),
        ("[{say: please fail}]", "failed", "turn 1: outcome"),
    ],
)
def test_what_cannot_go_on_says_at_which_turn(org, client, turns, status, reason):
    case = held(client, f"name: a\nturns: {turns}")
    assert case.status == status
    assert re.search(reason, case.reason), case.reason
    assert org.open_sessions == []


def test_a_message_that_may_have_arrived_is_an_error_and_is_said_once(org, client):
    org.fail("send", drop=True, after=True)
    case = held(client, "name: a\nturns: [{say: order 1}]")
    assert case.status == "error"
    assert "cannot be known" in case.reason
    assert org.applied("order 1") == 1
