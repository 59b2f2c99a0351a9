"""What an answer is made into when a pydantic model, a TypedDict or a JSON schema says what it has to be."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from real_airflow import until
from typing_extensions import TypedDict

from airflow_provider_agentforce.client import Turn
from airflow_provider_agentforce.exceptions import AgentforceInputError, InvalidOutputError
from airflow_provider_agentforce.structured import OutputType, checker_process, json_in_answer
from airflow_provider_agentforce.structured.json_in_answer import json_in


class Risk(Enum):
    LOW = "low"
    HIGH = "high"


class Order(BaseModel):
    order: str
    items: int = Field(ge=1)
    due: date | None = None
    risk: Risk = Risk.LOW


class Typed(TypedDict):
    order: str
    items: int


@dataclass
class Plain:
    order: str
    items: int


SCHEMA = {
    "type": "object",
    "properties": {"order": {"type": "string"}, "items": {"$ref": "#/$defs/count"}},
    "required": ["order", "items"],
    "$defs": {"count": {"type": "integer", "minimum": 1}},
}
ANSWER = {"order": "4711", "items": 3}


def turn(text="", *, outcome="answered", results=()):
    return Turn("session", 1, "agent", text, outcome, results=list(results))


def custom(value, kind="SURFACE_ACTION__Order_0Xs000000000001"):
    return {"type": kind, "property": "", "value": value}


def refused(output_type, answer):
    with pytest.raises(InvalidOutputError) as caught:
        OutputType(output_type).read(answer if isinstance(answer, Turn) else turn(answer))
    return caught.value


class TestForms:
    @pytest.mark.parametrize("kind", [Typed, Plain, SCHEMA])
    def test_every_form_gives_the_same_plain_dict(self, kind):
        assert OutputType(kind).read(turn(json.dumps(ANSWER))) == ANSWER

    def test_a_model_fills_in_defaults_and_drops_what_it_does_not_know(self):
        value = OutputType(Order).read(turn('{"order": "1", "items": "2", "note": "x"}'))
        assert value == {"order": "1", "items": 2, "due": None, "risk": "low"}

    def test_dates_and_enums_are_written_as_json(self):
        value = OutputType(Order).read(
            turn('{"order": "1", "items": 2, "due": "2026-12-24", "risk": "high"}')
        )
        assert value["due"] == "2026-12-24"
        assert value["risk"] == "high"
        assert json.loads(json.dumps(value)) == value

    def test_a_strict_model_still_reads_dates_from_text(self):
        class Strict(BaseModel):
            model_config = ConfigDict(strict=True)
            due: date

        assert OutputType(Strict).read(turn('{"due": "2026-12-24"}')) == {"due": "2026-12-24"}

    def test_a_value_can_be_given_to_its_model_again(self):
        class Aliased(BaseModel):
            number: str = Field(alias="orderNumber")

        value = OutputType(Aliased).read(turn('{"orderNumber": "7"}'))
        assert Aliased.model_validate(value).number == "7"

    @pytest.mark.parametrize(
        ("kind", "text", "value"),
        [
            (list[Order], '[{"order": "1", "items": 1}]', [{**ANSWER, "order": "1", "items": 1}]),
            (list[int], "Here: [1, 2]", [1, 2]),
            (int, "42", 42),
            (Literal["yes", "no"], '"yes"', "yes"),
            (dict[str, Any], 'x {"a": {"b": null}} y', {"a": {"b": None}}),
            (int | None, "null", None),
            (Annotated[int, Field(gt=1)], "2", 2),
            ({}, "true", True),
            ({"type": "array"}, "[1]", [1]),
        ],
    )
    def test_any_json_can_be_asked_for(self, kind, text, value):
        read = OutputType(kind).read(turn(text))
        if kind == list[Order]:
            value = [{"order": "1", "items": 1, "due": None, "risk": "low"}]
        assert read == value

    def test_the_schema_is_there_for_the_message(self):
        assert OutputType(SCHEMA).schema == SCHEMA
        assert set(OutputType(Order).schema["properties"]) == {"order", "items", "due", "risk"}

    def test_a_schema_of_an_older_draft_is_read_by_its_rules(self):
        old = {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True}
        assert OutputType(old).read(turn("2")) == 2
        assert "less than or equal" in str(refused(old, "1"))

    def test_a_format_is_checked(self):
        assert "is not a 'date'" in str(refused({"format": "date"}, '"tomorrow"'))


class TestWrongType:
    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            ("Order", "value of type str"),
            (None, "value of type NoneType"),
            (Order(order="1", items=1), "value of type Order"),
            (len, "value of type builtin_function_or_method"),
            (lambda value: value, "value of type function"),
            ([Order], "value of type list"),
            (type("Any", (), {}), "knows no JSON form of Any"),
            ({"order": "string"}, "no keyword of JSON schema"),
            ({"type": "text"}, "not a JSON schema"),
            ({"type": str}, "not a JSON schema"),
            ({"pattern": "("}, "not a JSON schema"),
            ({"minimum": float("nan")}, "not a JSON schema"),
            ({"$schema": "https://example.com/mine", "type": "object"}, "unknown $schema"),
            ({"$ref": "#/$defs/none"}, "cannot be resolved"),
            ({"properties": {"a": {"$ref": "https://example.com/a.json"}}}, "cannot be resolved"),
            ({"$schema": 3, "type": "object"}, "unknown $schema: 3"),
        ],
    )
    def test_it_is_named_before_anything_is_sent(self, kind, said):
        with pytest.raises(AgentforceInputError) as caught:
            OutputType(kind)
        assert "output_type" in str(caught.value)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_property_that_is_called_ref_is_no_reference(self):
        kind = {"properties": {"$ref": {"type": "string"}}, "enum": [{"$ref": "x"}]}
        assert OutputType(kind).read(turn('{"$ref": "x"}')) == {"$ref": "x"}

    @pytest.mark.skipif(sys.version_info >= (3, 12), reason="there it is taken")
    def test_the_old_typed_dict_is_refused_with_the_way_out(self):
        from typing import TypedDict as OldTypedDict  # noqa: PLC0415

        with pytest.raises(AgentforceInputError, match=r"use `typing_extensions\.TypedDict`"):
            OutputType(OldTypedDict("Old", {"a": int}))

    @pytest.mark.parametrize(("library", "kind"), [("pydantic", int), ("jsonschema", {})])
    def test_a_missing_library_is_named_with_what_to_install(self, library, kind, monkeypatch):
        for name in [name for name in sys.modules if name.split(".")[0] == library]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(AgentforceInputError, match=f"output_type needs {library}") as caught:
            OutputType(kind)
        assert "airflow-provider-agentforce[structured]" in str(caught.value)

    def test_no_library_is_loaded_before_a_type_is_made(self):
        code = "import sys, airflow_provider_agentforce.structured; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
        assert {"pydantic", "jsonschema", "referencing"} & set(done.stdout.split()) == set()


class Left(BaseModel):
    """A type whose values hold one of two, at any depth."""

    of: Left | Right | None = None


class Right(BaseModel):
    of: Left | Right | None = None


def nested(depth, value):
    return '{"of":' * depth + value + "}" * depth


NESTED = '{"a": ' * 25 + "1" + "}" * 25
TWICE = {"properties": {"a": {"$ref": "#"}}}
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
MANY = json.dumps({"a": [{"n": number} for number in range(9000)]})


USUAL = {
    "type": "object",
    "properties": {
        "order": {"type": ["string", "null"], "description": "Its number."},
        "mail": {"type": "string", "format": "email"},
        "at": {"type": "string", "format": "date-time"},
        "lines": {"type": "array", "uniqueItems": True, "items": {"type": "object", "required": ["sku"]}},
        "kind": {"anyOf": [{"const": 1}, {"enum": ["a", "b"]}]},
    },
    "additionalProperties": {"minimum": 1},
}


class TestTime:
    """A check of a schema has an end, whatever the answer is, and what is legitimate fits."""

    @pytest.mark.parametrize(
        ("schema", "answer"),
        [
            ({"items": {"pattern": "^(a+)+$"}}, json.dumps(["a" * 60 + "!"])),
            ({"patternProperties": {"^(a+)+$": {}}}, json.dumps({"a" * 60 + "!": 1})),
            (
                {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False},
                json.dumps({"a" * 60 + "!": 1}),
            ),
            ({"anyOf": [{**TWICE, "required": ["b"]}, TWICE]}, NESTED),
            ({"oneOf": [{**TWICE, "required": ["b"]}, TWICE]}, NESTED),
            ({"allOf": [TWICE], **TWICE}, NESTED),
            ({"allOf": [TWICE], "unevaluatedProperties": False}, NESTED),
            ({"dependentSchemas": {"a": TWICE}, **TWICE}, NESTED),
            (
                {
                    "$schema": DRAFT_7,
                    "properties": {"a": {"$ref": "#"}},
                    "items": {"properties": {"n": {}}},
                    "uniqueItems": True,
                },
                MANY,
            ),
            ({"items": {"enum": [f"code {n}" for n in range(20_000)]}}, json.dumps(["code 19999"] * 6000)),
            ({"items": {"format": "regex"}}, json.dumps(["(?i)" + "[\x01-\U0010ffff]" * 5000])),
            (
                {
                    "$ref": "#/$defs/twice",
                    "$defs": {
                        "once": {"properties": {"a": {"$ref": "#/$defs/twice"}}},
                        "twice": {"$ref": "#/$defs/once", "properties": {"a": {"$ref": "#/$defs/twice"}}},
                    },
                },
                NESTED,
            ),
            ({"properties": {"a": {"$schema": DRAFT_7, "uniqueItems": True}}}, MANY),
            (Left, nested(25, "5")),
            (Left, nested(60, "null")),
        ],
        ids=range(15),
    )
    def test_a_check_without_end_is_given_up_and_says_so(self, schema, answer, monkeypatch):
        monkeypatch.setattr(checker_process, "SECONDS", 0.2)
        output, begun = OutputType(schema), time.process_time()
        with pytest.raises(InvalidOutputError, match=r"takes more than 0\.2 s to check"):
            output.read(turn(answer))
        assert time.process_time() - begun < 2, "The process of the task does not do the work."
        if isinstance(schema, dict):
            assert output.read(turn("{}")) == {}
        else:
            assert output.read(turn(nested(3, "null")))["of"]["of"] == {"of": None}

    def test_what_cannot_take_long_needs_no_process(self, monkeypatch):
        monkeypatch.setattr(checker_process, "_PROGRAM", "raise SystemExit")
        monkeypatch.setattr(os, "fork", lambda: pytest.fail("a fork"))
        for kind in (SCHEMA, Order, list[Order], USUAL, Left):
            OutputType(kind).read(turn(json.dumps([ANSWER] * 30 if kind == list[Order] else ANSWER)))

    def test_a_deep_answer_of_a_type_is_read_in_a_fork(self):
        """It fits or not as it does in this process."""
        before, output = children(), OutputType(Left)
        value = output.read(turn(nested(13, "null")))
        assert json.dumps(value, separators=(",", ":")) == nested(13, "null")
        error = refused(Left, nested(13, "5"))
        assert "Input should be an object (and 8191 more)" in str(error)
        assert len(error.problems) == 3
        assert children() == before

    @pytest.mark.parametrize(
        "item", [lambda n: {"n": n}, lambda n: [n, str(n)], lambda n: n if n % 2 else str(n)]
    )
    def test_many_unique_items_are_checked_in_the_time_of_reading_them(self, item):
        output = OutputType({"type": "array", "uniqueItems": True})
        items = [item(number) for number in range(8000)]
        begun = time.process_time()
        assert output.read(turn(json.dumps(items))) == items
        assert time.process_time() - begun < 5
        assert "has non-unique elements" in str(refused({"uniqueItems": True}, json.dumps([*items, item(7)])))

    @pytest.mark.parametrize(
        ("items", "unique"),
        [
            ("[1, 1.0]", False),
            ("[1, true]", True),
            ('[{"a": 1, "b": 2}, {"b": 2.0, "a": 1}]', False),
            ("[[0], [false]]", True),
        ],
    )
    def test_items_are_the_same_as_json_schema_says(self, items, unique):
        if unique:
            assert OutputType({"uniqueItems": True}).read(turn(items)) == json.loads(items)
        else:
            refused({"uniqueItems": True}, items)

    def test_an_answer_with_many_errors_quotes_few_of_them(self):
        schema = {"type": "array", "items": {"enum": [f"country {number}" for number in range(2000)]}}
        begun = time.process_time()
        refused(schema, json.dumps(["x"] * 16_000))
        assert time.process_time() - begun < 2

    @pytest.mark.parametrize("pattern", [r"^(?!\s*$).+", r"^\d{4}-\d{2}$", r"^[\[a-z]+$"])
    def test_a_pattern_means_what_it_means_to_python(self, pattern):
        output = OutputType({"type": "object", "properties": {"x": {"type": "string", "pattern": pattern}}})
        for text in ("2026-11", "abc", " ", ""):
            answer = turn(json.dumps({"x": text}))
            if re.search(pattern, text):
                assert output.read(answer) == {"x": text}
            else:
                with pytest.raises(InvalidOutputError, match="x: "):
                    output.read(answer)

    def test_the_process_of_the_check_may_die_and_is_started_again(self):
        output, others = OutputType({"type": "string", "pattern": "^a"}), children()
        assert output.read(turn('"a"')) == "a"
        (child,) = children() - others
        os.kill(child, signal.SIGKILL)
        until("the process is gone", lambda: child not in children())
        with pytest.raises(InvalidOutputError, match="could not be checked"):
            output.read(turn('"a"'))
        assert output.read(turn('"a"')) == "a"

    def test_no_process_is_left_when_the_type_is_gone_or_the_task_is_killed(self):
        code = (
            "import os, signal\n"
            "from airflow_provider_agentforce.client import Turn\n"
            "from airflow_provider_agentforce.structured import OutputType\n"
            "output = OutputType({'type': 'string', 'pattern': '^a'})\n"
            "output.read(Turn('s', 1, 'a', '\"a\"', 'answered'))\n"
            "print(open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read(), flush=True)\n"
        )
        for end in ("", "os.kill(os.getpid(), signal.SIGKILL)"):
            done = subprocess.run(
                [sys.executable, "-c", code + end], capture_output=True, text=True, check=False
            )
            child = int(done.stdout)
            until("the process is gone", lambda child=child: has_ended(child))

    def test_a_file_in_the_working_folder_is_no_module_of_the_process(self, tmp_path, monkeypatch):
        (tmp_path / "json.py").write_text("raise SystemExit(1)")
        monkeypatch.chdir(tmp_path)
        assert OutputType({"type": "string", "pattern": "^a"}).read(turn('"a"')) == "a"

    def test_a_process_that_was_forked_has_a_process_of_its_own_for_the_check(self):
        code = (
            "import os, sys\n"
            "from airflow_provider_agentforce.client import Turn\n"
            "from airflow_provider_agentforce.structured import OutputType\n"
            "output = OutputType({'type': 'string', 'pattern': '^.$'})\n"
            "def read(text): return output.read(Turn('s', 1, 'a', text, 'answered'))\n"
            "read('\"a\"')\n"
            "child = os.fork()\n"
            "if not child: sys.exit(read('\"b\"') != 'b')\n"
            "assert os.waitpid(child, 0)[1] == 0\n"
            "assert read('\"c\"') == 'c'\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def has_ended(process):
    status = Path(f"/proc/{process}/status")
    return not status.exists() or "zombie" in status.read_text()


def children():
    """Return the processes that this one has started and that still run."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in listed if "zombie" not in Path(f"/proc/{pid}/status").read_text()}


class TestFinding:
    @pytest.mark.parametrize(
        "text",
        [
            '{"order": "4711", "items": 3}',
            '  \n{"order": "4711", "items": 3}\n',
            '```json\n{"order": "4711", "items": 3}\n```',
            'Here it is:\n```\n{"order": "4711",\n "items": 3}\n```\nAnything else?',
            'Sure!\r\n~~~JSON\r\n{"order": "4711", "items": 3}\r\n~~~\r\n',
            'One line: ```json {"order": "4711", "items": 3}``` done',
            'The order is {"order": "4711", "items": 3}, I think.',
            'See [1] and [the page](https://x.y/{z}) {sic}: {"order": "4711", "items": 3}',
            '{"order": 4711} was wrong, right is {"order": "4711", "items": 3}',
            '{"wrong": 1}\n```json\n{"order": "4711", "items": 3}\n```',
            '```json\n{"wrong": 1}\n```\n```json\n{"order": "4711", "items": 3}\n```',
            '```\nno json\n```\n{"order": "4711", "items": 3}',
            '5" pipe [see "A"] {"order": "4711", "items": 3}',
        ],
    )
    def test_the_json_is_found_wherever_it_stands(self, text):
        assert OutputType(SCHEMA).read(turn(text)) == ANSWER

    @pytest.mark.parametrize("value", [json.dumps(ANSWER), ANSWER, f"\n{json.dumps(ANSWER)} "])
    def test_the_result_of_a_custom_connection_is_taken_before_the_text(self, value):
        answer = turn('{"order": "other", "items": 9}', results=[custom(value)])
        assert OutputType(SCHEMA).read(answer) == ANSWER

    def test_what_actions_returned_is_not_the_answer(self):
        answer = turn("Done.", results=[custom(ANSWER, "copilotActionOutput/Get_Order_179"), "x", None])
        assert "holds no valid JSON" in str(refused(SCHEMA, answer))

    @pytest.mark.parametrize("value", ["no json", None, 3, '{"order": 1}', "{"])
    def test_a_result_that_does_not_fit_leaves_it_to_the_text(self, value):
        assert OutputType(SCHEMA).read(turn(json.dumps(ANSWER), results=[custom(value)])) == ANSWER

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "Order 4711 has 3 items.",
            '{"a": 1, "b": {"order": "4711", "items": 3}',
            '{"a": 1, // a remark\n "b": {"order": "4711", "items": 3}}',
            '```json\n[{"a": 1}, oops, {"order": "4711", "items": 3}]\n```',
            '{"a": NaN, "b": {"order": "4711", "items": 3}}',
            '{"order": "4711", "items": Infinity}',
            '{"order": "47\n11", "items": 3}',
            "{'order': '4711', 'items': 3}",
            "[" * 100_000 + "]" * 100_000,
        ],
    )
    def test_a_piece_of_something_broken_never_passes_for_the_answer(self, text):
        assert "holds no valid JSON" in str(refused({"required": []}, text))

    def test_a_part_of_a_whole_answer_never_passes_for_it(self):
        assert refused(SCHEMA, json.dumps({"wrapped": ANSWER})).problems

    def test_the_first_that_fits_is_taken(self):
        first = '```\n{"order": "1", "items": 1}\n```\n```\n{"order": "2", "items": 2}\n```'
        assert OutputType(SCHEMA).read(turn(first))["order"] == "1"

    def test_what_no_database_stores_is_replaced(self):
        text = r'{"order": "a\u0000b\ud800c", "items": 3, "big": 123456789012345678901234567890}'
        value = OutputType(SCHEMA).read(turn(text))
        assert value == {
            "order": "a\ufffdb\ufffdc",
            "items": 3,
            "big": "123456789012345678901234567890",
        }

    def test_doubled_keys_are_read_as_python_reads_them(self):
        assert OutputType(SCHEMA).read(turn('{"order": "1", "order": "2", "items": 1}'))["order"] == "2"


class TestErrors:
    def test_the_path_and_the_reason_are_named_and_the_answer_is_not(self):
        class Orders(BaseModel):
            orders: list[Order]

        text = json.dumps({"orders": [ANSWER, {"order": "secret-4711", "items": "many"}]})
        error = refused(Orders, text)
        assert str(error).startswith(
            "The answer does not fit output_type: orders[1].items: Input should be a valid integer"
        )
        assert "secret" not in str(error)
        assert (error.applied, error.retryable, error.session_id) == (True, False, "session")
        assert error.turn.text == text

    @pytest.mark.parametrize(
        ("schema", "answer", "problem"),
        [
            (SCHEMA, {"order": "secret", "items": "secret"}, "items: is not of type 'integer'"),
            (SCHEMA, {"order": "secret"}, "'items' is a required property"),
            ({"anyOf": [{"type": "array"}, {"minimum": 3, "type": "number"}]}, "secret", "type"),
            ({"oneOf": [{}, {}]}, {"secret": "secret"}, "is valid under each of"),
            (
                {"properties": {"a": False}},
                {"a": "secret"},
                "the schema allows no value here",
            ),
            ({"items": {"maxLength": 2}}, ["", "secret"], "[1]: is too long"),
        ],
    )
    def test_a_schema_s_reason_comes_without_the_value(self, schema, answer, problem):
        error = refused(schema, json.dumps(answer))
        assert problem in str(error)
        assert "secret" not in str(error)

    def test_several_problems_are_counted(self):
        error = refused(Order, "{}")
        assert "order: Field required (and 1 more)." in str(error)
        assert error.problems == ("order: Field required", "items: Field required")

    def test_the_longest_piece_is_the_one_that_is_explained(self):
        assert "items: Field required" in str(refused(Order, 'See [1]: {"order": "4711"} and [2].'))

    def test_code_of_the_type_that_breaks_is_an_answer_that_does_not_fit(self):
        class Broken(BaseModel):
            a: int

            @pydantic.field_validator("a")
            @classmethod
            def _look_up(cls, value):
                return {}[value]

        error = refused(Broken, '{"a": 1}')
        assert "output_type raised KeyError" in str(error)

    def test_a_value_too_deep_for_its_schema_does_not_fit(self):
        schema = {"items": {"$ref": "#"}, "type": "array"}
        text = "[" * 300 + "]" * 300
        assert "nested too deep" in str(refused(schema, text))

    def test_it_can_be_sent_between_processes(self):
        error = pickle.loads(pickle.dumps(refused(Order, "{}")))  # noqa: S301 - ours
        assert isinstance(error, InvalidOutputError)
        assert error.turn.session_id == "session"
        assert error.problems[0] == "order: Field required"


class TestOutcomes:
    @pytest.mark.parametrize("outcome", ["needs_input", "needs_confirmation", "escalated", "failed"])
    def test_what_carries_no_answer_has_no_result(self, outcome):
        assert OutputType(Typed).result_of(turn(json.dumps(ANSWER), outcome=outcome)) is None

    def test_an_answer_is_read(self):
        assert OutputType(Typed).result_of(turn(json.dumps(ANSWER))) == ANSWER
        with pytest.raises(InvalidOutputError):
            OutputType(Typed).result_of(turn("Hello"))

    def test_last_words_count_if_they_fit(self):
        assert OutputType(Typed).result_of(turn(json.dumps(ANSWER), outcome="ended")) == ANSWER
        assert OutputType(Typed).result_of(turn("Goodbye!", outcome="ended")) is None


class TestQuestion:
    def test_it_says_what_is_wrong_and_what_is_wanted(self):
        question = OutputType(Order).question(refused(Order, '{"order": "4711", "items": 0}'))
        assert "items: Input should be greater than or equal to 1" in question
        assert "JSON only" in question
        assert '"minimum": 1' in question

    def test_it_asks_for_json_when_there_was_none(self):
        assert "it holds no valid JSON" in OutputType(Order).question(refused(Order, "Hello"))

    def test_a_long_schema_is_told_by_its_properties(self):
        long = {"type": "object", "properties": {f"p{n}": {"description": "x" * 90} for n in range(99)}}
        question = OutputType(long).question(refused(long, "Hello"))
        assert "object with the properties p0, p1, " in question
        assert len(question) < 5000

    def test_it_is_bounded_whatever_the_answer_holds(self):
        strict = {"additionalProperties": False, "properties": {"ä\ud800": {}}}
        error = refused(strict, json.dumps({f"{n}" * 500: n for n in range(500)}))
        question = OutputType(strict).question(error)
        assert len(question) < 5000
        assert question.encode()
        assert len(str(error)) < 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
PROSE = st.text("abc .,!'\n()5", max_size=30)
HOSTILE = st.text('[]{}",:\\`~ntf01 \n', max_size=200)


class TestAnyText:
    @given(PROSE, st.lists(JSON, max_size=3) | st.dictionaries(st.text(max_size=4), JSON, max_size=3), PROSE)
    def test_json_between_sentences_is_found_as_it_is(self, before, value, after):
        found = [piece.value for piece in json_in(turn(f"{before}{json.dumps(value)}{after}"))]
        kept = json.loads(json.dumps(value).replace("\\u0000", "\\ufffd"))
        assert kept in found

    @given(JSON)
    def test_json_in_a_fence_is_found_as_it_is(self, value):
        found = next(iter(json_in(turn(f"Here:\n```json\n{json.dumps(value, indent=1)}\n```\n"))))
        assert found.value == json.loads(json.dumps(value).replace("\\u0000", "\\ufffd"))

    @given(HOSTILE)
    def test_any_text_yields_json_or_nothing(self, text):
        for piece in json_in(turn(text)):
            assert json.loads(piece.text) == piece.value

    @pytest.mark.parametrize(
        "text",
        [
            "[" * 1_000_000,
            "{" * 1_000_000,
            '{"a":' * 300_000,
            "[1 " * 400_000,
            "[x" * 600_000,
            '["' * 600_000,
            '[", ' * 400_000,
            '["\\"' * 400_000,
            "[ " + "[],{}," * 200_000,
            "[] " * 400_000,
            "```\n" * 300_000,
            "```\n[1,\n" * 150_000,
            "`" * 1_000_000,
            " " * 1_000_000 + "[",
            "[" + " " * 1_000_000,
            ("[" + " " * 500) * 2_000,
            "[" + "1" * 1_000_000,
            "[" + "1," * 500_000 + "x" + "]",
            '"' * 1_000_000,
            "\\" * 1_000_000,
            "[NaN," * 250_000,
            "[" * 500 + "1 " + ("]" * 499 + "[" * 499) * 900,
        ],
        ids=range(22),
    )
    def test_a_hostile_megabyte_takes_no_more_than_a_moment(self, text):
        """A search that grew with the square of the text would take minutes."""
        begun = time.process_time()
        pieces = list(json_in(turn(text)))
        assert time.process_time() - begun < 5
        assert len(pieces) <= json_in_answer._MOST_FOUND
