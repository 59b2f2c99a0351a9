"""What errors show of arguments: never a private key that stands in the wrong place, nor a part of one."""

from __future__ import annotations

import base64
import json
import os
import textwrap
from datetime import timedelta
from urllib.parse import quote

import keys
import pytest
from airflow.sdk.log import mask_logs
from stand_ins import TaskInstance

from airflow_provider_agentforce.delivery import Ask, Check, Trace
from airflow_provider_agentforce.exceptions import AgentforceError, one_line, shown
from airflow_provider_agentforce.operators import (
    ConversationBatchOperator,
    ConversationOperator,
    ConversationTestOperator,
    EndSessionOperator,
    RunAgentTestOperator,
    SendMessageOperator,
    StartSessionOperator,
    WriteRecordsOperator,
    _base,
)
from airflow_provider_agentforce.sensors import AgentTestSensor
from airflow_provider_agentforce.testing import golden

PEM = keys.pem_of(keys.rsa_key(2))
FORMS = {
    "PEM": PEM,
    "end": PEM[200:],
    "beginning": PEM[:150],
    "body": keys.body_of(PEM),
    "one line": PEM.replace("\n", " "),
    "CRLF": PEM.replace("\n", "\r\n"),
    "JSON": json.dumps(PEM),
    "JSON in JSON": json.dumps(json.dumps({"private_key": PEM})),
    "Base64": base64.b64encode(PEM.encode()).decode(),
    "URL": quote(PEM),
    "path": f"file:///nowhere/{PEM}",
    "path of its body": f"file:///nowhere/{keys.body_of(PEM)}",
}


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_key_is_shown(form):
    for text in (shown(FORMS[form]), one_line(FORMS[form]), one_line(f"It is {FORMS[form]}, and no file.")):
        assert keys.quoted(PEM, text) == []
        assert "(a private key)" in text


def test_what_is_no_key_is_shown():
    paths = ("s3://bucket/a/b.csv", "file:///tmp/" + "x" * 250, "/data" + "/part" * 50)
    for text in (*paths, "word " * 12, "0Xx" + "a" * 15, "0123456789abcdef" * 16):
        assert one_line(text) == text.strip()
    assert shown("file:///a") == "'file:///a'"
    assert (shown(5), shown(None), shown(["secret"])) == ("5", "None", "list")
    assert shown("https://me:secret@acme.com") == "a URL with a password in it"


MADE = {
    ConversationTestOperator: {"conversations": "file:///c.yaml"},
    RunAgentTestOperator: {"test": "T"},
    AgentTestSensor: {"run_id": "r"},
    StartSessionOperator: {},
    SendMessageOperator: {"session_id": "s", "sequence_id": 0, "text": "t"},
    ConversationOperator: {"messages": ["t"]},
    EndSessionOperator: {"session_id": "s"},
    ConversationBatchOperator: {"records": [{"a": 1}], "message": "m", "result_path": "file:///r"},
    WriteRecordsOperator: {"results": "file:///r", "sobject": "Account", "fields": {"A__c": "x"}},
}
ARGUMENTS = [
    (kind, name)
    for kind in MADE
    for name in kind.__init__.__annotations__
    if name not in {"return", "kwargs"}
] + [
    (kind, name)
    for kind, names in {
        ConversationTestOperator: ("junit_path", "result_path", "agent_id", "min_pass_rate"),
        RunAgentTestOperator: ("junit_path", "result_path", "agent_id", "skip_if_passed_within"),
        SendMessageOperator: ("session_id", "output_type", "on_unknown_delivery", "store_plans"),
        ConversationBatchOperator: ("agent_id", "tz", "variables", "surface_type"),
    }.items()
    for name in names
]


@pytest.mark.parametrize("form", ["PEM", "end", "path", "path of its body"])
@pytest.mark.parametrize(("kind", "name"), ARGUMENTS, ids=lambda one: getattr(one, "__name__", one))
def test_no_argument_of_an_operator_shows_a_key(org, kind, name, form, capfd, caplog, tmp_path):
    usual = json.loads(json.dumps(MADE[kind]).replace("file:///", f"file://{tmp_path}/"))
    given = {**usual, name: FORMS[form]}
    if name in {"session", "session_id"}:
        given = {**given, "session_id": None, "session": None, name: FORMS[form]}
    told = ""
    try:
        kind(task_id="t", **given).execute({"ti": TaskInstance()})
    except Exception as error:  # noqa: BLE001 - whatever it says of the argument
        told = f"{error} {error.__cause__}"
    assert keys.quoted(PEM, told) == []
    logged = [record.getMessage() for record in caplog.records]
    assert keys.quoted(PEM, "".join([*capfd.readouterr(), *logged])) == []


KEY_FORMS = {
    "PEM": lambda pem: pem,
    "JSON": json.dumps,
    "Base64": lambda pem: base64.b64encode(pem.encode()).decode(),
    "body": keys.body_of,
}
# What else has to be left out where a field is given.
INSTEAD = {
    "session": ("session_id", "sequence_id"),
    "reply": ("text",),
    "cancel": ("text",),
    "soql": ("records", "key"),
    "continue_from": ("records", "message"),
}
TEMPLATED = [(kind, field) for kind in MADE for field in kind.template_fields]


def new_key():
    """Return what looks like a key that nothing has masked yet."""
    body = f"MIIEvQIBADANBgkqhkiG9w0BAQEFAASC{base64.b64encode(os.urandom(1190)).decode()}"
    lines = ["-----BEGIN PRIVATE KEY-----", *textwrap.wrap(body, 64), "-----END PRIVATE KEY-----"]
    return "\n".join(lines)


@pytest.mark.parametrize(("kind", "field"), TEMPLATED, ids=lambda one: getattr(one, "__name__", one))
def test_a_key_of_somewhere_else_is_masked_in_every_rendered_field(kind, field, monkeypatch):
    form = list(KEY_FORMS)[TEMPLATED.index((kind, field)) % len(KEY_FORMS)]
    template = "{{ params.key }}"
    # A batch renders each variable for each record.
    given = {**MADE[kind], field: {"k": template} if field == "variables" else template}
    for other in INSTEAD.get(field, ()):
        given.pop(other, None)
    operator, pem, hidden = kind(task_id="t", **given), new_key(), []
    key = KEY_FORMS[form](pem)
    # Airflow's masker takes long for what dozens of keys consist of.
    monkeypatch.setattr(_base, "mask_secret", hidden.append)
    context = {"ti": TaskInstance(), "params": {"key": key}}
    shown = str(operator.render_template(getattr(operator, field), context))
    for line in hidden:
        shown = shown.replace(line, "***")
    assert keys.quoted(key[48:-48] if form == "Base64" else pem, shown) == []


def test_airflow_shows_no_key_in_data_of_another_task():
    pem = new_key()
    operator = ConversationOperator(task_id="t", messages=["{{ 1 }}"])
    data = [{"text": "hi", "variables": {"k": pem}}]
    assert operator.render_template(data, {"ti": TaskInstance()}, None, {id(data)}) is data
    assert keys.quoted(pem, str(mask_logs(None, "info", {"event": data}))) == []


def test_other_base64_is_not_masked():
    picture = base64.b64encode(bytes(range(256)) * 4).decode()
    operator = ConversationOperator(task_id="t", messages=["{{ 1 }}"])
    rendered = operator.render_template(picture, {"ti": TaskInstance()})
    assert picture in str(mask_logs(None, "info", {"event": rendered}))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Check(PEM),
        lambda: Trace(PEM),
        lambda: Ask(timeout=PEM),
        lambda: Ask(assigned_users=[PEM]),
        lambda: Ask(notifiers=PEM),
        lambda: golden.read(f"name: {PEM!r}\nturns: {PEM!r}\n", "a.yaml"),
        lambda: golden.read(json.dumps({"name": "n", PEM: 1}), "a.yaml"),
        lambda: golden.read(PEM, "a.yaml"),
        lambda: RunAgentTestOperator(task_id="t", test="T", timeout=timedelta(0), path=PEM),
    ],
    ids=["Check", "Trace", "Ask.timeout", "users", "notifiers", "value", "name", "file", "path"],
)
def test_nothing_else_that_is_given_shows_a_key(make):
    with pytest.raises(AgentforceError) as caught:
        make()
    assert keys.quoted(PEM, str(caught.value)) == []
