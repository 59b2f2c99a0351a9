import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import yaml

from airflow_provider_agentforce.emulator import Emulator, EmulatorSettings, Fault
from airflow_provider_agentforce.emulator.__main__ import main
from airflow_provider_agentforce.emulator.errors import ERRORS
from airflow_provider_agentforce.emulator.messages import STREAM_KEYS

PAGE = Path(__file__).parents[2].joinpath("docs", "emulator.md").read_text(encoding="utf-8")
DEFAULTS = {
    **{name: argument.default for name, argument in inspect.signature(Emulator).parameters.items()},
    **{setting.name: setting.default for setting in dataclasses.fields(EmulatorSettings)},
}
del DEFAULTS["settings"]


def block(language, containing):
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return next(code for code in blocks if containing in code)


def test_every_error_name_is_documented():
    table = PAGE.partition("The names of the documented errors:")[2].partition("###")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(ERRORS)


def table_under(heading):
    """Return the first cell of each row of the first table under a heading, and the row."""
    lines = PAGE.partition(f"## {heading}\n")[2].partition("\n| ")[2].partition("\n\n")[0].splitlines()
    return {name: line for line in lines for name in re.findall(r"`(\w+)`", line.split("|")[1])}


@pytest.fixture
def options(capsys):
    """What ``--help`` says of each option."""
    with pytest.raises(SystemExit):
        main(["--help"])
    told = re.findall(r"^  --([a-z-]+)(.+?)(?=^  --|\Z)", capsys.readouterr().out, re.MULTILINE | re.DOTALL)
    return {name.replace("-", "_"): text for name, text in told}


@pytest.mark.parametrize(("name", "default"), DEFAULTS.items())
def test_every_setting_is_documented_with_its_default(options, name, default):
    row = table_under("Settings")[name]
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        assert f"{default:g}" in row.split("|")[2]
    assert (name in options) != ("not an option of the command" in row)


def test_only_settings_and_fields_that_exist_are_documented():
    assert set(table_under("Settings")) == set(DEFAULTS)
    assert set(table_under("Faults")) == {field.name for field in dataclasses.fields(Fault) if field.init}


def test_the_command_explains_every_setting(options):
    for setting in dataclasses.fields(EmulatorSettings):
        assert len(options[setting.name].partition("(default:")[0].split()) > 3, setting.name


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
    assert len(org.unused_faults()) == 7
    org.reset()


def test_the_example_with_records_runs(capsys):
    exec(block("python", "org.add_rule("), {})  # noqa: S102  # the page's own code
    assert capsys.readouterr().out == "None\n"
