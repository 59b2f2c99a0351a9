import inspect
import re
from pathlib import Path

import pytest
import yaml

from airflow_provider_agentforce.emulator import Emulator
from airflow_provider_agentforce.emulator.__main__ import _parser
from airflow_provider_agentforce.emulator.errors import ERRORS
from airflow_provider_agentforce.emulator.messages import STREAM_KEYS

PAGE = Path(__file__).parents[2].joinpath("docs", "emulator.md").read_text(encoding="utf-8")
SETTINGS = [name for name in inspect.signature(Emulator).parameters if name != "script"]


def block(language, containing):
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return next(code for code in blocks if containing in code)


def test_every_error_name_is_documented():
    table = PAGE.partition("The names of the documented errors:")[2].partition("###")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(ERRORS)


@pytest.mark.parametrize("name", ["script", *SETTINGS])
def test_every_setting_is_documented_with_its_default(name):
    table = PAGE.partition("## Settings")[2].partition("\n## ")[0]
    row = next(line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
    default = inspect.signature(Emulator).parameters[name].default
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        assert f"{default:g}" in row.split("|")[2]
    options = {option.dest for option in _parser()._actions}
    assert (name in options) != ("not an option of the command" in row)


def test_every_stream_key_is_documented():
    assert all(re.search(rf"^\| `{key}[`:]", PAGE, re.MULTILINE) for key in STREAM_KEYS)


def test_the_yaml_example_answers_as_it_says(make_caller):
    caller = make_caller(script=yaml.safe_load(block("yaml", "greeting:")))
    session = caller.open()
    answers = {
        text: caller.send(session, text).json()["messages"]
        for text in ("Order 7", "refund", "choose", "odd", "?")
    }
    assert answers["Order 7"][0]["message"] == "Order 7 has shipped. You said: Order 7"
    assert answers["refund"][0]["type"] == "Confirm"
    assert answers["choose"][0]["result"][0]["value"] == '{"times": ["09:00", "10:30"]}'
    assert set(answers["odd"][0]) == {"type", "message"}
    assert answers["?"][0]["message"] == "I did not understand."


def test_the_python_example_answers_as_it_says(make_caller, tmp_path):
    script = tmp_path / "agent.py"
    script.write_text(block("python", "def answer(turn)"), encoding="utf-8")
    caller = make_caller(script=script)
    session = caller.open()
    kinds = [m["type"] for m in caller.send(session, "a person").json()["messages"]]
    assert kinds == ["Inform", "Escalate"]
    assert caller.send(session, "hi", 2).json()["messages"][0]["message"] == "You are at turn 2 and said: hi"


def test_the_fault_examples_are_faults(make_org):
    org = make_org()
    exec(block("python", "org.fail("), {"org": org})  # noqa: S102  # the page's own code
    assert len(org.unused_faults()) == 5
